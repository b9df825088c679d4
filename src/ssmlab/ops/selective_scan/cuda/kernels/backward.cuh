// Backward scan, real A; B and C per step, or constant as in the forward scan. Needs forward.cuh for loads, stores and chunk scans.
//
// As in the forward pass two kinds of warps share a block: half of them run the recurrence, the others
// feed them (and where the GPU can do so, hand them registers), two tiles of 16 steps in shared memory
// between them. A warp that runs owns 8 channels x 16 states: a lane holds channels 2q, 2q+1
// (q = lane % 4) and states g, g+8 (g = lane / 4). Time is walked backwards, a tile at a time, from
// the states that the forward pass kept at the tiles' starts. In a window of WIN steps the recurrence
// is run forwards again, keeping a and w = a h_prev of each step in registers, then backwards:
//   dh = C dy + carry,  carry = a dh,  dA = sum_t dh w delta,  h = w + delta u B,
//   ddelta = sum_n dh (A w + u B),  du = delta sum_n dh B + D dy.
// Sums over states go through shared memory, four steps at a time within a warp. Sums over channels,
// dB = sum_d dh (delta u) and dC = sum_d h dy, are matrix products: their A operand is the layout of
// the lanes as it is, B holds a step's vector in column t % 8 alone, so that one accumulator takes
// eight steps. Blocks write their parts, which scan_finish adds in a fixed order. The gradient of a
// constant B or C is a sum over time, which a lane has in registers as that of A.

template <typename T, int WS, int WC, int WIN, int AHEAD, int RUN_REGISTERS, int FEED_REGISTERS,
          bool SOFTPLUS, bool GATE, bool ALIGNED, bool CONST_B, bool CONST_C, bool ALONG_TIME, int MIN_BLOCKS>
