// What racecheck makes of the scan's handoff between two kinds of warps: feeders write x, runners read
// x and write y, feeders read y; two of each, for odd and even tiles. None of these kernels has a
// race; what racecheck says of each is in docs/log.md ("Racecheck").
//
//   nvcc -arch=sm_90 -lineinfo -o barriers named_barriers.cu
//   compute-sanitizer --tool racecheck --racecheck-report analysis ./barriers 0   (to 4)
template <int N> __device__ void arrive_r(int id) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "n"(N) : "memory"); }
template <int N> __device__ void wait_r(int id) { asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(N) : "memory"); }
enum { DONE = 1, STAGED = 4 };
// OWN: a barrier STAGED for each runner warp. EARLY: the next tile is waited for before the last y of
// this one is written. SYNC: runners wait at DONE, too.
template <bool OWN, bool EARLY, bool SYNC>
__device__ void go(float* out, int tiles) {
  __shared__ float x[2][64], y[2][2][64];
  int tid = threadIdx.x, warp = tid >> 5;
  auto staged = [&](int odd) { if (OWN) wait_r<96>(STAGED + 2 * warp + odd); else wait_r<128>(STAGED + odd); };
  if (tid < 64) {
    staged(0);
    for (int i = 0; i < tiles; i++) {
      float v = x[i & 1][63 - tid];
      y[i & 1][0][tid] = v;
      if (EARLY) staged(i + 1 & 1);
      y[i & 1][1][tid] = v + 1;
      if (SYNC) wait_r<128>(DONE + (i & 1)); else arrive_r<128>(DONE + (i & 1));
      if (!EARLY) staged(i + 1 & 1);
    }
  } else {
    int f = tid - 64; float sum = 0;
    for (int i = -2; i < tiles; i++) {
      if (i >= 0) { wait_r<128>(DONE + (i & 1)); sum += y[i & 1][0][63 - f] + y[i & 1][1][63 - f]; }
      if (i + 2 < tiles) x[i & 1][f] = i;
      if (i + 2 <= tiles) {
        if (OWN) { arrive_r<96>(STAGED + (i & 1)); arrive_r<96>(STAGED + 2 + (i & 1)); }
        else arrive_r<128>(STAGED + (i & 1));
      }
    }
    out[f] = sum;
  }
}
extern "C" __global__ void k0(float* o, int n) { go<true, true, false>(o, n); }
extern "C" __global__ void k1(float* o, int n) { go<true, false, false>(o, n); }
extern "C" __global__ void k2(float* o, int n) { go<false, true, false>(o, n); }
extern "C" __global__ void k3(float* o, int n) { go<false, false, false>(o, n); }
extern "C" __global__ void k4(float* o, int n) { go<true, true, true>(o, n); }
#include <cstdlib>
int main(int argc, char** argv) {
  float* out; cudaMalloc(&out, 4096); int n = 6;
  switch (atoi(argv[1])) {
    case 0: k0<<<1, 128>>>(out, n); break;
    case 1: k1<<<1, 128>>>(out, n); break;
    case 2: k2<<<1, 128>>>(out, n); break;
    case 3: k3<<<1, 128>>>(out, n); break;
    case 4: k4<<<1, 128>>>(out, n); break;
  }
  return cudaDeviceSynchronize();
}
