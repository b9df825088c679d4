// Arguments and shared memory of the backward kernel; backward.cuh says what it does.

struct BackwardParams {
  const void *u, *delta, *z, *B, *C, *dout, *y_pre;
  const float *A, *D, *bias, *kept, *chunk_state, *chunk_sum, *dlast;
  void *du, *ddelta, *dz;
  float *dBC, *dA, *fixed_dB, *fixed_dC, *dD, *dbias, *dh0;
  const i64* offsets;
  i64 u_b, u_t, delta_b, delta_t, z_b, z_t, B_b, B_t, B_g, C_b, C_t, C_g, dout_b, dout_t;
  i64 sequences, length, channels, states, segment, group_B, group_C, chunk, blocks, rows;
};

__device__ __forceinline__ float tf32_high(float x) {
  return __uint_as_float(__float_as_uint(x) & 0xffffe000u);
}
// tf32 holds 11 bits of a factor: enough for 16-bit results; EXACT adds the products of the rest.
template <bool EXACT>
__device__ __forceinline__ void mma_step(float (&c)[4], const float (&a)[4], float b0, float b1) {
  if constexpr (!EXACT) {
    mma_tf32(c, a, b0, b1);
  } else {
    float rest[4];
    const float h0 = tf32_high(b0), h1 = tf32_high(b1);
#pragma unroll
    for (int i = 0; i < 4; i++) rest[i] = a[i] - tf32_high(a[i]);
    mma_tf32(c, a, h0, h1);  // the hardware drops the low bits of a
    mma_tf32(c, a, b0 - h0, b1 - h1);
    mma_tf32(c, rest, h0, h1);
  }
}

template <typename T>
struct IsFloat {
  static constexpr bool value = false;
};
template <>
struct IsFloat<float> {
  static constexpr bool value = true;
};

template <int WS, int WC, int AHEAD, bool ALONG_TIME = false>
struct BackwardShape {
  static constexpr int N = 16 * WS;
  static constexpr int CT = 8 * WC;
  static constexpr int WARPS = WS * WC;
  static constexpr int RUNNERS = 32 * WARPS, FEEDERS = RUNNERS, THREADS = RUNNERS + FEEDERS;
  static constexpr int TT = SEGMENT;  // steps of a tile
  static constexpr int PAIRS = CT / 2, QUADS = CT / 4;
  static constexpr int STEP = 144;  // floats a step of a warp's parts: 32 x 4, padded
  static constexpr int RED = 36;    // floats a step of a warp's dB, dC: 2 x 16, padded
  // Along time rows are padded otherwise, since lanes take different steps; all in all to less memory.
  using Rows = typename Select<ALONG_TIME, TimeRows<PAIRS>, PairRows<QUADS>>::Type;
  static constexpr int DX = TT * Rows::STRIDE * 4;
  static constexpr int DY_ROW = PAIRS + (ALONG_TIME ? 1 : 0);  // float2 a step
  static constexpr int DY = TT * DY_ROW * 2;
  static constexpr int SLOPE = TT * CT;
  static constexpr int BC = TT * WS * 8 * 4;
  static constexpr int SUM_STRIDE = CT + (ALONG_TIME && WS == 1 ? 10 : 8);  // float2 a step of sums over states, padded
  static constexpr int SUM = TT * WS * SUM_STRIDE * 2;
  static constexpr int REDUCE = WARPS * TT * RED;
  static constexpr int TILE = DX + DY + SLOPE + BC + SUM + REDUCE;  // floats, twice
  static constexpr int PART = WARPS * 4 * STEP;
  static constexpr int ITEMS = TT * QUADS;  // of four elements each, one a thread
  static constexpr int ROW_STEP = FEEDERS / QUADS, ROWS = TT > ROW_STEP ? TT / ROW_STEP : 1;
  static constexpr int BC_ITEMS = TT * WS * 4, BC_STEPS = (BC_ITEMS + FEEDERS - 1) / FEEDERS;
  // Feeders copy AHEAD tiles ahead; u stays until the tile's gradients are stored.
  static constexpr int RING = AHEAD + 1, RING_U = AHEAD + 2;
  static constexpr int RAW_U = ROWS * FEEDERS;              // quads a tile
  static constexpr int RAW_QUADS = 4 * ROWS * FEEDERS;      // delta, dout, z, y before the gate
  static constexpr int RAW_PAIRS = 4 * BC_STEPS * FEEDERS;  // states n, n + 8 of B and of C
  static constexpr int FLOATS = 2 * TILE + PART + FEEDERS * 8 + CT * 2;
};

// Registers of a thread from here on, in which all warps of four take part: what those that feed
// give up, those that run get. 0: as they are.
template <int COUNT, bool MORE>
__device__ __forceinline__ void set_registers() {
  if constexpr (COUNT > 0 && MORE) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
  if constexpr (COUNT > 0 && !MORE) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// The same value, of which the compiler does not know that it stays the same: what follows from it is
// then made anew, not kept in registers.
__device__ __forceinline__ int opaque(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// The sum of every STEP-th of COUNT values, in their order.
template <int STEP, int COUNT>
__device__ __forceinline__ float4 sum_threads(const float4* values) {
  float4 total = make_float4(0.f, 0.f, 0.f, 0.f);
  for (int k = 0; k < COUNT; k++) {
    const float4 one = values[k * STEP];
    total.x += one.x, total.y += one.y, total.z += one.z, total.w += one.w;
  }
  return total;
}

// Adds the lanes' parts of four steps: lane l those of channel l % 8 at step l / 8.
template <int STEP>
__device__ __forceinline__ void sum_states(const float* parts, float2* sums, int sums_step, int lane) {
  __syncwarp();
  const int c = lane & 7, r = lane >> 3;
  const float2* from = reinterpret_cast<const float2*>(parts + r * STEP) + c;
  float2 total = from[0];
#pragma unroll
  for (int k = 1; k < 8; k++) {
    const float2 one = from[k * 8];
    total.x += one.x, total.y += one.y;
  }
  sums[r * sums_step + c] = make_float2(total.x, total.y * LN2);  // A was scaled for powers of two
  __syncwarp();
}

// The gradient of w for y = v w s, s = sigmoid(w): dy v d(w s)/dw, where d(w s)/dw = s + w s (1 - s).
__device__ __forceinline__ float4 gate_gradient(float4 dy, float4 v, float4 gate, float4 s) {
  return make_float4(
      dy.x * v.x * fmaf(gate.x, 1.f - s.x, s.x), dy.y * v.y * fmaf(gate.y, 1.f - s.y, s.y),
      dy.z * v.z * fmaf(gate.z, 1.f - s.z, s.z), dy.w * v.w * fmaf(gate.w, 1.f - s.w, s.w));
}