__global__ void __launch_bounds__(64 * WS * WC, MIN_BLOCKS) scan_backward(BackwardParams p) {
  static_assert(ALIGNED || !ALONG_TIME, "rows along time are read as wholes of four elements");
  using F = BackwardShape<WS, WC, AHEAD, ALONG_TIME>;
  using Rows = typename F::Rows;
  using Raw = typename Quad<T>::Raw;
  using RawPair = typename Pair<T>::Raw;
  constexpr bool EXACT = IsFloat<T>::value;
  constexpr int TT = F::TT, ROW_STEP = F::ROW_STEP, ROWS = F::ROWS, BC_STEPS = F::BC_STEPS;

  extern __shared__ __align__(16) float shared[];  // two of each up to s_red, for odd and even tiles
  float4* s_dx = reinterpret_cast<float4*>(shared);                     // [TT][STRIDE] delta, delta u
  float2* s_dy = reinterpret_cast<float2*>(shared + 2 * F::DX);         // [TT][PAIRS]
  float4* s_slope = reinterpret_cast<float4*>(shared + 2 * (F::DX + F::DY));  // [TT][QUADS] of softplus
  float* s_bc = shared + 2 * (F::DX + F::DY + F::SLOPE);       // [TT][WS][8] B g, B g+8, C g, C g+8
  float2* s_sum = reinterpret_cast<float2*>(s_bc + 2 * F::BC);  // [TT][WS][SUM_STRIDE] over states
  float* s_red = s_bc + 2 * (F::BC + F::SUM);                   // [WARPS][TT][RED]
  float* s_part = s_red + 2 * F::REDUCE;                        // [WARPS][4][STEP]
  float4* s_own = reinterpret_cast<float4*>(s_part + F::PART);  // [2][FEEDERS] for dD and dbias
  float4* s_bias = s_own + 2 * F::FEEDERS;                      // [QUADS], and D behind it
  Raw* s_raw_u = reinterpret_cast<Raw*>(s_bias + 2 * F::QUADS);  // [RING_U][ROWS][FEEDERS]
  Raw* s_raw = s_raw_u + F::RING_U * F::RAW_U;                   // [RING][4][ROWS][FEEDERS]
  RawPair* s_raw_bc = reinterpret_cast<RawPair*>(s_raw + F::RING * F::RAW_QUADS);  // [RING][4][BC_STEPS][FEEDERS]

  const int tid = threadIdx.x, N = int(p.states);
  const i64 item = blockIdx.x / p.blocks, block = blockIdx.x % p.blocks;
  const Span span = find_span(item, p.offsets, p.sequences, p.length, p.chunk);
  if (span.empty) return;
  const Channels ch = find_channels(block, p.segment, F::CT);
  const i64 D = p.channels;
  const int steps = int(span.to - span.from), tiles = (steps + TT - 1) / TT;
  const bool whole = ALIGNED && ch.count == F::CT && N == F::N;
  const float4 none = make_float4(0.f, 0.f, 0.f, 0.f);
  auto tile_start = [&](int tile) { return (tiles - 1 - tile) * TT; };
  if (tid < F::QUADS) {
    const i64 d = ch.first + 4 * tid, valid = ch.count - 4 * tid;
    s_bias[tid] = p.bias != nullptr ? load_quad<float, false, false>(p.bias + d, int(valid)) : none;
    s_bias[F::QUADS + tid] = p.D != nullptr ? load_quad<float, false, false>(p.D + d, int(valid)) : none;
  }
  __syncthreads();

  if (tid < F::RUNNERS) {
    set_registers<RUN_REGISTERS, true>();
    const int warp = tid >> 5, lane = tid & 31, g = lane >> 2, q = lane & 3;
    const int wc = warp % WC, ws = warp / WC;
    const int pair = wc * 4 + q, n0 = ws * 16 + g;  // channels 2 pair (+1), states n0 (+8)
    const i64 d_lane = ch.first + 2 * pair;
    const int lane_valid = ch.count - 2 * pair;
    float A[2][2], carry[2][2], dA[2][2];  // [channel][state]
    float fixed_B[2][2], fixed_C[2][2], dB[2][2], dC[2][2];
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
      for (int s = 0; s < 2; s++) {
        const i64 d = d_lane + j;
        const int n = n0 + 8 * s;
        const bool real = j < lane_valid && n < N;
        A[j][s] = real ? p.A[d * N + n] * LOG2E : 0.f;
        dA[j][s] = dB[j][s] = dC[j][s] = carry[j][s] = 0.f;
        if constexpr (CONST_B) fixed_B[j][s] = real ? static_cast<const float*>(p.B)[d * N + n] : 0.f;
        if constexpr (CONST_C) fixed_C[j][s] = real ? static_cast<const float*>(p.C)[d * N + n] : 0.f;
        if (real && p.chunk_state != nullptr && p.chunk_sum == nullptr)
          carry[j][s] = p.chunk_state[(item * N + n) * D + d];
        else if (real && p.dlast != nullptr) carry[j][s] = p.dlast[(span.sequence * D + d) * N + n];
      }
    if (p.chunk_sum != nullptr) {  // the chunks behind this one, from their own gradients
      const i64 behind = (span.end - span.to + p.chunk - 1) / p.chunk;
#pragma unroll 4
      for (i64 k = item + behind; k > item; k--) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
          if (j >= lane_valid) continue;
          const float own_sum = p.chunk_sum[k * D + d_lane + j];
#pragma unroll
          for (int s = 0; s < 2; s++)
            if (n0 + 8 * s < N)
              carry[j][s] = fmaf(exp2_fast(A[j][s] * own_sum), carry[j][s],
                                 p.chunk_state[(k * N + n0 + 8 * s) * D + d_lane + j]);
        }
      }
    }
    // The states at a tile's start are loaded while the tile before it is run.
    const i64 first_kept = kept_slot(span, p.offsets, p.length) + (span.from - span.begin) / SEGMENT;
    const float* kept = p.kept + (first_kept + tiles - 1) * N * D + n0 * D + d_lane;
    float2 start[2];
    auto load_start = [&] {
      if (whole) {
        start[0] = load_two<ALIGNED, true>(kept, 2), start[1] = load_two<ALIGNED, true>(kept + 8 * D, 2);
      } else {
#pragma unroll
        for (int k = 0; k < 2; k++)
          start[k] = load_two<ALIGNED, false>(kept + 8 * k * D, n0 + 8 * k < N ? lane_valid : 0);
      }
      kept -= N * D;
    };
    if (tiles > 0) load_start();

