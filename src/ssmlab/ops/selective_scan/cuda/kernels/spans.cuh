// How the work of a scan is laid out over blocks, shared by all its kernels.
//
// A sequence is cut into chunks of `chunk` steps (a multiple of 16; one chunk if time is not split),
// each one item. Items of packed sequences are numbered floor(start / chunk) + s + k, which leaves
// gaps but needs no count of the sequences' lengths on the host: a block finds its own by bisection.

constexpr int SEGMENT = 16;  // steps between the states kept for the backward pass

struct Span {
  i64 sequence;  // which initial and last state
  i64 batch;     // which batch entry of the tensors
  i64 begin;     // first step of the sequence
  i64 end;       // behind its last step
  i64 from;      // first step of this chunk
  i64 to;        // behind its last step
  bool empty;    // nothing to do
};

__device__ __forceinline__ i64 clamped(const i64* offsets, i64 s, i64 length) {
  const i64 x = offsets[s];
  return x < 0 ? 0 : (x > length ? length : x);
}

__device__ __forceinline__ Span find_span(i64 item, const i64* offsets, i64 sequences, i64 length,
                                          i64 chunk) {
  Span p;
  i64 k;
  if (offsets == nullptr) {
    const i64 chunks = (length + chunk - 1) / chunk;
    p.sequence = p.batch = item / chunks;
    k = item % chunks;
    p.begin = 0;
    p.end = length;
  } else {
    i64 low = 0, high = sequences - 1;  // the last s whose first item is at most `item`
    while (low < high) {
      const i64 middle = (low + high + 1) >> 1;
      if (clamped(offsets, middle, length) / chunk + middle <= item) low = middle;
      else high = middle - 1;
    }
    p.sequence = low;
    p.batch = 0;
    p.begin = clamped(offsets, low, length);
    p.end = clamped(offsets, low + 1, length);
    if (p.end < p.begin) p.end = p.begin;
    k = item - (p.begin / chunk + low);
  }
  p.from = p.begin + k * chunk;
  p.to = p.from + chunk < p.end ? p.from + chunk : p.end;
  // An empty sequence still has its first item: its last state is its initial one.
  p.empty = k < 0 || (k > 0 && p.from >= p.end);
  return p;
}

// Where the state at the start of a sequence's segment j is kept, in units of (N, D) matrices.
__device__ __forceinline__ i64 kept_slot(const Span& p, const i64* offsets, i64 length) {
  if (offsets == nullptr) return p.sequence * ((length + SEGMENT - 1) / SEGMENT);
  return p.begin / SEGMENT + p.sequence;
}
__device__ __forceinline__ i64 first_item(const Span& p, const i64* offsets, i64 length, i64 chunk) {
  if (offsets == nullptr) return p.sequence * ((length + chunk - 1) / chunk);
  return p.begin / chunk + p.sequence;
}

// The channels of a block: `width` of them within one segment of channels (one group of B and C).
struct Channels {
  i64 first;
  int count;
};
__device__ __forceinline__ Channels find_channels(i64 block, i64 segment, int width) {
  const i64 per_segment = (segment + width - 1) / width;
  const i64 s = block / per_segment, within = (block % per_segment) * width;
  const i64 left = segment - within;
  return {s * segment + within, int(left < width ? left : width)};
}
