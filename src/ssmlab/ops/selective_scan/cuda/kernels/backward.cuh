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
// eight steps. Blocks write their parts, which scan_finish adds in a fixed order.

template <typename T, int WS, int WC, int TT, int WIN, bool SOFTPLUS, bool GATE, bool ALIGNED,
          int MIN_BLOCKS>
__global__ void __launch_bounds__(32 * WS * WC, MIN_BLOCKS) scan_backward(BackwardParams p) {
  using F = BackwardShape<WS, WC, TT>;
  using Rows = PairRows<F::QUADS>;
  using Raw = typename Quad<T>::Raw;
  constexpr bool EXACT = IsFloat<T>::value;
  constexpr int ROW_STEP = F::ROW_STEP, ROWS = F::ROWS, BC_STEPS = F::BC_STEPS, PARTS = TT / SEGMENT;

  extern __shared__ __align__(16) float shared[];
  float4* s_dx = reinterpret_cast<float4*>(shared);  // [TT][STRIDE] delta, delta u of a pair
  float2* s_dy = reinterpret_cast<float2*>(shared + F::DX);               // [TT][PAIRS]
  float4* s_slope = reinterpret_cast<float4*>(shared + F::DX + F::DY);    // [TT][QUADS] of softplus
  float* s_bc = shared + F::DX + F::DY + F::SLOPE;          // [TT][WS][8] B g, B g+8, C g, C g+8
  float2* s_sum = reinterpret_cast<float2*>(s_bc + F::BC);  // [TT][WS][SUM_STRIDE] sums over states
  float* s_part = s_bc + F::BC + F::SUM;                    // [WARPS][4][STEP]
  float* s_red = s_part + F::PART;                          // [WARPS][TT][RED]
  float4* s_own = reinterpret_cast<float4*>(s_red + F::REDUCE);  // [2][THREADS]
  float4* s_bias = s_own + 2 * F::THREADS;                       // [QUADS], and D behind it
  // What the next tile needs is copied here while this one is run: by each thread for itself.
  float2* s_kept = reinterpret_cast<float2*>(s_bias + 2 * F::QUADS);       // [2][PARTS][2][THREADS]
  Raw* s_raw = reinterpret_cast<Raw*>(s_kept + 2 * PARTS * 2 * F::THREADS);  // [6][ROWS][THREADS]
  auto* s_raw_bc = reinterpret_cast<typename Pair<T>::Raw*>(s_raw + F::RAW_QUADS);  // [4][BC_STEPS][THREADS]
  u64* s_base = reinterpret_cast<u64*>(s_raw_bc + F::RAW_PAIRS);             // [BASES]

  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, g = lane >> 2, q = lane & 3;
  const int wc = warp % WC, ws = warp / WC, N = int(p.states);
  const i64 item = blockIdx.x / p.blocks, block = blockIdx.x % p.blocks;
  const Span span = find_span(item, p.offsets, p.sequences, p.length, p.chunk);
  if (span.empty) return;
  const Channels ch = find_channels(block, p.segment, F::CT);
  const int pair = wc * 4 + q, n0 = ws * 16 + g;  // this lane's channels 2 pair (+1), states n0 (+8)
  const i64 D = p.channels, d_lane = ch.first + 2 * pair;
  const int lane_valid = ch.count - 2 * pair;
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

  const int steps = int(span.to - span.from);
  const bool whole = ALIGNED && ch.count == F::CT && N == F::N;
  const float4 none = make_float4(0.f, 0.f, 0.f, 0.f);
  // Sums for dD and dbias of this thread's channels.
  s_own[tid] = none, s_own[F::THREADS + tid] = none;
  if (tid < F::QUADS) {
    const i64 d = ch.first + 4 * tid, valid = ch.count - 4 * tid;
    s_bias[tid] = p.bias != nullptr ? load_quad<float, false, false>(p.bias + d, int(valid)) : none;
    s_bias[F::QUADS + tid] = p.D != nullptr ? load_quad<float, false, false>(p.D + d, int(valid)) : none;
  }
  if (tid == 0) set_bases<T>(s_base, p, span, ch, block);
  __syncthreads();

  // Slots of this thread: u of odd tiles lies apart, since u is read once more when the next tile is
  // being copied; so do the kept states.
  enum Slot { RAW_U, RAW_U_ODD, RAW_DELTA, RAW_DOUT, RAW_Z, RAW_Y };
  auto copy_tile = [&](int t0, auto whole_tile) {
    constexpr bool FULL = decltype(whole_tile)::value;
    const int own_id = opaque(tid), lq = own_id % F::QUADS, lr = own_id / F::QUADS;
    const int valid = ch.count - 4 * lq, odd = t0 / TT & 1;
    auto rows = [&](Slot slot, Base which, int row_step) {
      const T* from = offset<const T>(s_base, which, t0, row_step, lr * row_step + 4 * lq);
      Raw* to = s_raw + slot * ROWS * F::THREADS + own_id;
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
        const int r = lr + i * ROW_STEP;
        const int n = (TT >= ROW_STEP || r < TT) && (FULL || t0 + r < steps) ? valid : 0;
        if constexpr (ALIGNED)
          copy_async<sizeof(Raw), FULL && TT >= ROW_STEP>(
              to + i * F::THREADS, n > 0 ? from + i * ROW_STEP * row_step : from, n > 0);
        else
          to[i * F::THREADS] = load_quad<T, false, false>(from + i * ROW_STEP * row_step, n);
      }
    };
    rows(odd ? RAW_U_ODD : RAW_U, AT_U, int(p.u_t));
    rows(RAW_DELTA, AT_DELTA, int(p.delta_t));
    rows(RAW_DOUT, AT_DOUT, int(p.dout_t));
    if constexpr (GATE) {
      rows(RAW_Z, AT_Z, int(p.z_t));
      rows(RAW_Y, AT_Y_PRE, int(D));
    }
    auto pairs = [&](int slot, Base which, int row_step) {
#pragma unroll
      for (int i = 0; i < BC_STEPS; i++) {
        const int e = own_id + i * F::THREADS, r = e / (WS * 4), n = e / 4 % WS * 16 + e % 4 * 2;
        if (F::BC_ITEMS % F::THREADS && e >= F::BC_ITEMS) break;
        const bool row = FULL || t0 + r < steps;
        const T* from = offset<const T>(s_base, which, t0, row_step, row ? r * row_step + n : 0);
#pragma unroll
        for (int k = 0; k < 2; k++) {
          auto* to = s_raw_bc + ((slot + k) * BC_STEPS + i) * F::THREADS + own_id;
          const int left = row ? N - n - 8 * k : 0;
          if constexpr (ALIGNED) {
            copy_async<sizeof(*to), FULL>(to, FULL || left > 0 ? from + 8 * k : from, left > 0);
          } else {
            const T zero = from_float<T>(0.f);
            *to = Pair<T>::join(left > 0 ? from[8 * k] : zero, left > 1 ? from[8 * k + 1] : zero);
          }
        }
      }
    };
    pairs(0, AT_B, int(p.B_t));
    pairs(2, AT_C, int(p.C_t));
    const int own_warp = own_id >> 5, channel = own_warp % WC * 8 + own_id % 4 * 2;
    const int state = own_warp / WC * 16 + own_id % 32 / 4, row_step = int(D);
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
      const bool row = FULL || t0 + part * SEGMENT < steps;
      const float* from = offset<const float>(s_base, AT_KEPT, row ? t0 / SEGMENT + part : 0,
                                              N * row_step, state * row_step + channel);
#pragma unroll
      for (int k = 0; k < 2; k++) {
        float2* to = s_kept + ((odd * PARTS + part) * 2 + k) * F::THREADS + own_id;
        const int n = FULL || (row && state + 8 * k < N) ? ch.count - channel : 0;
        if constexpr (ALIGNED)
          copy_async<8, FULL>(to, FULL || n > 0 ? from + 8 * k * row_step : from, n > 0);
        else
          *to = load_two<false, false>(from + 8 * k * row_step, n);
      }
    }
  };
  auto copy = [&](int t0) {
    if (whole && t0 + TT <= steps) copy_tile(t0, Full());
    else copy_tile(t0, Ragged());
  };

  const int last_tile = (steps - 1) / TT * TT;
  if (steps > 0) copy(last_tile);
