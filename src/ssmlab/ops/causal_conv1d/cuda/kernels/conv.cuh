// What the kernels of the causal convolution share: arguments, rows of channels, segments of time.
//
// x (B, L, D) with channels side by side; rows of it may lie apart (a half of a wider projection).
// A segment is a run of rows between which inputs pass: a sequence of the batch, one of the packed
// sequences, or a run of equal seq_idx. Before its first row come the rows of its state, or zeros.

struct ConvArgs {
  const void* x;        // (B, L, D)
  const void* grad;     // (B, L, D), gradient of y
  const float* weight;  // (D, W)
  const float* bias;    // (D,) or null
  const void* state;    // (B or S, W-1, D), or null
  const void* offsets;  // (S + 1,), or null
  const void* seq_idx;  // (B, L), or null
  void* y;              // (B, L, D): y, or the gradient of x
  void* grad_state;     // as state, or null
  float* partial;       // (time tiles of all sequences, W + 1, D): sums for the weight and the bias
  float* slope;         // (B, L, D), any width only: gradient of the sum before SiLU
  i64 x_batch, x_row, grad_batch, grad_row, y_batch, y_row;  // strides in elements
  i64 batch, length, channels, width, sequences;
  i64 wide_index;  // offsets and seq_idx are int64, else int32
  i64 rows;        // time steps a warp walks
  i64 silu;
};

// The segment that a row lies in, carried along as a warp walks over time. All lanes of a warp look
// at the same rows, so nothing here diverges. Offsets that make no sense (they are checked on the
// CPU only) give wrong sums and never an access outside the tensors.
struct Segments {
  const void* offsets;
  const void* seq;  // of this sequence of the batch
  bool wide;
  i64 count, length;
  i64 start, next;  // rows [start, next); with seq_idx, next is unknown
  i64 index;        // whose state it is

  static __device__ __forceinline__ i64 at(const void* p, i64 i, bool wide) {
    return wide ? static_cast<const i64*>(p)[i] : i64(static_cast<const int*>(p)[i]);
  }

  // The segment of row t; of runs of equal seq_idx, at most `reach` rows back are looked at.
  __device__ __forceinline__ Segments(const ConvArgs& a, i64 b, i64 t, i64 reach)
      : offsets(a.offsets), wide(a.wide_index != 0), count(a.sequences), length(a.length) {
    const i64 size = wide ? 8 : 4;
    seq = a.seq_idx ? static_cast<const char*>(a.seq_idx) + b * a.length * size : nullptr;
    start = 0;
    next = length;
    index = b;
    if (offsets) {
      i64 low = 0, high = count;  // the first offset above t lies in (low, high]
      while (low < high) {
        const i64 middle = (low + high) >> 1;
        if (at(offsets, middle, wide) > t) {
          high = middle;
        } else {
          low = middle + 1;
        }
      }
      index = low > 0 ? low - 1 : 0;
      if (index > count - 1) index = count - 1;
      start = at(offsets, index, wide);
      start = start < 0 ? 0 : (start > t ? t : start);
      find_end(t);
    } else if (seq) {
      start = t;
      while (start > 0 && t - start < reach && at(seq, start - 1, wide) == at(seq, t, wide)) --start;
    }
  }

  __device__ __forceinline__ void find_end(i64 t) {
    next = at(offsets, index + 1, wide);
    if (next <= t || next > length) next = length;
  }

  // Whether row t, the one after the last, begins another segment.
  __device__ __forceinline__ bool begins(i64 t) const {
    if (offsets) return t >= next;
    return seq && at(seq, t, wide) != at(seq, t - 1, wide);
  }

  __device__ __forceinline__ void enter(i64 t) {
    start = t;
    if (!offsets) return;
    while (index + 1 < count && at(offsets, index + 1, wide) <= t) ++index;
    find_end(t);
  }

  __device__ __forceinline__ bool padding(i64 t) const { return seq && at(seq, t, wide) < 0; }
};

// Where a block works: 32 lanes side by side over channels, its warps one after another over time.
template <int V>
struct Place {
  i64 batch, first_row, last_row, channel, slot;
  bool active;

  __device__ __forceinline__ explicit Place(const ConvArgs& a) {
    const u32 chunks = u32((a.channels + 32 * V - 1) / (32 * V));
    const u32 warps = blockDim.x / 32, warp = threadIdx.x / 32;
    const u32 tiles = u32((a.length + a.rows * warps - 1) / (a.rows * warps));
    const u32 rest = blockIdx.x / chunks;
    slot = rest;
    batch = rest / tiles;
    channel = i64((blockIdx.x % chunks) * 32 + threadIdx.x % 32) * V;
    first_row = (i64(rest % tiles) * warps + warp) * a.rows;
    last_row = first_row + a.rows < a.length ? first_row + a.rows : a.length;
    active = channel < a.channels && first_row < a.length;
  }
};
