// Cross-entropy of rows of logits and, in place, its gradient by them.
//
// A block walks one row twice: for the maximum and the sum of exponentials, then (what the row left in
// the L2) for softmax minus the one at the target. Rows start at multiples of 16 bytes.

struct LossArgs {
  void* logits;          // (T, stride), the first V of a row count; the gradient in its place
  const i64* targets;    // (T,)
  const float* share;    // 0-d, what a token's gradient is multiplied with
  float* losses;         // (T,), 0 where no target counts
  i64 vocabulary, stride, ignore, save;
};

constexpr int LOSS_THREADS = 512;

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }

template <typename T>
__global__ void __launch_bounds__(LOSS_THREADS) loss_rows(const LossArgs a) {
  constexpr int V = 16 / int(sizeof(T));
  typedef Row<T, V> R;
  const i64 target = a.targets[blockIdx.x];
  const bool counts = target != a.ignore;
  T* row = static_cast<T*>(a.logits) + i64(blockIdx.x) * a.stride;

  float top = -infinity(), sum = 0.f;
  for (i64 i = i64(threadIdx.x) * V; i < a.vocabulary; i += LOSS_THREADS * V) {
    float x[V];
    R::unpack(*reinterpret_cast<const typename R::Raw*>(row + i), x);
    float high = top;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if (i + v >= a.vocabulary) x[v] = -infinity();
      high = fmaxf(high, x[v]);
    }
    // All of -inf so far: no exponential of (-inf) - (-inf).
    const float base = high == -infinity() ? 0.f : high;
    sum *= exp_fast(top - base);
#pragma unroll
    for (int v = 0; v < V; ++v) sum += exp_fast(x[v] - base);
    top = high;
  }

  __shared__ float tops[32], sums[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int offset = 16; offset; offset /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, top, offset);
    const float others = __shfl_xor_sync(0xffffffffu, sum, offset);
    const float high = fmaxf(top, other), base = high == -infinity() ? 0.f : high;
    sum = sum * exp_fast(top - base) + others * exp_fast(other - base);
    top = high;
  }
  if (lane == 0) tops[warp] = top, sums[warp] = sum;
  __syncthreads();
  top = -infinity();
#pragma unroll
  for (int w = 0; w < LOSS_THREADS / 32; ++w) top = fmaxf(top, tops[w]);
  sum = 0.f;
#pragma unroll
  for (int w = 0; w < LOSS_THREADS / 32; ++w) sum += sums[w] * exp_fast(tops[w] - top);

  const bool inside = target >= 0 && target < a.vocabulary;
  if (threadIdx.x == 0) {
    const float own = inside ? to_float(row[target]) : 0.f;
    a.losses[blockIdx.x] = counts ? top + LN2 * log2_fast(sum) - own : 0.f;
  }
  if (!a.save) return;
  __syncthreads();  // the target's logit is read before it is overwritten
  const float share = counts ? *a.share : 0.f, scale = share / sum;
  for (i64 i = i64(threadIdx.x) * V; i < a.stride; i += LOSS_THREADS * V) {
    float x[V];
    R::unpack(*reinterpret_cast<const typename R::Raw*>(row + i), x);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const i64 place = i + v;
      x[v] = counts && place < a.vocabulary ? exp_fast(x[v] - top) * scale : 0.f;
      if (place == target && counts) x[v] -= share;
    }
    R::store(row + i, x);
  }
}