#pragma unroll 1
    for (int tile = 0; tile < tiles; tile++) {
      const int odd = tile & 1;
      const float h_start[2][2] = {{start[0].x, start[1].x}, {start[0].y, start[1].y}};
      wait_staged<F::FEEDERS>(warp, odd);
      if (tile + 1 < tiles) load_start();
      const float4* dx_at = s_dx + odd * (F::DX / 4) + Rows::at(pair);
      const float2* dy_at = s_dy + odd * (F::DY / 2) + pair;
      const float* bc_at = s_bc + odd * F::BC + (ws * 8 + g) * 4;
      float2* sum_at = s_sum + odd * (F::SUM / 2) + ws * F::SUM_STRIDE + wc * 8;
      float* red_at = s_red + odd * F::REDUCE + warp * TT * F::RED + g;
      float* parts = s_part + warp * 4 * F::STEP;
      auto load_B = [&](int t) {
        if constexpr (CONST_B) return make_float2(0.f, 0.f);
        else return *reinterpret_cast<const float2*>(bc_at + t * WS * 32);
      };
      auto load_bc = [&](int t) {
        if constexpr (CONST_B && CONST_C) return none;
        else return *reinterpret_cast<const float4*>(bc_at + t * WS * 32);
      };
      auto B_of = [&](int j, int s, float2 b) { return CONST_B ? fixed_B[j][s] : (s ? b.y : b.x); };
#pragma unroll 1
      for (int w0 = TT - WIN; w0 >= 0; w0 -= WIN) {
        float h[2][2] = {{h_start[0][0], h_start[0][1]}, {h_start[1][0], h_start[1][1]}};
        if constexpr (WIN < TT) {
#pragma unroll 1
          for (int t1 = 0; t1 < w0; t1 += WIN) {
#pragma unroll
            for (int i = 0; i < WIN; i++) {
              const float4 dx = dx_at[(t1 + i) * Rows::STRIDE];
              const float2 b = load_B(t1 + i);
#pragma unroll
              for (int s = 0; s < 2; s++) {
                h[0][s] = fmaf(exp2_fast(dx.x * A[0][s]), h[0][s], dx.y * B_of(0, s, b));
                h[1][s] = fmaf(exp2_fast(dx.z * A[1][s]), h[1][s], dx.w * B_of(1, s, b));
              }
            }
          }
        }
        float a[WIN][2][2], w[WIN][2][2];
#pragma unroll
        for (int i = 0; i < WIN; i++) {
          const float4 dx = dx_at[(w0 + i) * Rows::STRIDE];
          const float2 b = load_B(w0 + i);
#pragma unroll
          for (int s = 0; s < 2; s++) {
            a[i][0][s] = exp2_fast(dx.x * A[0][s]);
            a[i][1][s] = exp2_fast(dx.z * A[1][s]);
            w[i][0][s] = a[i][0][s] * h[0][s];
            w[i][1][s] = a[i][1][s] * h[1][s];
            h[0][s] = fmaf(dx.y, B_of(0, s, b), w[i][0][s]);
            h[1][s] = fmaf(dx.w, B_of(1, s, b), w[i][1][s]);
          }
        }
        float sum_B[4], sum_C[4];
        float4 held;
        // With registers to spare, a step's operands are loaded while the step after it is run.
        constexpr bool EARLY = WIN == TT;
        float4 next_dx = dx_at[(w0 + WIN - 1) * Rows::STRIDE];
        float2 next_dy = dy_at[(w0 + WIN - 1) * F::DY_ROW];
        float4 next_bc = load_bc(w0 + WIN - 1);
#pragma unroll
        for (int i = WIN - 1; i >= 0; i--) {
          const int t = w0 + i, ahead = EARLY && i > 0 ? t - 1 : t;
          if (!EARLY && i < WIN - 1) {
            next_dx = dx_at[t * Rows::STRIDE], next_dy = dy_at[t * F::DY_ROW];
            next_bc = load_bc(t);
          }
          const float4 dx = next_dx, bc = next_bc;
          const float2 dy = next_dy;
          if (EARLY) {
            next_dx = dx_at[ahead * Rows::STRIDE], next_dy = dy_at[ahead * F::DY_ROW];
            next_bc = load_bc(ahead);
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
              const float b = B_of(j, s, make_float2(bc.x, bc.y));
              const float c = CONST_C ? fixed_C[j][s] : (s ? bc.w : bc.z);
              const float d = j ? dx.z : dx.x, x = j ? dx.w : dx.y, y = j ? dy.y : dy.x;
              const float grad = fmaf(c, y, carry[j][s]), product = grad * w[i][j][s];
              dh[2 * j + s] = grad;
              hh[2 * j + s] = fmaf(x, b, w[i][j][s]);
              carry[j][s] = grad * a[i][j][s];
              dA[j][s] = fmaf(product, d, dA[j][s]);
              if constexpr (CONST_B) dB[j][s] = fmaf(grad, x, dB[j][s]);
              if constexpr (CONST_C) dC[j][s] = fmaf(hh[2 * j + s], y, dC[j][s]);
              v[2 * j] = fmaf(grad, b, v[2 * j]);
              v[2 * j + 1] = fmaf(product, A[j][s], v[2 * j + 1]);
            }
          const bool mine = g == i % 8;
          if constexpr (!CONST_C) mma_step<EXACT>(sum_C, hh, mine ? dy.x : 0.f, mine ? dy.y : 0.f);
          if constexpr (!CONST_B) mma_step<EXACT>(sum_B, dh, mine ? dx.y : 0.f, mine ? dx.w : 0.f);
          float* part = parts + g * 16 + q * 4;
          // Stored a step late, behind the loads of the next step: those are not moved ahead of it.
          if (i % 4 != 3) *reinterpret_cast<float4*>(part + (i % 4 + 1) * F::STEP) = held;
          held = make_float4(v[0], v[1], v[2], v[3]);
          if (i % 4 == 0) {
            *reinterpret_cast<float4*>(part) = held;
            sum_states<F::STEP>(parts, sum_at + t * WS * F::SUM_STRIDE, WS * F::SUM_STRIDE, lane);
          }
          if (i % 8 == 0) {
            float* red = red_at + t * F::RED;
#pragma unroll
            for (int k = 0; k < 2; k++) {
              float* at = red + (2 * q + k) * F::RED;
              if constexpr (!CONST_B) at[0] = sum_B[k], at[8] = sum_B[2 + k];
              if constexpr (!CONST_C) at[16] = sum_C[k], at[24] = sum_C[2 + k];
            }
          }
        }
      }
      barrier_arrive<F::THREADS>(DONE + odd);
    }
    // Found anew: kept in registers over the loop, all this would leave too few for the window.
    const int own = opaque(tid), own_block = opaque(blockIdx.x), states = int(p.states);
    const i64 own_item = own_block / p.blocks, width = p.channels;
    const Span at = find_span(own_item, p.offsets, p.sequences, p.length, p.chunk);
    const Channels own_ch = find_channels(own_block % p.blocks, p.segment, F::CT);
    const int c = own / 32 % WC * 8 + own % 4 * 2, n_first = own / 32 / WC * 16 + own % 32 / 4;
    const bool first = p.dh0 != nullptr && at.from == at.begin;
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
      for (int s = 0; s < 2; s++) {
        const int n = n_first + 8 * s;
        const i64 d = own_ch.first + c + j;
        if (c + j >= own_ch.count || n >= states) continue;
        const i64 part = (own_item * states + n) * width + d;
        p.dA[part] = dA[j][s];
        if constexpr (CONST_B) p.fixed_dB[part] = dB[j][s];
        if constexpr (CONST_C) p.fixed_dC[part] = dC[j][s];
        if (first) p.dh0[(at.sequence * width + d) * states + n] = carry[j][s];
      }
    return;
  }

  set_registers<FEED_REGISTERS, false>();
  // A thread has four elements of a tile, in this order: of one step four channels from `first` on; or,
  // ALONG_TIME, of two channels the steps lr, lr + 1 each. Steps are then a multiple of four, as
  // channels are, so that they are all there or none; `pair` is that of these two channels.
  using Place = TimePlace<TT, 2>;
  const int fid = tid - F::RUNNERS, lq = fid % F::QUADS, pair = Place::pair(fid);
  const int lr = ALONG_TIME ? Place::step(fid) : fid / F::QUADS, first = ALONG_TIME ? 2 * pair : 4 * lq;
  const int left = ch.count - first, valid = ALONG_TIME && left > 0 ? 4 : left;
  constexpr bool ALL_FEED = ALONG_TIME ? F::ITEMS == F::FEEDERS : TT >= ROW_STEP;
  s_own[fid] = none, s_own[F::FEEDERS + fid] = none;
  enum Slot { RAW_DELTA, RAW_DOUT, RAW_Z, RAW_Y };
  auto raw_u_of = [&](int tile) { return s_raw_u + tile % F::RING_U * F::RAW_U + fid; };
  auto raw_of = [&](int tile) { return s_raw + tile % F::RING * F::RAW_QUADS + fid; };
  auto raw_bc_of = [&](int tile) { return s_raw_bc + tile % F::RING * F::RAW_PAIRS + fid; };

  // This thread's place in the tile that is copied next, and (dense) in the one that is stored next.
  const i64 t_last = span.from + tile_start(0) + lr;
  const int u_t = int(p.u_t), delta_t = int(p.delta_t), dout_t = int(p.dout_t), z_t = int(p.z_t);
  const T* u = static_cast<const T*>(p.u) + (span.batch * p.u_b + t_last * u_t + ch.first + 4 * lq);
  const T* delta = static_cast<const T*>(p.delta) +
                   (span.batch * p.delta_b + t_last * delta_t + ch.first + 4 * lq);
  const T* dout =
      static_cast<const T*>(p.dout) + (span.batch * p.dout_b + t_last * dout_t + ch.first + 4 * lq);
  const T* z = static_cast<const T*>(p.z) + (span.batch * p.z_b + t_last * z_t + ch.first + 4 * lq);
  const int dense_t = int(D), dense_tile = TT * dense_t;
  i64 dense = (span.batch * p.length + t_last) * D + ch.first + first;
  // ALONG_TIME the block's part of an address is kept, and a thread's made anew from what it is, as
  // pointers kept for each tensor would spill.
  auto run_of = [&](auto* x, i64 block_part, i64 row_step, int tile) {
    const int own = opaque(fid);
    return x + (block_part + tile_start(tile)) + (2 * Place::pair(own) * row_step + Place::step(own));
  };
  auto copied_run = [&](const void* x, i64 batch, i64 row_step, int tile) {
    return run_of(static_cast<const T*>(x), span.batch * batch + ch.first * row_step + span.from, row_step, tile);
  };
  // In memory that we allocate: y before the gate is (B, L, D) in either case, gradients lie as u.
  auto stored_at = [&](void* x, int tile, int ahead) {
    if constexpr (ALONG_TIME)
      return run_of(static_cast<T*>(x), (span.batch * D + ch.first) * p.length + span.from, p.length, tile);
    else return static_cast<T*>(x) + (dense - ahead * dense_tile);
  };
  auto store_four = [&](T* to, int i, float4 v, auto whole_tile, int n) {
    constexpr bool FULL = decltype(whole_tile)::value;
    if constexpr (!ALONG_TIME) {
      store_quad<T, ALIGNED, FULL>(to + i * ROW_STEP * dense_t, v, n);
    } else if (FULL || n > 0) {
      Run<T, 2>::store_pair(to, make_float2(v.x, v.y));
      Run<T, 2>::store_pair(to + p.length, make_float2(v.z, v.w));
    }
  };
  const int bc_row = fid / (WS * 4), bc_n = fid / 4 % WS * 16 + fid % 4 * 2;
  constexpr int BC_ROWS = F::FEEDERS / (WS * 4);  // rows of B and C that the feeders copy at once
  const int B_t = int(p.B_t), C_t = int(p.C_t);
  const i64 t_bc = t_last - lr + bc_row;
  const T* B = static_cast<const T*>(p.B) +
               (span.batch * p.B_b + t_bc * B_t + ch.first / p.group_B * p.B_g + bc_n);
  const T* C = static_cast<const T*>(p.C) +
               (span.batch * p.C_b + t_bc * C_t + ch.first / p.group_C * p.C_g + bc_n);

  // dB and dC: a thread adds four states of one of them, at rows red_row, red_row + RED_ROWS, ...
  constexpr int RED_QUADS = TT * F::N / 2, RED_STEPS = (RED_QUADS + F::FEEDERS - 1) / F::FEEDERS;
  constexpr int RED_ROWS = F::FEEDERS / (F::N / 2);
  const int red_row = fid / (F::N / 2), red_which = fid / (F::N / 4) % 2, red_n = fid % (F::N / 4) * 4;
  const int red_at = (red_n / 16 * WC * TT + red_row) * F::RED + red_which * 16 + red_n % 16;
  float* dBC = p.dBC + (block * p.rows + span.batch * p.length + span.from + tile_start(0) + red_row) * 2 * N +
               red_which * N + red_n;

  auto copy_rows = [&](int tile, auto whole_tile) {
    constexpr bool FULL = decltype(whole_tile)::value;
    const int left = steps - tile_start(tile);
    auto rows = [&](Raw* to, const T* from, int row_step) {
      if constexpr (ALONG_TIME) {
        const bool wanted = (FULL && ALL_FEED) || (valid > 0 && lr < left);
#pragma unroll
        for (int k = 0; k < 2; k++)
          copy_run<sizeof(RawPair), FULL && ALL_FEED>(
              reinterpret_cast<RawPair*>(to) + k,
              wanted ? from + k * row_step : static_cast<const T*>(p.u), wanted);
        return;
      }
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
        const int r = lr + i * ROW_STEP;
        const int n = (ALL_FEED || r < TT) && (FULL || r < left) ? valid : 0;
        const T* at = from + i * ROW_STEP * row_step;
        if constexpr (ALIGNED)
          copy_async<sizeof(Raw), FULL && ALL_FEED>(
              to + i * F::FEEDERS, n > 0 ? at : static_cast<const T*>(p.u), n > 0);
        else
          to[i * F::FEEDERS] = load_quad<T, false, false>(at, n);
      }
    };
    auto slot = [&](Slot which) { return raw_of(tile) + which * ROWS * F::FEEDERS; };
    if constexpr (ALONG_TIME) {
      rows(raw_u_of(tile), copied_run(p.u, p.u_b, p.u_t, tile), u_t);
      rows(slot(RAW_DELTA), copied_run(p.delta, p.delta_b, p.delta_t, tile), delta_t);
      rows(slot(RAW_DOUT), copied_run(p.dout, p.dout_b, p.dout_t, tile), dout_t);
      if constexpr (GATE) rows(slot(RAW_Z), copied_run(p.z, p.z_b, p.z_t, tile), z_t);
    } else {
      rows(raw_u_of(tile), u, u_t);
      rows(slot(RAW_DELTA), delta, delta_t);
      rows(slot(RAW_DOUT), dout, dout_t);
      if constexpr (GATE) rows(slot(RAW_Z), z, z_t);
    }
    if constexpr (GATE) {
      rows(slot(RAW_Y), static_cast<const T*>(p.y_pre) + (dense - (AHEAD + 2) * dense_tile), dense_t);
    }
    auto pairs = [&](int slot, const T* from, int row_step) {
#pragma unroll
      for (int i = 0; i < BC_STEPS; i++) {
        if (F::BC_ITEMS % F::FEEDERS && fid + i * F::FEEDERS >= F::BC_ITEMS) break;
        const bool row = FULL || bc_row + i * BC_ROWS < left;
#pragma unroll
        for (int k = 0; k < 2; k++) {
          RawPair* to = raw_bc_of(tile) + ((slot + k) * BC_STEPS + i) * F::FEEDERS;
          const int count = row ? N - bc_n - 8 * k : 0;
          const T* at = from + i * BC_ROWS * row_step + 8 * k;
          if constexpr (ALIGNED) {
            copy_async<sizeof(*to), FULL>(to, FULL || count > 0 ? at : static_cast<const T*>(p.u),
                                          count > 0);
          } else {
            const T zero = from_float<T>(0.f);
            *to = Pair<T>::join(count > 0 ? at[0] : zero, count > 1 ? at[1] : zero);
          }
        }
      }
    };
    if constexpr (!CONST_B) pairs(0, B, B_t);
    if constexpr (!CONST_C) pairs(2, C, C_t);
  };
  auto is_full = [&](int tile) { return whole && tile_start(tile) + TT <= steps; };
  auto copy_tile = [&](int tile) {
    if (tile < tiles) {
      if (is_full(tile)) copy_rows(tile, Full());
      else copy_rows(tile, Ragged());
      u -= TT * u_t, delta -= TT * delta_t, dout -= TT * dout_t, z -= TT * z_t;
      B -= TT * B_t, C -= TT * C_t;
    }
    end_copy_group();  // empty behind the last tile, so that the count of groups goes on
  };

  auto of_channels = [&](const float4* values) {  // of this thread's elements
    const float2 own = reinterpret_cast<const float2*>(values)[pair < F::PAIRS ? pair : 0];
    return make_float4(own.x, own.x, own.y, own.y);
  };
  auto stage_rows = [&](int tile, auto whole_tile) {
    constexpr bool FULL = decltype(whole_tile)::value;
    const int t0 = tile_start(tile), odd = tile & 1;
    float4* dx_at = s_dx + odd * (F::DX / 4) + (ALONG_TIME ? pair : lq);
    float4 bias;
    if constexpr (ALONG_TIME) bias = of_channels(s_bias);
    else bias = s_bias[lq];
    float4 own = s_own[fid];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      const int r = lr + i * ROW_STEP;
      if (!ALL_FEED && (ALONG_TIME ? fid >= F::ITEMS : r >= TT)) break;
      auto quad = [&](int slot) { return Quad<T>::unpack(raw_of(tile)[(slot * ROWS + i) * F::FEEDERS]); };
      const float4 x = Quad<T>::unpack(raw_u_of(tile)[i * F::FEEDERS]);
      float4 d = quad(RAW_DELTA), dy = quad(RAW_DOUT);
      d.x += bias.x, d.y += bias.y, d.z += bias.z, d.w += bias.w;
      if constexpr (SOFTPLUS) {
        float4 slope;
        d.x = softplus_with_slope(d.x, &slope.x), d.y = softplus_with_slope(d.y, &slope.y);
        d.z = softplus_with_slope(d.z, &slope.z), d.w = softplus_with_slope(d.w, &slope.w);
        s_slope[odd * (F::SLOPE / 4) + (ALONG_TIME ? fid : r * F::QUADS + lq)] = slope;
      }
      if (!FULL && t0 + r >= steps) d = none;  // a step that changes nothing
      if constexpr (GATE) {
        const int n = FULL || t0 + r < steps ? valid : 0;
        const float4 w = quad(RAW_Z), v = ALONG_TIME ? crossed(quad(RAW_Y)) : quad(RAW_Y);
        const float4 s = make_float4(sigmoid(w.x), sigmoid(w.y), sigmoid(w.z), sigmoid(w.w));
        const float4 gate = make_float4(w.x * s.x, w.y * s.y, w.z * s.z, w.w * s.w);
        T* dz = stored_at(p.dz, tile, 2);
        store_four(dz, i, gate_gradient(dy, v, gate, s), whole_tile, n);
        dy.x *= gate.x, dy.y *= gate.y, dy.z *= gate.z, dy.w *= gate.w;
      }
      own.x = fmaf(dy.x, x.x, own.x), own.y = fmaf(dy.y, x.y, own.y);
      own.z = fmaf(dy.z, x.z, own.z), own.w = fmaf(dy.w, x.w, own.w);
      if constexpr (ALONG_TIME) {
        dx_at[r * Rows::STRIDE] = make_float4(d.x, d.x * x.x, d.z, d.z * x.z);
        dx_at[(r + 1) * Rows::STRIDE] = make_float4(d.y, d.y * x.y, d.w, d.w * x.w);
        float2* dy_at = s_dy + odd * (F::DY / 2) + r * F::DY_ROW + pair;
        dy_at[0] = make_float2(dy.x, dy.z), dy_at[F::DY_ROW] = make_float2(dy.y, dy.w);
      } else {
        dx_at[r * Rows::STRIDE] = make_float4(d.x, d.x * x.x, d.y, d.y * x.y);
        dx_at[r * Rows::STRIDE + Rows::HALF] = make_float4(d.z, d.z * x.z, d.w, d.w * x.w);
        *reinterpret_cast<float4*>(s_dy + odd * (F::DY / 2) + r * F::PAIRS + 2 * lq) = dy;
      }
    }
    s_own[fid] = own;
  };
  auto stage_tile = [&](int tile) {
    if (is_full(tile)) stage_rows(tile, Full());
    else stage_rows(tile, Ragged());
    if constexpr (CONST_B && CONST_C) return;
    float4* to = reinterpret_cast<float4*>(s_bc + (tile & 1) * F::BC);
#pragma unroll
    for (int i = 0; i < BC_STEPS; i++) {
      const int e = fid + i * F::FEEDERS;
      if (F::BC_ITEMS % F::FEEDERS && e >= F::BC_ITEMS) break;
      auto pair_of = [&](int slot) {
        if (slot < 2 ? CONST_B : CONST_C) return make_float2(0.f, 0.f);
        return Pair<T>::unpack(raw_bc_of(tile)[(slot * BC_STEPS + i) * F::FEEDERS]);
      };
      const float2 b0 = pair_of(0), b8 = pair_of(1), c0 = pair_of(2), c8 = pair_of(3);
      to[2 * e] = make_float4(b0.x, b8.x, c0.x, c8.x), to[2 * e + 1] = make_float4(b0.y, b8.y, c0.y, c8.y);
    }
  };

  auto store_rows = [&](int tile, auto whole_tile) {
    constexpr bool FULL = decltype(whole_tile)::value;
    const int t0 = tile_start(tile), odd = tile & 1;
    const float4* dx_at = s_dx + odd * (F::DX / 4) + (ALONG_TIME ? pair : lq);
    float4 skip;
    if constexpr (ALONG_TIME) skip = of_channels(s_bias + F::QUADS);
    else skip = s_bias[F::QUADS + lq];
    float4 own = s_own[F::FEEDERS + fid];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      const int r = lr + i * ROW_STEP;
      if (!ALL_FEED && (ALONG_TIME ? fid >= F::ITEMS : r >= TT)) break;
      const int n = FULL || t0 + r < steps ? valid : 0;
      const float4 x = Quad<T>::unpack(raw_u_of(tile)[i * F::FEEDERS]);
      float4 d, dy, v0 = none, v1 = none;  // v: of each element sum dh B and sum dh w A
      if constexpr (ALONG_TIME) {
        const float4 dx0 = dx_at[r * Rows::STRIDE], dx1 = dx_at[(r + 1) * Rows::STRIDE];
        const float2* dy_at = s_dy + odd * (F::DY / 2) + r * F::DY_ROW + pair;
        const float2 dy0 = dy_at[0], dy1 = dy_at[F::DY_ROW];
        d = make_float4(dx0.x, dx1.x, dx0.z, dx1.z), dy = make_float4(dy0.x, dy1.x, dy0.y, dy1.y);
      } else {
        const float4 dx0 = dx_at[r * Rows::STRIDE], dx1 = dx_at[r * Rows::STRIDE + Rows::HALF];
        d = make_float4(dx0.x, dx0.z, dx1.x, dx1.z);
        dy = *reinterpret_cast<const float4*>(s_dy + odd * (F::DY / 2) + r * F::PAIRS + 2 * lq);
      }
#pragma unroll
      for (int k = 0; k < WS; k++) {
        const float4* at = reinterpret_cast<const float4*>(s_sum + odd * (F::SUM / 2) +
                                                           (r * WS + k) * F::SUM_STRIDE + first);
        const float4 one = at[0], two = at[ALONG_TIME ? WS * F::SUM_STRIDE / 2 : 1];
        v0.x += one.x, v0.y += one.y, v0.z += one.z, v0.w += one.w;
        v1.x += two.x, v1.y += two.y, v1.z += two.z, v1.w += two.w;
      }
      if constexpr (ALONG_TIME) {  // each channel's second step from one half of both to its first's side
        const float2 half = make_float2(v0.z, v0.w);
        v0.z = v1.x, v0.w = v1.y, v1.x = half.x, v1.y = half.y;
      }
      float4 grad = make_float4(fmaf(x.x, v0.x, v0.y), fmaf(x.y, v0.z, v0.w),
                                fmaf(x.z, v1.x, v1.y), fmaf(x.w, v1.z, v1.w));
      if constexpr (SOFTPLUS) {
        const float4 slope = s_slope[odd * (F::SLOPE / 4) + (ALONG_TIME ? fid : r * F::QUADS + lq)];
        grad.x *= slope.x, grad.y *= slope.y, grad.z *= slope.z, grad.w *= slope.w;
      }
      if (FULL || n > 0) own.x += grad.x;
      if (FULL || n > 1) own.y += grad.y;
      if (FULL || n > 2) own.z += grad.z;
      if (FULL || n > 3) own.w += grad.w;
      T* ddelta = stored_at(p.ddelta, tile, 0);
      T* du = stored_at(p.du, tile, 0);
      store_four(ddelta, i, grad, whole_tile, n);
      store_four(du, i,
                 make_float4(fmaf(d.x, v0.x, skip.x * dy.x), fmaf(d.y, v0.z, skip.y * dy.y),
                             fmaf(d.z, v1.x, skip.z * dy.z), fmaf(d.w, v1.z, skip.w * dy.w)),
                 whole_tile, n);
    }
    s_own[F::FEEDERS + fid] = own;
    // Sums over this block's channels: four states of dB or of dC at a time.
    if (red_which ? CONST_C : CONST_B) return;