#pragma unroll 1
  for (int t0 = steps > 0 ? last_tile : -TT; t0 >= 0; t0 -= TT) {
    const bool full = whole && t0 + TT <= steps;
    const int dense_t = int(D), own_id = opaque(tid), odd = t0 / TT & 1;
    const int lq = own_id % F::QUADS, lr = own_id / F::QUADS, valid = ch.count - 4 * lq;
    const int dense_at = lr * dense_t + 4 * lq;
    const Raw* raw = s_raw + own_id;
    wait_copies();
    auto stage_tile = [&](auto whole_tile) {
      constexpr bool FULL = decltype(whole_tile)::value;
      const float4 bias = s_bias[lq];
      float4 own = s_own[own_id];
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
        const int r = lr + i * ROW_STEP;
        if (TT < ROW_STEP && r >= TT) break;
        auto quad = [&](int slot) { return Quad<T>::unpack(raw[(slot * ROWS + i) * F::THREADS]); };
        const float4 x = quad(RAW_U + odd);
        float4 d = quad(RAW_DELTA), dy = quad(RAW_DOUT);
        d.x += bias.x, d.y += bias.y, d.z += bias.z, d.w += bias.w;
        if constexpr (SOFTPLUS) {
          float4 slope;
          d.x = softplus_with_slope(d.x, &slope.x), d.y = softplus_with_slope(d.y, &slope.y);
          d.z = softplus_with_slope(d.z, &slope.z), d.w = softplus_with_slope(d.w, &slope.w);
          s_slope[r * F::QUADS + lq] = slope;
        }
        if (!FULL && t0 + r >= steps) d = none;  // a step that changes nothing
        if constexpr (GATE) {
          const int n = FULL || t0 + r < steps ? valid : 0;
          const float4 w = quad(RAW_Z), v = quad(RAW_Y);
          const float4 s = make_float4(sigmoid(w.x), sigmoid(w.y), sigmoid(w.z), sigmoid(w.w));
          const float4 gate = make_float4(w.x * s.x, w.y * s.y, w.z * s.z, w.w * s.w);
          T* dz = offset<T>(s_base, AT_DZ, t0, dense_t, dense_at) + i * ROW_STEP * dense_t;
          store_quad<T, ALIGNED, FULL>(dz, gate_gradient(dy, v, gate, s), n);
          dy.x *= gate.x, dy.y *= gate.y, dy.z *= gate.z, dy.w *= gate.w;
        }
        own.x = fmaf(dy.x, x.x, own.x), own.y = fmaf(dy.y, x.y, own.y);
        own.z = fmaf(dy.z, x.z, own.z), own.w = fmaf(dy.w, x.w, own.w);
        s_dx[r * Rows::STRIDE + lq] = make_float4(d.x, d.x * x.x, d.y, d.y * x.y);
        s_dx[r * Rows::STRIDE + Rows::HALF + lq] = make_float4(d.z, d.z * x.z, d.w, d.w * x.w);
        *reinterpret_cast<float4*>(s_dy + r * F::PAIRS + 2 * lq) = dy;
      }
      s_own[own_id] = own;
    };
    if (full) stage_tile(Full());
    else stage_tile(Ragged());
