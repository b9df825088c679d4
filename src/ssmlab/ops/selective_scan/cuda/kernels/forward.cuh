// Forward scan, real A; B and C per step or, CONST_B and CONST_C, constant (D, N) in float. Tensors
// (B, L, D), channels contiguous; or, ALONG_TIME, u, delta, z (dout) and y with time contiguous: their
// strides "_t" are then those of channels, and forward_time.cuh does what follows from it.
//
// Two kinds of warps share a block. The first WS x WC warps run the recurrence: each owns 16 channels
// x 4 S states, a lane channels 2g, 2g+1 (g = lane / 4) and S states. PW more warps feed them: time is
// walked in tiles of 16 steps, and while tile i is run, they add the lanes' parts of y = sum_n C h of
// tile i - 1, gate and store them, and put tile i + 1 into shared memory (delta after softplus and
// delta u once per channel and step, B and C as float). What they need from global memory is copied
// AHEAD tiles ahead, by each feeding thread for itself. Each kind waits for the other alone: who
// runs, until a tile is staged; who feeds, until it is run.
//
// A pass over a chunk is one of three. OUTPUT: outputs, from the state in chunk_state, or (given
// chunk_sum) from what the chunks before it left there. STATE: only the chunk's last state from zero,
// and the sum of its deltas. REVERSE: the same backwards in time for the gradient: carry = a (C dy +
// carry), from zero.

template <typename T, int S, int WS, int WC, int PW, int AHEAD, Pass PASS, bool SOFTPLUS, bool GATE,
          bool SAVE, bool ALIGNED, bool CONST_B, bool CONST_C, bool ALONG_TIME>