#pragma unroll
    for (int i = 0; i < RED_STEPS; i++) {
      if (RED_QUADS % F::FEEDERS && fid + i * F::FEEDERS >= RED_QUADS) break;
      const int r = red_row + i * RED_ROWS;
      const float* red = s_red + odd * F::REDUCE + red_at + i * RED_ROWS * F::RED;
      float4 total = *reinterpret_cast<const float4*>(red);
#pragma unroll
      for (int k = 1; k < WC; k++) {
        const float4 one = *reinterpret_cast<const float4*>(red + k * TT * F::RED);
        total.x += one.x, total.y += one.y, total.z += one.z, total.w += one.w;
      }
      store_quad<float, ALIGNED, FULL>(dBC + i * RED_ROWS * 2 * N, total,
                                       FULL || t0 + r < steps ? N - red_n : 0);
    }
  };
  auto store_tile = [&](int tile) {
    if (is_full(tile)) store_rows(tile, Full());
    else store_rows(tile, Ragged());
    dBC -= TT * 2 * N;
  };

  dense += (AHEAD + 2) * dense_tile;
#pragma unroll 1
  for (int tile = -AHEAD - 2; tile < tiles; tile++) {
    if (tile >= 0) {
      barrier_wait<F::THREADS>(DONE + (tile & 1));
      store_tile(tile);
    }
    const int next = tile + 2;
    if (next >= 0 && next < tiles) {
      wait_copy_groups<AHEAD - 1>();
      stage_tile(next);
      arrive_staged<F::FEEDERS, F::WARPS>(next & 1);
    }
    copy_tile(next + AHEAD);
    dense -= dense_tile;
  }
  barrier_wait<F::FEEDERS>(FED);
  const int own = opaque(fid), own_block = opaque(blockIdx.x);
  if constexpr (ALONG_TIME) {
    if (own >= F::PAIRS) return;
    const Channels own_ch = find_channels(own_block % p.blocks, p.segment, F::CT);
    const i64 at = own_block / p.blocks * p.channels + own_ch.first + 2 * own;
    const int left = own_ch.count - 2 * own;
    const float4* of_pair = s_own + own / 2 * (2 * Place::RUNS) + own % 2;
    const float4 dD = sum_threads<2, Place::RUNS>(of_pair);
    const float4 dbias = sum_threads<2, Place::RUNS>(of_pair + F::FEEDERS);
    store_two<false, false>(p.dD + at, make_float2(dD.x + dD.y, dD.z + dD.w), left);
    store_two<false, false>(p.dbias + at, make_float2(dbias.x + dbias.y, dbias.z + dbias.w), left);
  } else if (own < F::QUADS) {
    const Channels own_ch = find_channels(own_block % p.blocks, p.segment, F::CT);
    const i64 at = own_block / p.blocks * p.channels + own_ch.first + 4 * own;
    const int left = own_ch.count - 4 * own;
    store_quad<float, false, false>(p.dD + at, sum_threads<F::QUADS, ROW_STEP>(s_own + own), left);
    store_quad<float, false, false>(p.dbias + at,
                                    sum_threads<F::QUADS, ROW_STEP>(s_own + F::FEEDERS + own), left);
  }
}
