// Backward scan, real A, B and C per step. Needs forward.cuh for loads, stores and chunk scans.
//
// A warp owns 8 channels x 16 states: a lane holds channels 2q, 2q+1 (q = lane % 4) and states g,
// g+8 (g = lane / 4). Time is walked backwards in segments of 16 steps, from the states that the
// forward pass kept at their starts. In a window of WIN steps the recurrence is run forwards again,
// keeping a and w = a h_prev of each step in registers, then backwards:
//   dh = C dy + carry,  carry = a dh,  dA = sum_t dh w delta,  h = w + delta u B,
//   ddelta = sum_n dh (A w + u B),  du = delta sum_n dh B + D dy.
// Sums over states go through shared memory, four steps at a time within a warp. Sums over channels,
// dB = sum_d dh (delta u) and dC = sum_d h dy, are matrix products: their A operand is the layout of
// the lanes as it is, B holds a step's vector in column t % 8 alone, so that one accumulator takes
// eight steps. Blocks write their parts, which scan_sum_parts adds in a fixed order.

struct BackwardParams {
  const void *u, *delta, *z, *B, *C, *dout, *y_pre;
  const float *A, *D, *bias, *kept, *chunk_state, *dlast;
  void *du, *ddelta, *dz;
  float *dBC, *dA, *dD, *dbias, *dh0;
  const i64* offsets;
  i64 u_b, u_t, delta_b, delta_t, z_b, z_t, B_b, B_t, B_g, C_b, C_t, C_g, dout_b, dout_t;
  i64 sequences, length, channels, states, segment, group_B, group_C, chunk, blocks, rows;
};

__device__ __forceinline__ void mma_tf32(float (&c)[4], const float (&a)[4], float b0, float b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
        "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
}
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