__device__ __forceinline__ void walk_chunk(const ForwardParams& p, const i64 item, const Span& span) {
  static_assert(ALIGNED || !ALONG_TIME, "rows along time are read as wholes of four elements");
  using F = ForwardShape<S, WS, WC, PW, AHEAD, ALONG_TIME>;
  using Rows = typename F::Rows;
  using Raw = typename Quad<T>::Raw;
  constexpr int TT = F::TT;
  constexpr bool REVERSE = PASS == REVERSE_PASS, LOAD_Z = GATE && PASS != STATE_PASS;
  constexpr bool OUTPUT = PASS == OUTPUT_PASS;
  // What goes into the state is weighted by B; backwards in time, by C.
  constexpr bool FIXED_IN = REVERSE ? CONST_C : CONST_B, FIXED_OUT = CONST_C;

  extern __shared__ __align__(16) float shared[];  // two of each, for odd and even tiles
  float4* s_dx = reinterpret_cast<float4*>(shared);              // [2][TT][STRIDE]
  float* s_B = shared + 2 * F::DX;                               // [2][BC]
  float* s_C = s_B + 2 * F::BC;                                  // [2][BC]
  float2* s_y = reinterpret_cast<float2*>(s_C + 2 * F::BC);      // [2][TT][Y_ROW]
  Raw* s_raw = reinterpret_cast<Raw*>(s_y + (OUTPUT ? F::Y : 0));  // [RING][RAW / FEEDERS][FEEDERS]

  const int tid = threadIdx.x;
  const Channels ch = find_channels(blockIdx.x % p.blocks, p.segment, F::CT);
  const i64 D = p.channels;
  const int N = int(p.states);
  const int steps = int(span.to - span.from), tiles = (steps + TT - 1) / TT;
  const bool opening = span.from == span.begin;  // the sequence's first chunk
  const bool whole = ALIGNED && ch.count == F::CT && N == F::N;
  auto tile_start = [&](int i) { return (REVERSE ? tiles - 1 - i : i) * TT; };

  if (tid < F::RUNNERS) {
    const int warp = tid >> 5, lane = tid & 31, g = lane >> 2, q = lane & 3;
    const int pair = warp % WC * 8 + g;  // this lane's pair of channels
    const int ws = warp / WC, n0 = (ws * 4 + q) * S;
    const i64 d_lane = ch.first + 2 * pair;
    const int lane_valid = ch.count - 2 * pair;
    float A[2][S], h[2][S], fixed_in[2][S], fixed_out[2][S], sum[2] = {0.f, 0.f};
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
      for (int i = 0; i < S; i++) {
        const bool real = j < lane_valid && n0 + i < N;
        const i64 d = d_lane + j;
        A[j][i] = real ? p.A[d * N + n0 + i] * LOG2E : 0.f;
        h[j][i] = 0.f;
        if constexpr (FIXED_IN)
          fixed_in[j][i] = real ? static_cast<const float*>(REVERSE ? p.C : p.B)[d * N + n0 + i] : 0.f;
        if constexpr (OUTPUT && FIXED_OUT)
          fixed_out[j][i] = real ? static_cast<const float*>(p.C)[d * N + n0 + i] : 0.f;
        if constexpr (OUTPUT) {
          if (real && opening) h[j][i] = p.h0 != nullptr ? p.h0[(span.sequence * D + d) * N + n0 + i] : 0.f;
          else if (real && p.chunk_sum == nullptr) h[j][i] = p.chunk_state[(item * N + n0 + i) * D + d];
        }
      }
    if constexpr (OUTPUT) {
      if (!opening && p.chunk_sum != nullptr) {  // the chunks before this one, from what they left
        const i64 before = (span.from - span.begin) / p.chunk;
#pragma unroll 4
        for (i64 k = item - before; k < item; k++) {
#pragma unroll
          for (int j = 0; j < 2; j++) {
            if (j >= lane_valid) continue;
            const float own_sum = p.chunk_sum[k * D + d_lane + j];
#pragma unroll
            for (int i = 0; i < S; i++)
              if (n0 + i < N)
                h[j][i] = fmaf(exp2_fast(A[j][i] * own_sum), h[j][i],
                               p.chunk_state[(k * N + n0 + i) * D + d_lane + j]);
          }
        }
      }
    }
    float* kept = nullptr;
    if constexpr (SAVE && OUTPUT)
      kept = p.kept + (kept_slot(span, p.offsets, p.length) + (span.from - span.begin) / SEGMENT) * N * D +
             n0 * D + d_lane;
    const float4* dx_lane = s_dx + Rows::at(pair);
    const float* b_lane = s_B + (ws * 4 + q) * 4;
    const float* c_lane = s_C + (ws * 4 + q) * 4;
    float2* y_lane = s_y + (ws * 4 + q) * F::Y_STRIDE + pair;

    // A group of V steps is loaded two groups before it is run, over the ends of tiles too, and its
    // exponentials are under way while the group before it is run: left to itself, the compiler
    // gathers them at the start of a step, and the special-function unit idles at the end.
    constexpr int GROUPS = TT / F::V;
    float4 next_b = make_float4(0.f, 0.f, 0.f, 0.f), next_c = next_b, next_dx[F::V], far_dx[F::V];
    float next_a[F::V][2][S];
    auto load_dx = [&](int tile, int k) {
      const int group = REVERSE ? GROUPS - 1 - k : k, odd = tile & 1;
#pragma unroll
      for (int v = 0; v < F::V; v++) far_dx[v] = dx_lane[(odd * TT + group * F::V + v) * Rows::STRIDE];
    };
    auto load_bc = [&](int tile, int k) {
      const int group = REVERSE ? GROUPS - 1 - k : k, odd = tile & 1;
      if constexpr (!FIXED_IN)
        next_b = *reinterpret_cast<const float4*>(b_lane + odd * F::BC + group * F::V * F::N);
      if constexpr (OUTPUT && !FIXED_OUT)
        next_c = *reinterpret_cast<const float4*>(c_lane + odd * F::BC + group * F::V * F::N);
    };
    auto start_group = [&] {
#pragma unroll
      for (int v = 0; v < F::V; v++) {
        next_dx[v] = far_dx[v];
#pragma unroll
        for (int i = 0; i < S; i++) {
          next_a[v][0][i] = exp2_fast(far_dx[v].x * A[0][i]);
          next_a[v][1][i] = exp2_fast(far_dx[v].z * A[1][i]);
        }
      }
    };
    wait_staged<F::FEEDERS>(warp, 0);
    load_dx(0, 0);
    load_bc(0, 0);
    start_group();
    load_dx(0, 1);
#pragma unroll 1
    for (int tile = 0; tile < tiles; tile++) {
      if constexpr (SAVE && OUTPUT) {
        if (whole && tile * TT + TT <= steps) {
#pragma unroll
          for (int i = 0; i < S; i++)
            store_two<ALIGNED, true>(kept + i * D, make_float2(h[0][i], h[1][i]), 2);
        } else {
#pragma unroll
          for (int i = 0; i < S; i++)
            store_two<ALIGNED, false>(kept + i * D, make_float2(h[0][i], h[1][i]),
                                      n0 + i < N ? lane_valid : 0);
        }
        kept += N * D;
      }
      float2* y_at = y_lane + (tile & 1) * TT * F::Y_ROW;
      auto run_group = [&](int k, auto load_ahead) {
        const int group = REVERSE ? GROUPS - 1 - k : k;
        const float b[4] = {next_b.x, next_b.y, next_b.z, next_b.w};
        const float c[4] = {next_c.x, next_c.y, next_c.z, next_c.w};
        float4 own_dx[F::V];
        float a[F::V][2][S];
#pragma unroll
        for (int v = 0; v < F::V; v++) {
          own_dx[v] = next_dx[v];
#pragma unroll
          for (int i = 0; i < S; i++) a[v][0][i] = next_a[v][0][i], a[v][1][i] = next_a[v][1][i];
        }
        start_group();
        load_ahead();
#pragma unroll
        for (int vk = 0; vk < F::V; vk++) {
          const int v = REVERSE ? F::V - 1 - vk : vk, t = group * F::V + v;
          const float4 dx = own_dx[v];
          float y0 = 0.f, y1 = 0.f;
          if constexpr (!OUTPUT) sum[0] += dx.x, sum[1] += dx.z;
#pragma unroll
          for (int i = 0; i < S; i++) {
            const float in0 = FIXED_IN ? fixed_in[0][i] : b[v * S + i];
            const float in1 = FIXED_IN ? fixed_in[1][i] : b[v * S + i];
            if constexpr (REVERSE) {
              h[0][i] = a[v][0][i] * fmaf(dx.y, in0, h[0][i]);
              h[1][i] = a[v][1][i] * fmaf(dx.w, in1, h[1][i]);
            } else {
              h[0][i] = fmaf(a[v][0][i], h[0][i], dx.y * in0);
              h[1][i] = fmaf(a[v][1][i], h[1][i], dx.w * in1);
            }
            if constexpr (OUTPUT) {
              y0 = fmaf(FIXED_OUT ? fixed_out[0][i] : c[v * S + i], h[0][i], y0);
              y1 = fmaf(FIXED_OUT ? fixed_out[1][i] : c[v * S + i], h[1][i], y1);
            }
          }
          if constexpr (OUTPUT) y_at[t * F::Y_ROW] = make_float2(y0, y1);
        }
      };
#pragma unroll
      for (int k = 0; k < GROUPS - 2; k++)
        run_group(k, [&] { load_bc(tile, k + 1), load_dx(tile, k + 2); });
      run_group(GROUPS - 2, [&] {
        load_bc(tile, GROUPS - 1);
        wait_staged<F::FEEDERS>(warp, tile + 1 & 1);
        load_dx(tile + 1, 0);
      });
      run_group(GROUPS - 1, [&] { load_bc(tile + 1, 0), load_dx(tile + 1, 1); });
      barrier_arrive<F::THREADS>(DONE + (tile & 1));
    }

#pragma unroll
    for (int j = 0; j < 2; j++) {
      if (j >= lane_valid) continue;
      const i64 d = d_lane + j;
      if (OUTPUT && span.to == span.end) {
#pragma unroll
        for (int i = 0; i < S; i++)
          if (n0 + i < N) p.last[(span.sequence * D + d) * N + n0 + i] = h[j][i];
      } else if (!OUTPUT || opening) {
#pragma unroll
        for (int i = 0; i < S; i++)
          if (n0 + i < N) p.chunk_state[(item * N + n0 + i) * D + d] = h[j][i];
        // A first chunk's state is whole: nothing before it is to be added.
        if (ws == 0 && q == 0) p.chunk_sum[item * D + d] = sum[j];
      }
    }
    return;
  }

  // Feeders: a thread has channels 4 lq ... 4 lq + 3 of rows lr, lr + ROW_STEP, ... of a tile.
  constexpr int ROW_STEP = F::ROW_STEP, ROWS = F::ROWS, BC_STEPS = F::BC_STEPS;
  static_assert(ROWS >= 1 && TT % ROW_STEP == 0, "tile too short for this many threads");
  const int fid = tid - F::RUNNERS;
  const int lq = fid % F::QUADS, lr = fid / F::QUADS, valid = ch.count - 4 * lq;
  const i64 d_quad = ch.first + 4 * lq;
  const float4 none = make_float4(0.f, 0.f, 0.f, 0.f);
  const float4 bias = p.bias != nullptr ? load_quad<float, false, false>(p.bias + d_quad, valid) : none;
  const float4 skip =
      OUTPUT && p.D != nullptr ? load_quad<float, false, false>(p.D + d_quad, valid) : none;
  const i64 t_first = span.from + lr;
  const int u_t = int(REVERSE ? p.dout_t : p.u_t), delta_t = int(p.delta_t), z_t = int(p.z_t);
  const T* u = static_cast<const T*>(REVERSE ? p.dout : p.u) + d_quad +
               span.batch * (REVERSE ? p.dout_b : p.u_b) + t_first * u_t;
  const T* delta =
      static_cast<const T*>(p.delta) + d_quad + span.batch * p.delta_b + t_first * delta_t;
  const T* z =
      LOAD_Z ? static_cast<const T*>(p.z) + d_quad + span.batch * p.z_b + t_first * z_t : nullptr;
  const i64 out = (span.batch * p.length + t_first) * D + d_quad;  // in tensors we allocate

  constexpr int BC_QUADS = F::BC_QUADS;
  constexpr int BC_ROWS = F::FEEDERS * 4 / F::N;  // rows that the feeders load at once
  static_assert(F::FEEDERS % (F::N / 4) == 0, "feeders must take whole rows of B and C");
  const int bn = fid % (F::N / 4) * 4, br = fid / (F::N / 4), b_valid = N - bn;
  const int B_t = int(REVERSE ? p.C_t : p.B_t), C_t = int(p.C_t);
  const T* B = static_cast<const T*>(REVERSE ? p.C : p.B) + bn + (span.from + br) * B_t +
               (REVERSE ? span.batch * p.C_b + ch.first / p.group_C * p.C_g
                        : span.batch * p.B_b + ch.first / p.group_B * p.B_g);
  const T* C = static_cast<const T*>(p.C) + bn + (span.from + br) * C_t + span.batch * p.C_b +
               ch.first / p.group_C * p.C_g;

  const auto by_time = [&] {
    if constexpr (ALONG_TIME) return TimeFeeder<T, F, PASS, SOFTPLUS, GATE, SAVE>(p, span, ch, fid);
    else return NoFeeder();
  }();
  auto tile_raw = [&](int tile) { return s_raw + tile % F::RING * F::RAW; };

  enum Slot { RAW_U = 0, RAW_DELTA = ROWS, RAW_Z = 2 * ROWS, RAW_B = 3 * ROWS, RAW_C = RAW_B + BC_STEPS };
  auto raw_of = [&](int tile) { return tile_raw(tile) + fid; };

  auto copy_rows = [&](int tile, auto whole_tile) {
    constexpr bool FULL = decltype(whole_tile)::value;
    const int t0 = tile_start(tile);
    Raw* raw = raw_of(tile);
    auto put = [&](int slot, const T* from, int n) {
      if constexpr (ALIGNED) copy_async<sizeof(Raw), FULL>(raw + slot * F::FEEDERS, FULL || n > 0 ? from : u, n > 0);
      else raw[slot * F::FEEDERS] = load_quad<T, false, false>(from, n);
    };
    if constexpr (ALONG_TIME) {
      by_time.template copy<FULL>(tile_raw(tile), t0, steps);
    } else {
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
        const int n = FULL || t0 + lr + i * ROW_STEP < steps ? valid : 0;
        put(RAW_U + i, u + (i64(t0) * u_t + i * ROW_STEP * u_t), n);
        put(RAW_DELTA + i, delta + (i64(t0) * delta_t + i * ROW_STEP * delta_t), n);
        if constexpr (LOAD_Z) put(RAW_Z + i, z + (i64(t0) * z_t + i * ROW_STEP * z_t), n);
      }
    }
#pragma unroll
    for (int i = 0; i < BC_STEPS; i++) {
      if (BC_QUADS % F::FEEDERS && fid + i * F::FEEDERS >= BC_QUADS) break;
      const int n = FULL || t0 + br + i * BC_ROWS < steps ? b_valid : 0;
      if constexpr (!FIXED_IN) put(RAW_B + i, B + (i64(t0) * B_t + i * BC_ROWS * B_t), n);
      if constexpr (OUTPUT && !FIXED_OUT) put(RAW_C + i, C + (i64(t0) * C_t + i * BC_ROWS * C_t), n);
    }
  };
  auto is_full = [&](int tile) { return whole && tile_start(tile) + TT <= steps; };
  auto copy_tile = [&](int tile) {
    if (tile < tiles) {
      if (is_full(tile)) copy_rows(tile, Full());
      else copy_rows(tile, Ragged());
    }
    end_copy_group();  // empty behind the last tile, so that the count of groups goes on
  };

  auto stage_rows = [&](int tile, auto whole_tile) {
    constexpr bool FULL = decltype(whole_tile)::value;
    const int t0 = tile_start(tile), odd = tile & 1;
    float4* dx_at = s_dx + odd * TT * Rows::STRIDE;
    if constexpr (ALONG_TIME) {
      by_time.template stage<FULL>(tile_raw(tile), dx_at, t0, steps);
    } else {
      const Raw* raw = raw_of(tile);
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
        const int r = lr + i * ROW_STEP;
        float4 x = Quad<T>::unpack(raw[(RAW_U + i) * F::FEEDERS]);
        float4 d = Quad<T>::unpack(raw[(RAW_DELTA + i) * F::FEEDERS]);
        d.x += bias.x, d.y += bias.y, d.z += bias.z, d.w += bias.w;
        if constexpr (SOFTPLUS)
          d.x = softplus(d.x), d.y = softplus(d.y), d.z = softplus(d.z), d.w = softplus(d.w);
        if (!FULL && t0 + r >= steps) d = none;  // a step that changes nothing
        if constexpr (REVERSE) {
          if constexpr (GATE) {
            const float4 w = Quad<T>::unpack(raw[(RAW_Z + i) * F::FEEDERS]);
            x.x *= w.x * sigmoid(w.x), x.y *= w.y * sigmoid(w.y);
            x.z *= w.z * sigmoid(w.z), x.w *= w.w * sigmoid(w.w);
          }
        } else {
          x.x *= d.x, x.y *= d.y, x.z *= d.z, x.w *= d.w;
        }
        dx_at[r * Rows::STRIDE + lq] = make_float4(d.x, x.x, d.y, x.y);
        dx_at[r * Rows::STRIDE + Rows::HALF + lq] = make_float4(d.z, x.z, d.w, x.w);
      }
    }
  };
  auto stage_tile = [&](int tile) {
    if (is_full(tile)) stage_rows(tile, Full());
    else stage_rows(tile, Ragged());
    const int odd = tile & 1;
    const Raw* raw = raw_of(tile);
#pragma unroll
    for (int i = 0; i < BC_STEPS; i++) {
      if (BC_QUADS % F::FEEDERS && fid + i * F::FEEDERS >= BC_QUADS) break;
      auto put = [&](float* to, float4 v) {
        to += odd * F::BC;
        const int t = br + i * BC_ROWS;
        if constexpr (S == 4) {
          *reinterpret_cast<float4*>(to + F::bc(t, bn)) = v;
        } else if constexpr (S == 2) {
          *reinterpret_cast<float2*>(to + F::bc(t, bn)) = make_float2(v.x, v.y);
          *reinterpret_cast<float2*>(to + F::bc(t, bn + 2)) = make_float2(v.z, v.w);
        } else {
          to[F::bc(t, bn)] = v.x, to[F::bc(t, bn + 1)] = v.y;
          to[F::bc(t, bn + 2)] = v.z, to[F::bc(t, bn + 3)] = v.w;
        }
      };
      if constexpr (!FIXED_IN) put(s_B, Quad<T>::unpack(raw[(RAW_B + i) * F::FEEDERS]));
      if constexpr (OUTPUT && !FIXED_OUT) put(s_C, Quad<T>::unpack(raw[(RAW_C + i) * F::FEEDERS]));
    }
  };

  auto store_rows = [&](int tile, auto whole_tile) {
    constexpr bool FULL = decltype(whole_tile)::value;
    const int t0 = tile * TT;
    const Raw* raw = raw_of(tile);
    const float2* y_at = s_y + (tile & 1) * TT * F::Y_ROW + 2 * lq;
    T* y = static_cast<T*>(p.y) + (out + t0 * D);
    T* y_pre = static_cast<T*>(p.y_pre) + (out + t0 * D);
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      const int r = lr + i * ROW_STEP;
      const float4 x = Quad<T>::unpack(raw[(RAW_U + i) * F::FEEDERS]);
      float4 v = make_float4(skip.x * x.x, skip.y * x.y, skip.z * x.z, skip.w * x.w);
#pragma unroll
      for (int k = 0; k < F::PARTS; k++) {
        const float4 part =
            *reinterpret_cast<const float4*>(y_at + r * F::Y_ROW + k * F::Y_STRIDE);
        v.x += part.x, v.y += part.y, v.z += part.z, v.w += part.w;
      }
      const int n = FULL || t0 + r < steps ? valid : 0;
      if constexpr (GATE) {
        if constexpr (SAVE) store_quad<T, ALIGNED, FULL>(y_pre + i * ROW_STEP * D, v, n);
        const float4 w = Quad<T>::unpack(raw[(RAW_Z + i) * F::FEEDERS]);
        v.x *= w.x * sigmoid(w.x), v.y *= w.y * sigmoid(w.y);
        v.z *= w.z * sigmoid(w.z), v.w *= w.w * sigmoid(w.w);
      }
      store_quad<T, ALIGNED, FULL>(y + i * ROW_STEP * D, v, n);
    }
  };
  auto store_tile = [&](int tile) {
    if constexpr (ALONG_TIME) {
      const float2* parts = s_y + (tile & 1) * TT * F::Y_ROW;
      if (is_full(tile)) by_time.template store<true>(tile_raw(tile), parts, tile * TT, steps);
      else by_time.template store<false>(tile_raw(tile), parts, tile * TT, steps);
    } else {
      if (is_full(tile)) store_rows(tile, Full());
      else store_rows(tile, Ragged());
    }
  };