#pragma unroll
    for (int i = 0; i < BC_STEPS; i++) {
      const int e = own_id + i * F::THREADS;
      if (F::BC_ITEMS % F::THREADS && e >= F::BC_ITEMS) break;
      auto pair_of = [&](int slot) {
        return Pair<T>::unpack(s_raw_bc[(slot * BC_STEPS + i) * F::THREADS + own_id]);
      };
      const float2 b0 = pair_of(0), b8 = pair_of(1), c0 = pair_of(2), c8 = pair_of(3);
      float4* to = reinterpret_cast<float4*>(s_bc) + 2 * e;
      to[0] = make_float4(b0.x, b8.x, c0.x, c8.x), to[1] = make_float4(b0.y, b8.y, c0.y, c8.y);
    }
    __syncthreads();
    if (t0 > 0) copy(t0 - TT);

#pragma unroll 1
    for (int s0 = TT - SEGMENT; s0 >= 0; s0 -= SEGMENT) {
      if (t0 + s0 >= steps) continue;
      float start[2][2];
#pragma unroll
      for (int k = 0; k < 2; k++) {
        const float2 v = s_kept[((odd * PARTS + s0 / SEGMENT) * 2 + k) * F::THREADS + tid];
        start[0][k] = v.x, start[1][k] = v.y;
      }
      constexpr int WINDOWS = SEGMENT / WIN;
#pragma unroll 1
      for (int window = WINDOWS - 1; window >= 0; window--) {
        const int w0 = s0 + window * WIN;
        const float4* dx_at = s_dx + Rows::at(pair);
        const float* bc_at = s_bc + (ws * 8 + g) * 4;
        float h[2][2] = {{start[0][0], start[0][1]}, {start[1][0], start[1][1]}};
        if constexpr (WINDOWS > 1) {
#pragma unroll 1
          for (int t1 = s0; t1 < w0; t1 += WIN) {
#pragma unroll
            for (int i = 0; i < WIN; i++) {
              const float4 dx = dx_at[(t1 + i) * Rows::STRIDE];
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
          const float4 dx = dx_at[(w0 + i) * Rows::STRIDE];
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
        float4 held;
        // With registers to spare, a step's operands are loaded while the step after it is run.
        constexpr bool EARLY = WIN == SEGMENT;
        float4 next_dx = dx_at[(w0 + WIN - 1) * Rows::STRIDE];
        float2 next_dy = s_dy[(w0 + WIN - 1) * F::PAIRS + pair];
        float4 next_bc = *reinterpret_cast<const float4*>(bc_at + (w0 + WIN - 1) * WS * 32);
#pragma unroll
        for (int i = WIN - 1; i >= 0; i--) {
          const int t = w0 + i, ahead = EARLY && i > 0 ? t - 1 : t;
          if (!EARLY && i < WIN - 1) {
            next_dx = dx_at[t * Rows::STRIDE], next_dy = s_dy[t * F::PAIRS + pair];
            next_bc = *reinterpret_cast<const float4*>(bc_at + t * WS * 32);
          }
          const float4 dx = next_dx, bc = next_bc;
          const float2 dy = next_dy;
          if (EARLY) {
            next_dx = dx_at[ahead * Rows::STRIDE], next_dy = s_dy[ahead * F::PAIRS + pair];
            next_bc = *reinterpret_cast<const float4*>(bc_at + ahead * WS * 32);
          }
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
          float* part = s_part + warp * 4 * F::STEP + g * 16 + q * 4;
          // Stored a step late, behind the loads of the next step: those are not moved ahead of it.
          if (i % 4 != 3) *reinterpret_cast<float4*>(part + (i % 4 + 1) * F::STEP) = held;
          held = make_float4(v[0], v[1], v[2], v[3]);
          if (i % 4 == 0) {
            *reinterpret_cast<float4*>(part) = held;
            sum_states<F::STEP>(s_part + warp * 4 * F::STEP,
                                s_sum + (t * WS + ws) * F::SUM_STRIDE + wc * 8, WS * F::SUM_STRIDE, lane);
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
      const float4 skip = s_bias[F::QUADS + lq];
      float4 own = s_own[F::THREADS + own_id];
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
        const int r = lr + i * ROW_STEP;
        if (TT < ROW_STEP && r >= TT) break;
        const int n = FULL || t0 + r < steps ? valid : 0;
        const float4 x = Quad<T>::unpack(raw[((RAW_U + odd) * ROWS + i) * F::THREADS]);
        const float4 dx0 = s_dx[r * Rows::STRIDE + lq], dx1 = s_dx[r * Rows::STRIDE + Rows::HALF + lq];
        const float4 dy = *reinterpret_cast<const float4*>(s_dy + r * F::PAIRS + 2 * lq);
        float4 v0 = none, v1 = none;  // of each channel sum dh B and sum dh w A
#pragma unroll
        for (int k = 0; k < WS; k++) {
          const float4* at =
              reinterpret_cast<const float4*>(s_sum + (r * WS + k) * F::SUM_STRIDE + 4 * lq);
          const float4 one = at[0], two = at[1];
          v0.x += one.x, v0.y += one.y, v0.z += one.z, v0.w += one.w;
          v1.x += two.x, v1.y += two.y, v1.z += two.z, v1.w += two.w;
        }
        float4 grad = make_float4(fmaf(x.x, v0.x, v0.y), fmaf(x.y, v0.z, v0.w),
                                  fmaf(x.z, v1.x, v1.y), fmaf(x.w, v1.z, v1.w));
        if constexpr (SOFTPLUS) {
          const float4 slope = s_slope[r * F::QUADS + lq];
          grad.x *= slope.x, grad.y *= slope.y, grad.z *= slope.z, grad.w *= slope.w;
        }
        if (FULL || n > 0) own.x += grad.x;
        if (FULL || n > 1) own.y += grad.y;
        if (FULL || n > 2) own.z += grad.z;
        if (FULL || n > 3) own.w += grad.w;
        T* ddelta = offset<T>(s_base, AT_DDELTA, t0, dense_t, dense_at);
        T* du = offset<T>(s_base, AT_DU, t0, dense_t, dense_at);
        store_quad<T, ALIGNED, FULL>(ddelta + i * ROW_STEP * dense_t, grad, n);
        store_quad<T, ALIGNED, FULL>(
            du + i * ROW_STEP * dense_t,
            make_float4(fmaf(dx0.x, v0.x, skip.x * dy.x), fmaf(dx0.z, v0.z, skip.y * dy.y),
                        fmaf(dx1.x, v1.x, skip.z * dy.z), fmaf(dx1.z, v1.z, skip.w * dy.w)),
            n);
      }
      s_own[F::THREADS + own_id] = own;
      // Sums over this block's channels: four states of dB or of dC at a time.
      constexpr int RED_QUADS = TT * F::N / 2;
#pragma unroll
      for (int i = 0; i < (RED_QUADS + F::THREADS - 1) / F::THREADS; i++) {
        const int e = own_id + i * F::THREADS;
        if (RED_QUADS % F::THREADS && e >= RED_QUADS) break;
        const int r = e / (F::N / 2), which = e / (F::N / 4) % 2, n = e % (F::N / 4) * 4;
        const float* red = s_red + ((n / 16 * WC) * TT + r) * F::RED + which * 16 + n % 16;
        float4 total = *reinterpret_cast<const float4*>(red);
#pragma unroll
        for (int k = 1; k < WC; k++) {
          const float4 one = *reinterpret_cast<const float4*>(red + k * TT * F::RED);
          total.x += one.x, total.y += one.y, total.z += one.z, total.w += one.w;
        }
        float* at = offset<float>(s_base, AT_DBC, t0, 2 * N, (r * 2 + which) * N + n);
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
    const i64 at = item * D + ch.first + 4 * tid;
    const int left = ch.count - 4 * tid;
    store_quad<float, false, false>(p.dD + at, sum_threads<F::QUADS, ROW_STEP>(s_own + tid), left);
    store_quad<float, false, false>(p.dbias + at,
                                    sum_threads<F::QUADS, ROW_STEP>(s_own + F::THREADS + tid), left);
  }
}