// The same value, of which the compiler does not know that it stays the same.
__device__ __forceinline__ int opaque(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

template <typename T>
struct IsFloat {
  static constexpr bool value = false;
};
template <>
struct IsFloat<float> {
  static constexpr bool value = true;
};

template <int WS, int WC, int TT>
struct BackwardShape {
  static constexpr int N = 16 * WS;
  static constexpr int CT = 8 * WC;
  static constexpr int WARPS = WS * WC;
  static constexpr int THREADS = 32 * WARPS;
  static constexpr int PAIRS = CT / 2, QUADS = CT / 4;
  static constexpr int STEP = 144;           // floats a step of a warp's parts: 32 x 4, padded
  static constexpr int RED = 36;             // floats a step of a warp's dB, dC: 2 x 16, padded
  static constexpr int DX = TT * PAIRS * 4;
  static constexpr int DY = TT * PAIRS * 2;
  static constexpr int BC = TT * WS * 8 * 4;
  static constexpr int SUM = TT * WS * CT * 2;
  static constexpr int PART = WARPS * 2 * 4 * STEP;
  static constexpr int REDUCE = WARPS * TT * RED;
  static constexpr int SHARED = (DX + DY + BC + SUM + PART + REDUCE + THREADS * 8) * 4;
};

template <typename T, int WS, int WC, int TT, int WIN, bool SOFTPLUS, bool GATE, bool ALIGNED,
          int MIN_BLOCKS>
__global__ void __launch_bounds__(32 * WS * WC, MIN_BLOCKS) scan_backward(BackwardParams p) {
  using F = BackwardShape<WS, WC, TT>;
  constexpr bool EXACT = IsFloat<T>::value;
  constexpr int ROW_STEP = F::THREADS / F::QUADS, ROWS = TT > ROW_STEP ? TT / ROW_STEP : 1;

  extern __shared__ __align__(16) float shared[];
  float4* s_dx = reinterpret_cast<float4*>(shared);          // [TT][PAIRS] delta, delta u of a pair
  float2* s_dy = reinterpret_cast<float2*>(shared + F::DX);  // [TT][PAIRS]
  float* s_bc = shared + F::DX + F::DY;                      // [TT][WS][8] B g, B g+8, C g, C g+8
  float2* s_sum = reinterpret_cast<float2*>(s_bc + F::BC);   // [TT][WS][CT] sums over states
  float* s_part = s_bc + F::BC + F::SUM;                     // [WARPS][2][4][STEP]
  float* s_red = s_part + F::PART;                           // [WARPS][TT][RED]
  float4* s_own = reinterpret_cast<float4*>(s_red + F::REDUCE);  // [2][THREADS]

  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, g = lane >> 2, q = lane & 3;
  const int wc = warp % WC, ws = warp / WC;
  const i64 item = blockIdx.x / p.blocks, block = blockIdx.x % p.blocks;
  const Span span = find_span(item, p.offsets, p.sequences, p.length, p.chunk);
  if (span.empty) return;
  const Channels ch = find_channels(block, p.segment, F::CT);
  const int pair = wc * 4 + q;  // this lane's pair of channels in the tile
  const int n0 = ws * 16 + g;   // its states are n0 and n0 + 8
  const i64 D = p.channels, d_lane = ch.first + 2 * pair;
  const int N = int(p.states), lane_valid = ch.count - 2 * pair;

  float A[2][2], carry[2][2], dA[2][2];  // [channel][state]
#pragma unroll
  for (int j = 0; j < 2; j++)
#pragma unroll
    for (int s = 0; s < 2; s++) {
      const i64 d = d_lane + j;
      const int n = n0 + 8 * s;
      const bool real = j < lane_valid && n < N;
      A[j][s] = real ? p.A[d * N + n] * LOG2E : 0.f;
      dA[j][s] = carry[j][s] = 0.f;
      if (real && p.chunk_state != nullptr) carry[j][s] = p.chunk_state[(item * N + n) * D + d];
      else if (real && p.dlast != nullptr) carry[j][s] = p.dlast[(span.sequence * D + d) * N + n];
    }

  // What this thread loads: channels 4 lq ... 4 lq + 3 of rows lr, lr + ROW_STEP, ... of a tile.
  const int lq = tid % F::QUADS, lr = tid / F::QUADS, valid = ch.count - 4 * lq;
  const int d_first = int(ch.first), d_quad_ = d_first + 4 * lq, batch_ = int(span.batch);
  const i64 from_ = span.from;
  const int steps = int(span.to - span.from);
  const bool whole = ALIGNED && ch.count == F::CT && N == F::N;
  // Kept states of this chunk; the next segment's lie N D behind.
  const i64 kept_ = (kept_slot(span, p.offsets, p.length) + (span.from - span.begin) / SEGMENT) * N * D;
  const float4 none = make_float4(0.f, 0.f, 0.f, 0.f);
  // Sums for dD and dbias of this thread's channels.
  s_own[tid] = none, s_own[F::THREADS + tid] = none;

#pragma unroll 1
  for (int t0 = (steps - 1) / TT * TT; t0 >= 0; t0 -= TT) {
    // Pointers are made anew from the parameters in each tile: kept, they would take the registers
    // that the window below needs.
    const i64 batch = opaque(batch_), from = from_ + t0;
    const int d_quad = opaque(d_quad_);
    const i64 dense = (batch * p.length + from + lr) * D + d_quad;  // tensors we allocate: (B, L, D)
    const int u_t = int(p.u_t);
    const i64 u_at = batch * p.u_b + (from + lr) * u_t + d_quad;
    const bool full = whole && t0 + TT <= steps;
    auto load_tile = [&](auto whole_tile) {
      constexpr bool FULL = decltype(whole_tile)::value;
      const float4 bias =
          p.bias != nullptr ? load_quad<float, false, FULL>(p.bias + d_quad, valid) : none;
      const int delta_t = int(p.delta_t), dout_t = int(p.dout_t), z_t = int(p.z_t);
      const T* u = static_cast<const T*>(p.u) + u_at;
      const T* delta =
          static_cast<const T*>(p.delta) + batch * p.delta_b + (from + lr) * delta_t + d_quad;
      const T* dout = static_cast<const T*>(p.dout) + batch * p.dout_b + (from + lr) * dout_t + d_quad;
      const T* z =
          GATE ? static_cast<const T*>(p.z) + batch * p.z_b + (from + lr) * z_t + d_quad : nullptr;
      const T* y_pre = static_cast<const T*>(p.y_pre) + dense;
      T* dz = static_cast<T*>(p.dz) + dense;
      float4 own = s_own[tid];
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
        const int r = lr + i * ROW_STEP;
        if (TT < ROW_STEP && r >= TT) break;
        const int n = FULL || t0 + r < steps ? valid : 0;
        const float4 x =
            Quad<T>::unpack(load_quad<T, ALIGNED, FULL>(u + i * ROW_STEP * u_t, n));
        float4 d =
            Quad<T>::unpack(load_quad<T, ALIGNED, FULL>(delta + i * ROW_STEP * delta_t, n));
        float4 dy = Quad<T>::unpack(load_quad<T, ALIGNED, FULL>(dout + i * ROW_STEP * dout_t, n));
        d.x += bias.x, d.y += bias.y, d.z += bias.z, d.w += bias.w;
        if constexpr (SOFTPLUS)
          d.x = softplus(d.x), d.y = softplus(d.y), d.z = softplus(d.z), d.w = softplus(d.w);
        if (!FULL && t0 + r >= steps) d = none;  // a step that changes nothing
        if constexpr (GATE) {
          const float4 w = Quad<T>::unpack(load_quad<T, ALIGNED, FULL>(z + i * ROW_STEP * z_t, n));
          const float4 v = Quad<T>::unpack(load_quad<T, ALIGNED, FULL>(y_pre + i * ROW_STEP * D, n));
          const float4 s = make_float4(sigmoid(w.x), sigmoid(w.y), sigmoid(w.z), sigmoid(w.w));
          store_quad<T, ALIGNED, FULL>(dz + i * ROW_STEP * D,
                                       make_float4(dy.x * v.x * s.x * fmaf(w.x, 1.f - s.x, 1.f),
                                                   dy.y * v.y * s.y * fmaf(w.y, 1.f - s.y, 1.f),
                                                   dy.z * v.z * s.z * fmaf(w.z, 1.f - s.z, 1.f),
                                                   dy.w * v.w * s.w * fmaf(w.w, 1.f - s.w, 1.f)),
                                       n);
          dy.x *= w.x * s.x, dy.y *= w.y * s.y, dy.z *= w.z * s.z, dy.w *= w.w * s.w;
        }
        own.x = fmaf(dy.x, x.x, own.x), own.y = fmaf(dy.y, x.y, own.y);
        own.z = fmaf(dy.z, x.z, own.z), own.w = fmaf(dy.w, x.w, own.w);
        s_dx[r * F::PAIRS + 2 * lq] = make_float4(d.x, d.x * x.x, d.y, d.y * x.y);
        s_dx[r * F::PAIRS + 2 * lq + 1] = make_float4(d.z, d.z * x.z, d.w, d.w * x.w);
        *reinterpret_cast<float4*>(s_dy + r * F::PAIRS + 2 * lq) = dy;
      }
      s_own[tid] = own;
      const int B_t = int(p.B_t), C_t = int(p.C_t);
      const T* B = static_cast<const T*>(p.B) + batch * p.B_b + from * B_t + d_first / p.group_B * p.B_g;
      const T* C = static_cast<const T*>(p.C) + batch * p.C_b + from * C_t + d_first / p.group_C * p.C_g;
      constexpr int BC_QUADS = TT * F::N / 4;
#pragma unroll
      for (int i = 0; i < (BC_QUADS + F::THREADS - 1) / F::THREADS; i++) {
        const int e = tid + i * F::THREADS;
        if (BC_QUADS % F::THREADS && e >= BC_QUADS) break;
        const int r = e / (F::N / 4), n = e % (F::N / 4) * 4;
        const int left = FULL || t0 + r < steps ? N - n : 0;
        const float4 b = Quad<T>::unpack(load_quad<T, ALIGNED, FULL>(B + (r * B_t + n), left));
        const float4 c = Quad<T>::unpack(load_quad<T, ALIGNED, FULL>(C + (r * C_t + n), left));
        float* at = s_bc + ((r * WS + n / 16) * 8 + n % 8) * 4 + (n % 16) / 8;
        at[0] = b.x, at[2] = c.x, at[4] = b.y, at[6] = c.y;
        at[8] = b.z, at[10] = c.z, at[12] = b.w, at[14] = c.w;
      }
    };
    if (full) load_tile(Full());
    else load_tile(Ragged());
    __syncthreads();

#pragma unroll 1
    for (int s0 = TT - SEGMENT; s0 >= 0; s0 -= SEGMENT) {
      if (t0 + s0 >= steps) continue;
      float start[2][2];
      {
        const float* kept =
            p.kept + (kept_ + (i64((t0 + s0) / SEGMENT) * N + n0) * D + d_first + 2 * pair);
#pragma unroll
        for (int s = 0; s < 2; s++) {
          const float2 v = full ? load_two<ALIGNED, true>(kept + 8 * s * D, 2)
                                : load_two<ALIGNED, false>(kept + 8 * s * D,
                                                           n0 + 8 * s < N ? lane_valid : 0);
          start[0][s] = v.x, start[1][s] = v.y;
        }
      }
      constexpr int WINDOWS = SEGMENT / WIN;
#pragma unroll 1
      for (int window = WINDOWS - 1; window >= 0; window--) {
        const int w0 = s0 + window * WIN;
        const float4* dx_at = s_dx + pair;
        const float* bc_at = s_bc + (ws * 8 + g) * 4;
        float h[2][2] = {{start[0][0], start[0][1]}, {start[1][0], start[1][1]}};
        if constexpr (WINDOWS > 1) {
#pragma unroll 1
          for (int t1 = s0; t1 < w0; t1 += WIN) {
#pragma unroll
            for (int i = 0; i < WIN; i++) {
              const float4 dx = dx_at[(t1 + i) * F::PAIRS];
              const float2 b = *reinterpret_cast<const float2*>(bc_at + (t1 + i) * WS * 32);
              h[0][0] = fmaf(exp2_fast(dx.x * A[0][0]), h[0][0], dx.y * b.x);
              h[0][1] = fmaf(exp2_fast(dx.x * A[0][1]), h[0][1], dx.y * b.y);
              h[1][0] = fmaf(exp2_fast(dx.z * A[1][0]), h[1][0], dx.w * b.x);
              h[1][1] = fmaf(exp2_fast(dx.z * A[1][1]), h[1][1], dx.w * b.y);
            }
          }
        }
        float a[WIN][2][2], w[WIN][2][2];
#pragma unroll
        for (int i = 0; i < WIN; i++) {
          const float4 dx = dx_at[(w0 + i) * F::PAIRS];
          const float2 b = *reinterpret_cast<const float2*>(bc_at + (w0 + i) * WS * 32);
#pragma unroll
          for (int s = 0; s < 2; s++) {
            a[i][0][s] = exp2_fast(dx.x * A[0][s]);
            a[i][1][s] = exp2_fast(dx.z * A[1][s]);
            w[i][0][s] = a[i][0][s] * h[0][s];
            w[i][1][s] = a[i][1][s] * h[1][s];
            h[0][s] = fmaf(dx.y, s ? b.y : b.x, w[i][0][s]);
            h[1][s] = fmaf(dx.w, s ? b.y : b.x, w[i][1][s]);
          }
        }
        float sum_B[4], sum_C[4];
#pragma unroll
        for (int i = WIN - 1; i >= 0; i--) {
          const int t = w0 + i;
          const float4 dx = dx_at[t * F::PAIRS];
          const float2 dy = s_dy[t * F::PAIRS + pair];
          const float4 bc = *reinterpret_cast<const float4*>(bc_at + t * WS * 32);
          if (i % 8 == 7) {
#pragma unroll
            for (int k = 0; k < 4; k++) sum_B[k] = sum_C[k] = 0.f;
          }
          float dh[4], hh[4], v[4] = {0.f, 0.f, 0.f, 0.f};  // as the matrix operand: state, channel
#pragma unroll
          for (int j = 0; j < 2; j++)
#pragma unroll
            for (int s = 0; s < 2; s++) {
              const float b = s ? bc.y : bc.x, c = s ? bc.w : bc.z;
              const float d = j ? dx.z : dx.x, x = j ? dx.w : dx.y, y = j ? dy.y : dy.x;
              const float grad = fmaf(c, y, carry[j][s]), product = grad * w[i][j][s];
              dh[2 * j + s] = grad;
              hh[2 * j + s] = fmaf(x, b, w[i][j][s]);
              carry[j][s] = grad * a[i][j][s];
              dA[j][s] = fmaf(product, d, dA[j][s]);
              v[2 * j] = fmaf(grad, b, v[2 * j]);
              v[2 * j + 1] = fmaf(product, A[j][s], v[2 * j + 1]);
            }
          const bool mine = g == i % 8;
          mma_step<EXACT>(sum_C, hh, mine ? dy.x : 0.f, mine ? dy.y : 0.f);
          mma_step<EXACT>(sum_B, dh, mine ? dx.y : 0.f, mine ? dx.w : 0.f);
          float* part = s_part + (warp * 2 + (i / 4) % 2) * 4 * F::STEP;
          *reinterpret_cast<float4*>(part + i % 4 * F::STEP + g * 16 + q * 4) =
              make_float4(v[0], v[1], v[2], v[3]);
          if (i % 4 == 0) {
            // Lane l adds the parts of channel l % 8 at step l / 8 of these four.
            __syncwarp();
            const int c = lane & 7, r = lane >> 3;
            const float2* from = reinterpret_cast<const float2*>(part + r * F::STEP) + c;
            float2 total = from[0];
#pragma unroll
            for (int k = 1; k < 8; k++) {
              const float2 one = from[k * 8];
              total.x += one.x, total.y += one.y;
            }
            s_sum[((t + r) * WS + ws) * F::CT + wc * 8 + c] = make_float2(total.x, total.y * LN2);
          }
          if (i % 8 == 0) {
            float* red = s_red + (warp * TT + t) * F::RED + g;
#pragma unroll
            for (int k = 0; k < 2; k++) {
              float* at = red + (2 * q + k) * F::RED;
              at[0] = sum_B[k], at[8] = sum_B[2 + k], at[16] = sum_C[k], at[24] = sum_C[2 + k];
            }
          }
        }
      }
    }
    __syncthreads();

    auto store_tile = [&](auto whole_tile) {
      constexpr bool FULL = decltype(whole_tile)::value;
      const float4 skip =
          p.D != nullptr ? load_quad<float, false, FULL>(p.D + d_quad, valid) : none;
      const T* u = static_cast<const T*>(p.u) + u_at;
      T* du = static_cast<T*>(p.du) + dense;
      T* ddelta = static_cast<T*>(p.ddelta) + dense;
      float4 own = s_own[F::THREADS + tid];
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
        const int r = lr + i * ROW_STEP;
        if (TT < ROW_STEP && r >= TT) break;
        const int n = FULL || t0 + r < steps ? valid : 0;
        const float4 x =
            Quad<T>::unpack(load_quad<T, ALIGNED, FULL>(u + i * ROW_STEP * u_t, n));
        const float4 dx0 = s_dx[r * F::PAIRS + 2 * lq], dx1 = s_dx[r * F::PAIRS + 2 * lq + 1];
        const float4 dy = *reinterpret_cast<const float4*>(s_dy + r * F::PAIRS + 2 * lq);
        float4 v0 = none, v1 = none;  // of each channel sum dh B and sum dh w A
#pragma unroll
        for (int k = 0; k < WS; k++) {
          const float4* at = reinterpret_cast<const float4*>(s_sum + (r * WS + k) * F::CT + 4 * lq);
          const float4 a = at[0], b = at[1];
          v0.x += a.x, v0.y += a.y, v0.z += a.z, v0.w += a.w;
          v1.x += b.x, v1.y += b.y, v1.z += b.z, v1.w += b.w;
        }
        float4 grad = make_float4(fmaf(x.x, v0.x, v0.y), fmaf(x.y, v0.z, v0.w),
                                  fmaf(x.z, v1.x, v1.y), fmaf(x.w, v1.z, v1.w));
        if constexpr (SOFTPLUS) {
          grad.x *= softplus_slope(dx0.x), grad.y *= softplus_slope(dx0.z);
          grad.z *= softplus_slope(dx1.x), grad.w *= softplus_slope(dx1.z);
        }
        if (n > 0) own.x += grad.x;
        if (n > 1) own.y += grad.y;
        if (n > 2) own.z += grad.z;
        if (n > 3) own.w += grad.w;
        store_quad<T, ALIGNED, FULL>(ddelta + i * ROW_STEP * D, grad, n);
        store_quad<T, ALIGNED, FULL>(
            du + i * ROW_STEP * D,
            make_float4(fmaf(dx0.x, v0.x, skip.x * dy.x), fmaf(dx0.z, v0.z, skip.y * dy.y),
                        fmaf(dx1.x, v1.x, skip.z * dy.z), fmaf(dx1.z, v1.z, skip.w * dy.w)),
            n);
      }
      s_own[F::THREADS + tid] = own;
      // Sums over this block's channels: four states of dB or of dC at a time.
      constexpr int RED_QUADS = TT * F::N / 2;
#pragma unroll
      for (int i = 0; i < (RED_QUADS + F::THREADS - 1) / F::THREADS; i++) {
        const int e = tid + i * F::THREADS;
        if (RED_QUADS % F::THREADS && e >= RED_QUADS) break;
        const int r = e / (F::N / 2), which = e / (F::N / 4) % 2, n = e % (F::N / 4) * 4;
        const float* red = s_red + ((n / 16 * WC) * TT + r) * F::RED + which * 16 + n % 16;
        float4 total = *reinterpret_cast<const float4*>(red);
#pragma unroll
        for (int k = 1; k < WC; k++) {
          const float4 one = *reinterpret_cast<const float4*>(red + k * TT * F::RED);
          total.x += one.x, total.y += one.y, total.z += one.z, total.w += one.w;
        }
        float* at = p.dBC + (((block * p.rows + batch * p.length + from + r) * 2 + which) * N + n);
        store_quad<float, ALIGNED, FULL>(at, total, FULL || t0 + r < steps ? N - n : 0);
      }
    };
    if (full) store_tile(Full());
    else store_tile(Ragged());
    // The next tile's loads write s_dx, s_dy, s_bc, of which s_dx and s_dy are read above.
    __syncthreads();
  }

