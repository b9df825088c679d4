// More of named_barriers.cu: the same handoff between warps that feed and warps that run, with one
// thing of the backward scan's added in each kernel, and both kinds held up at chosen places so that
// barriers complete in a chosen order. All but the last two are free of races; those must be reported.
// What racecheck says of each is in docs/log.md ("Racecheck").
//
//   nvcc -gencode arch=compute_90a,code=sm_90a -lineinfo -o orders handoff_orders.cu
//   compute-sanitizer --tool racecheck --racecheck-report analysis ./orders 5   (./orders: the list; a second
// number: of tiles, 1 to 8)
#include <cstdio>
#include <cstdlib>
#include <cuda_runtime.h>

enum Flag {
  OWN = 1,          // a barrier STAGED for each warp that runs; else one for all
  EARLY = 2,        // the next tile is waited for before the last y of this one is written
  SKEW = 4,         // every second warp that runs is slow: the others are a tile further
  LATE_FEED = 8,    // feeders are slow before they arrive at STAGED: it completes by an arrival
  SLOW_FEED = 16,   // feeders are slow behind it: STAGED completes before they wait at DONE
  SLOW_RUN = 32,    // runners are slow before DONE: feeders wait there, having arrived at STAGED
  WARP = 64,        // runners exchange values within the warp (__syncwarp) between reading and handing over
  COPY = 128,       // feeders copy two tiles ahead (cp.async)
  BLOCK = 256,      // __syncthreads at the start, and feeders wait for each other at the end
  REGISTERS = 512,  // registers handed over (setmaxnreg)
  MBARRIER = 1024,  // barriers in shared memory, each thread arrives
  BY_WARP = 2048,   // of those: one lane arrives for its warp
  BAD_X = 4096,     // a race: x is written behind the arrival at STAGED
  BAD_Y = 8192,     // a race: the last y is written behind the arrival at DONE
};
enum Barrier { DONE = 1, FED = 3, STAGED = 4 };

__device__ void arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
__device__ void wait(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
__device__ void spin() {
  const long long start = clock64();
  while (clock64() - start < 400000) {}
}
__device__ unsigned address(const void* p) { return unsigned(__cvta_generic_to_shared(p)); }
__device__ void start_mbarrier(unsigned long long* b, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(address(b)), "r"(arrivals) : "memory");
}
__device__ void arrive_mbarrier(unsigned long long* b) {
  asm volatile("{.reg .b64 s; mbarrier.arrive.shared.b64 s, [%0];}" ::"r"(address(b)) : "memory");
}
__device__ void wait_mbarrier(unsigned long long* b, int parity) {
  asm volatile(
      "{.reg .pred p;\nAGAIN: mbarrier.try_wait.parity.shared.b64 p, [%0], %1;\n@!p bra AGAIN;}" ::"r"(address(b)),
      "r"(parity)
      : "memory");
}

// R warps run, R feed. Of each tile i feeders write x = i, runners y = (i, i + 1), feeders add both.
template <int R, int F>
__global__ void __launch_bounds__(64 * R, 2) handoff(float* out, const float* in, int tiles) {
  constexpr int T = 32 * R;  // threads of a kind
  __shared__ float x[2][T], y[2][2][T], parts[T], raw[4][T], start[T];
  __shared__ __align__(8) unsigned long long done[2], staged[2];
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
  if (F & BLOCK) {
    if (tid < T) start[tid] = 0;
    __syncthreads();
  }
  if (F & MBARRIER) {
    if (tid < 2) start_mbarrier(done + tid, F & BY_WARP ? R : T), start_mbarrier(staged + tid, F & BY_WARP ? R : T);
    __syncthreads();
  }
  auto arrive_at = [&](unsigned long long* b) {
    if (F & BY_WARP) {
      __syncwarp();
      if (lane == 0) arrive_mbarrier(b);
    } else {
      arrive_mbarrier(b);
    }
  };
  if (tid < T) {
    if (F & REGISTERS) asm volatile("setmaxnreg.inc.sync.aligned.u32 200;");
    auto wait_staged = [&](int i) {
      if (F & MBARRIER) wait_mbarrier(staged + (i & 1), i >> 1 & 1);
      else if (F & OWN) wait(STAGED + 2 * warp + (i & 1), T + 32);
      else wait(STAGED + (i & 1), 2 * T);
    };
    auto arrive_done = [&](int i) {
      if (F & MBARRIER) arrive_at(done + (i & 1));
      else arrive(DONE + (i & 1), 2 * T);
    };
    if (F & EARLY) wait_staged(0);
#pragma unroll 1
    for (int i = 0; i < tiles; i++) {
      if (!(F & EARLY)) wait_staged(i);
      if (F & SKEW && warp & 1) spin();
      float v = x[i & 1][T - 1 - tid];
      if (F & WARP) {
        parts[tid] = v;
        __syncwarp();
        v = parts[tid ^ 1];
      }
      y[i & 1][0][tid] = v;
      if (F & WARP) __syncwarp();
      if (F & EARLY) wait_staged(i + 1);
      if (F & BAD_Y) arrive_done(i);
      if (F & SLOW_RUN) spin();
      y[i & 1][1][tid] = v + 1;
      if (F & WARP) __syncwarp();
      if (!(F & BAD_Y)) arrive_done(i);
    }
    return;
  }
  if (F & REGISTERS) asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
  const int f = tid - T;
  float sum = F & BLOCK ? start[T - 1 - f] : 0;
  auto copy = [&](int i) {
    if (i < tiles) asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(address(&raw[i & 3][f])), "l"(in + i) : "memory");
    asm volatile("cp.async.commit_group;" ::: "memory");
  };
  auto wait_done = [&](int i) {
    if (F & MBARRIER) wait_mbarrier(done + (i & 1), i >> 1 & 1);
    else wait(DONE + (i & 1), 2 * T);
  };
  auto arrive_staged = [&](int i) {
    if (F & MBARRIER) {
      arrive_at(staged + (i & 1));
    } else if (F & OWN) {
#pragma unroll
      for (int k = 0; k < R; k++) arrive(STAGED + 2 * k + (i & 1), T + 32);
    } else {
      arrive(STAGED + (i & 1), 2 * T);
    }
  };
  if (F & COPY) copy(0), copy(1);
