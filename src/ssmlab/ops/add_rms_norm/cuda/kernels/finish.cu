// Adds up the parts (P, M) of the weight's gradient over P, in an order that P alone decides.

struct FinishArgs {
  const float* partial;  // (P, M)
  void* weight;          // (M,), of weight_type
  i64 count, width, weight_type;
};

constexpr int FINISH_PARTS = 32;

__global__ void __launch_bounds__(32 * FINISH_PARTS) rms_norm_finish(const FinishArgs a) {
  __shared__ float sums[FINISH_PARTS][33];
  const int lane = threadIdx.x % 32, part = threadIdx.x / 32;
  const i64 m = i64(blockIdx.x) * 32 + lane;
  float sum = 0.f;
  if (m < a.width) {
#pragma unroll 8
    for (i64 i = part; i < a.count; i += FINISH_PARTS) sum += __ldg(a.partial + i * a.width + m);
  }
  sums[part][lane] = sum;
  __syncthreads();
  if (part || m >= a.width) return;
  float total[1] = {0.f};
#pragma unroll
  for (int i = 0; i < FINISH_PARTS; ++i) total[0] += sums[i][lane];
  store_typed<1>(a.weight, a.weight_type, m, total);
}