#pragma unroll
  for (int j = 0; j < 2; j++)
#pragma unroll
    for (int s = 0; s < 2; s++) {
      const int n = n0 + 8 * s;
      if (j >= lane_valid || n >= N) continue;
      p.dA[(item * N + n) * D + d_lane + j] = dA[j][s];
      if (p.dh0 != nullptr) p.dh0[(span.sequence * D + d_lane + j) * N + n] = carry[j][s];
    }
  __syncthreads();
  if (tid < F::QUADS) {
    float4 total_D = none, total_bias = none;
    for (int k = 0; k < ROW_STEP; k++) {
      const float4 a = s_own[k * F::QUADS + tid], b = s_own[F::THREADS + k * F::QUADS + tid];
      total_D.x += a.x, total_D.y += a.y, total_D.z += a.z, total_D.w += a.w;
      total_bias.x += b.x, total_bias.y += b.y, total_bias.z += b.z, total_bias.w += b.w;
    }
    store_quad<float, false, false>(p.dD + item * D + d_quad_, total_D, valid);
    store_quad<float, false, false>(p.dbias + item * D + d_quad_, total_bias, valid);
  }
}

// dB and dC from the parts of blocks of channels: out[row, group, n] = sum over the group's blocks.
struct SumParams {
  const float* parts;  // (blocks, rows, 2, N)
  void* out;           // (rows, groups, N)
  i64 rows, states, groups, blocks, which;
};

template <typename T>
__global__ void __launch_bounds__(256) scan_sum_parts(SumParams p) {
  const i64 id = i64(blockIdx.x) * 256 + threadIdx.x, N = p.states;
  if (id >= p.rows * p.groups * N) return;
  const i64 n = id % N, group = id / N % p.groups, row = id / (N * p.groups);
  const i64 per_group = p.blocks / p.groups, stride = p.rows * 2 * N;
  const float* at = p.parts + group * per_group * stride + (row * 2 + p.which) * N + n;
  float total = 0.f;
#pragma unroll 8
  for (i64 k = 0; k < per_group; k++) total += at[k * stride];
  static_cast<T*>(p.out)[id] = from_float<T>(total);
}