#pragma unroll 1
  for (int tile = 0; tile < AHEAD; tile++) copy_tile(tile);
  auto next_tile = [&](int tile) {
    if (tile < tiles) {
      wait_copy_groups<AHEAD - 1>();
      stage_tile(tile);
    }
    // Behind the last tile too, where what is loaded ahead is not used.
    if (tile <= tiles) arrive_staged<F::FEEDERS, WS * WC>(tile & 1);
    copy_tile(tile + AHEAD);
  };
#pragma unroll 1
  for (int tile = -2; tile < tiles; tile++) {
    if (tile >= 0) {
      barrier_wait<F::THREADS>(DONE + (tile & 1));
      if constexpr (OUTPUT) store_tile(tile);
    }
    next_tile(tile + 2);
  }
}

// MODE 0: outputs, of all chunks or, if the first ones are `opened`, of all but these. MODE 1 opens:
// the first chunk of each sequence whole, of the others (but the last) their own states. MODE 2: the
// own states backwards in time.
template <typename T, int S, int WS, int WC, int PW, int AHEAD, int MODE, bool SOFTPLUS, bool GATE,
          bool SAVE, bool ALIGNED, bool CONST_B, bool CONST_C, bool ALONG_TIME, int MIN_BLOCKS>
__global__ void __launch_bounds__(32 * (WS * WC + PW), MIN_BLOCKS) scan_forward(ForwardParams p) {
  const i64 item = blockIdx.x / p.blocks;
  const Span span = find_span(item, p.offsets, p.sequences, p.length, p.chunk);
  if (span.empty) return;
  const bool opening = span.from == span.begin;
  auto walk = [&](auto pass) {
    walk_chunk<T, S, WS, WC, PW, AHEAD, decltype(pass)::value, SOFTPLUS, GATE, SAVE, ALIGNED, CONST_B,
               CONST_C, ALONG_TIME>(p, item, span);
  };
  if constexpr (MODE == 0) {
    if (p.opened && opening) return;
    walk(PassOf<OUTPUT_PASS>());
  } else if constexpr (MODE == 1) {
    if (opening) walk(PassOf<OUTPUT_PASS>());
    else if (span.to < span.end) walk(PassOf<STATE_PASS>());
  } else {
    walk(PassOf<REVERSE_PASS>());
  }
}
