// Adds up the partial sums (P, K, D) over P in an order that does not depend on the launch.

struct FinishArgs {
  const float* partial;  // (P, W + 1, D)
  float* weight;         // (D, W)
  float* bias;           // (D,) or null
  i64 count, width, channels;
};

__global__ void __launch_bounds__(256) conv_finish(const FinishArgs a) {
  __shared__ float sums[8][33];
  const int lane = threadIdx.x % 32, part = threadIdx.x / 32;
  const i64 blocks = (a.channels + 31) / 32;
  const i64 k = blockIdx.x / blocks, d = (blockIdx.x % blocks) * 32 + lane;
  float sum = 0.f;
  if (d < a.channels) {
    const float* p = a.partial + k * a.channels + d;
    const i64 step = (a.width + 1) * a.channels;
#pragma unroll 8
    for (i64 i = part; i < a.count; i += 8) sum += __ldg(p + i * step);
  }
  sums[part][lane] = sum;
  __syncthreads();
  if (part == 0 && d < a.channels) {
    float total = 0.f;
#pragma unroll
    for (int i = 0; i < 8; ++i) total += sums[i][lane];
    if (k < a.width) {
      a.weight[d * a.width + k] = total;
    } else if (a.bias) {
      a.bias[d] = total;
    }
  }
}
