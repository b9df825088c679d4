// Keeps the special-function units busy: eight independent chains of exponentials a thread.
struct ExpParams {
  float* out;
  i64 repeats;
};
extern "C" __global__ void __launch_bounds__(256) exp_rate(ExpParams p) {
  float x[8];
#pragma unroll
  for (int i = 0; i < 8; i++) x[i] = -1e-3f * (threadIdx.x + i);
  for (i64 k = 0; k < p.repeats; k++)
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = exp2_fast(x[i]);
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < 8; i++) sum += x[i];
  p.out[blockIdx.x * 256 + threadIdx.x] = sum;
}