#pragma unroll 1
  for (int i = -2; i < tiles; i++) {
    if (i >= 0) {
      wait_done(i);
      sum += y[i & 1][0][T - 1 - f] + y[i & 1][1][T - 1 - f];
    }
    const int next = i + 2;
    const bool any = next < tiles;
    if (F & BAD_X && any) arrive_staged(next);
    if (F & COPY && any) asm volatile("cp.async.wait_group 1;" ::: "memory");
    if (any) x[next & 1][f] = F & COPY ? raw[next & 3][f] : float(next);
    if (F & LATE_FEED) spin();
    if (!(F & BAD_X) && (any || (F & EARLY && next == tiles))) arrive_staged(next);
    if (F & COPY) copy(next + 2);
    if (F & SLOW_FEED) spin();
  }
  if (F & BLOCK) {
    start[f] = sum;  // over what the block began with
    wait(FED, T);
    sum = start[T - 1 - f];
  }
  out[f] = sum;
}

struct Test {
  int number, warps, flags;
  const char* what;
  void (*kernel)(float*, const float*, int);
};
#define TEST(NUMBER, R, FLAGS, WHAT) {NUMBER, R, FLAGS, WHAT, handoff<R, (FLAGS)>}
static const Test tests[] = {
    TEST(5, 2, OWN, "own barriers"),
    TEST(6, 2, OWN | SKEW, "own barriers, warps apart"),
    TEST(7, 2, SKEW, "one barrier, warps apart"),
    TEST(8, 2, OWN | LATE_FEED, "STAGED completes by an arrival"),
    TEST(9, 2, OWN | SLOW_FEED, "STAGED completes before feeders wait"),
    TEST(10, 2, OWN | SLOW_RUN, "feeders wait long"),
    TEST(11, 2, OWN | WARP, "__syncwarp"),
    TEST(12, 2, OWN | COPY, "cp.async"),
    TEST(13, 2, OWN | BLOCK, "__syncthreads, FED"),
    TEST(14, 4, OWN | REGISTERS, "setmaxnreg, four warps"),
    TEST(15, 4, OWN | WARP | COPY | BLOCK | REGISTERS, "all of the backward"),
    TEST(16, 4, OWN | WARP | COPY | BLOCK | REGISTERS | SKEW, "all, warps apart"),
    TEST(17, 4, WARP | COPY | BLOCK | REGISTERS | SKEW, "all, one barrier, warps apart"),
    TEST(18, 1, WARP | COPY, "one warp of each kind"),
    TEST(19, 2, OWN | EARLY, "early"),
    TEST(20, 2, OWN | EARLY | SLOW_FEED, "early, feeders slow behind STAGED"),
    TEST(21, 2, OWN | EARLY | LATE_FEED, "early, STAGED completes by an arrival"),
    TEST(22, 2, OWN | EARLY | SLOW_RUN, "early, feeders wait long"),
    TEST(23, 1, EARLY, "early, one warp of each kind"),
    TEST(24, 2, MBARRIER, "mbarrier"),
    TEST(25, 2, MBARRIER | EARLY | SKEW, "mbarrier, early, warps apart"),
    TEST(26, 2, MBARRIER | BY_WARP, "mbarrier, a lane for its warp"),
    TEST(27, 4, MBARRIER | BY_WARP | EARLY | SKEW | WARP | COPY | BLOCK | REGISTERS, "mbarrier, everything"),
    TEST(28, 2, OWN | BAD_X, "RACE: x behind STAGED"),
    TEST(29, 2, OWN | BAD_Y, "RACE: y behind DONE"),
};

int main(int argc, char** argv) {
  const int wanted = argc > 1 ? atoi(argv[1]) : -1, tiles = argc > 2 ? atoi(argv[2]) : 6;
  for (const Test& test : tests) {
    if (wanted < 0) printf("%d %s\n", test.number, test.what);
    if (test.number != wanted) continue;
    const int threads = 32 * test.warps;
    float host[128], from[8] = {0, 1, 2, 3, 4, 5, 6, 7}, *out, *in;
    cudaMalloc(&out, sizeof host), cudaMalloc(&in, sizeof from);
    cudaMemcpy(in, from, sizeof from, cudaMemcpyHostToDevice);
    test.kernel<<<1, 2 * threads>>>(out, in, tiles);
    const cudaError_t error = cudaMemcpy(host, out, 4 * threads, cudaMemcpyDeviceToHost);
    int right = 0;
    for (int k = 0; k < threads; k++) right += host[k] == tiles * tiles;
    printf("%d %s: %s, %d of %d right\n", wanted, test.what, cudaGetErrorString(error), right, threads);
    return error != cudaSuccess;
  }
  return wanted >= 0;
}
