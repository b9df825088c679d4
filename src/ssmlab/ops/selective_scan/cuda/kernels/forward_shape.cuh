// Arguments and shared memory of the forward kernel; forward.cuh says what it does.

struct ForwardParams {
  const void *u, *delta, *z, *B, *C, *dout;
  const float *A, *D, *bias, *h0;
  void *y, *y_pre;
  float *last, *kept, *chunk_state, *chunk_sum;
  const i64* offsets;
  i64 u_b, u_t, delta_b, delta_t, z_b, z_t, B_b, B_t, B_g, C_b, C_t, C_g, dout_b, dout_t;
  i64 sequences, length, channels, states, segment, group_B, group_C, chunk, blocks,
      opened;
};

// Barriers between the two kinds of warps, one for even tiles and one for odd. DONE: a tile is run;
// those who run arrive, those who feed wait. STAGED: a tile can be run; there is one for each warp
// that runs, so that these need not wait for each other. FED: those who feed wait for each other.
enum Barrier { DONE = 1, FED = 3, STAGED = 4 };
template <int THREADS>
__device__ __forceinline__ void barrier_arrive(int barrier) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "n"(THREADS) : "memory");
}
template <int THREADS>
__device__ __forceinline__ void barrier_wait(int barrier) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(THREADS) : "memory");
}
template <int FEEDERS, int WARPS>
__device__ __forceinline__ void arrive_staged(int odd) {
  static_assert(STAGED + 2 * WARPS <= 16, "a block has 16 barriers");
#pragma unroll
  for (int warp = 0; warp < WARPS; warp++) barrier_arrive<FEEDERS + 32>(STAGED + 2 * warp + odd);
}
template <int FEEDERS>
__device__ __forceinline__ void wait_staged(int warp, int odd) {
  barrier_wait<FEEDERS + 32>(STAGED + 2 * warp + odd);
}

// Shared memory of delta and delta u: for each step the even pairs of channels, then the odd ones,
// so that both a thread's two stores and the lanes' loads are free of bank conflicts.
template <int QUADS>
struct PairRows {
  static constexpr int HALF = QUADS % 8 == 4 ? QUADS : QUADS + 4;
  static constexpr int STRIDE = HALF + QUADS + (QUADS % 8 == 4 ? 4 : 0);  // float4 a step
  static __device__ __forceinline__ int at(int pair) { return (pair & 1) * HALF + (pair >> 1); }
};

template <int S, int WS, int WC, int PW, int AHEAD, bool ALONG_TIME = false>
struct ForwardShape {
  static constexpr int N = 4 * S * WS;  // states, padded
  static constexpr int CT = 16 * WC;    // channels
  static constexpr int TT = SEGMENT;    // steps of a tile: the state at its start is kept
  static constexpr int RUNNERS = 32 * WS * WC, FEEDERS = 32 * PW, THREADS = RUNNERS + FEEDERS;
  static constexpr int PAIRS = CT / 2, QUADS = CT / 4;
  static constexpr int PARTS = 4 * WS;        // lanes that share a channel's states
  static constexpr int Y_STRIDE = PAIRS + 4;  // in float2; the padding avoids bank conflicts
  using Rows = typename Select<ALONG_TIME, TimeRows<PAIRS>, PairRows<QUADS>>::Type;
  static constexpr int DX = TT * Rows::STRIDE * 4, BC = TT * N;
  // In float2, a step. Along time lanes read different steps at once, which an odd number of them keeps
  // on different banks; all in all that takes less memory than rows along channels.
  static constexpr int Y_ROW = PARTS * Y_STRIDE + (ALONG_TIME ? 1 : (QUADS == 4 ? 8 : 0));
  static constexpr int Y = TT * Y_ROW * 2;
  // Feeders copy AHEAD tiles ahead; u and z stay until the tile's outputs are stored.
  static constexpr int ROW_STEP = FEEDERS / QUADS, ROWS = TT / ROW_STEP, RING = AHEAD + 2;
  static constexpr int BC_QUADS = TT * N / 4, BC_STEPS = (BC_QUADS + FEEDERS - 1) / FEEDERS;
  static constexpr int RAW = (3 * ROWS + 2 * BC_STEPS) * FEEDERS;  // quads a tile
  static constexpr int V = 4 / S;  // steps whose B (or C) a lane loads at once

  // Where B of a step and state lies: the V steps x S states of a lane are together.
  static __device__ __forceinline__ int bc(int t, int n) {
    return ((t / V) * (N / S) + n / S) * 4 + t % V * S + n % S;
  }
};
