// Forward scan, real A, B and C per step. Tensors (B, L, D), channels contiguous.
//
// A warp owns 16 channels x 4 S states: a lane holds channels 2g, 2g+1 (g = lane / 4) and S states.
// Time is walked in tiles of TT steps. A tile is staged in shared memory: delta (after softplus)
// and delta u once per channel and step, B and C as float. The lanes' parts of y = sum_n C h are
// added through shared memory; the pair of channels that a thread loaded it also gates and stores.
//
// MODE 0: outputs. MODE 1: only the chunk's last state from zero, and the sum of its deltas.
// MODE 2: the same backwards in time for the gradient: carry = a (C dy + carry), from zero.

struct ForwardParams {
  const void *u, *delta, *z, *B, *C, *dout;
  const float *A, *D, *bias, *h0;
  void *y, *y_pre;
  float *last, *kept, *chunk_state, *chunk_sum;
  const i64* offsets;
  i64 u_b, u_t, delta_b, delta_t, z_b, z_t, B_b, B_t, B_g, C_b, C_t, C_g, dout_b, dout_t;
  i64 sequences, length, channels, states, segment, group_B, group_C, chunk, blocks;
};

template <int S>
__device__ __forceinline__ void load_vector(float (&v)[S], const float* p) {
  if constexpr (S == 4) {
    const float4 x = *reinterpret_cast<const float4*>(p);
    v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
  } else if constexpr (S == 2) {
    const float2 x = *reinterpret_cast<const float2*>(p);
    v[0] = x.x, v[1] = x.y;
  } else {
    v[0] = p[0];
  }
}

template <int S, int WS, int WC, int TT>
struct ForwardShape {
  static constexpr int N = 4 * S * WS;      // states, padded
  static constexpr int CT = 16 * WC;        // channels
  static constexpr int THREADS = 32 * WS * WC;
  static constexpr int PAIRS = CT / 2, QUADS = CT / 4;
  static constexpr int PARTS = 4 * WS;      // lanes that share a channel's states
  static constexpr int Y_STRIDE = PAIRS + 4;  // in float2; the padding avoids bank conflicts
  static constexpr int SHARED_STATE = (TT * PAIRS * 4 + TT * N) * 4;
  static constexpr int SHARED = SHARED_STATE + (TT * N + TT * PARTS * Y_STRIDE * 2) * 4;
};

template <typename T, int S, int WS, int WC, int TT, int MODE, bool SOFTPLUS, bool GATE, bool SAVE,
          bool ALIGNED, int MIN_BLOCKS>
__global__ void __launch_bounds__(32 * WS * WC, MIN_BLOCKS) scan_forward(ForwardParams p) {
  using F = ForwardShape<S, WS, WC, TT>;
  using Raw = typename Quad<T>::Raw;
  constexpr bool REVERSE = MODE == 2, LOAD_Z = GATE && MODE != 1;
  constexpr int ROW_STEP = F::THREADS / F::QUADS, ROWS = TT / ROW_STEP;
  static_assert(ROWS >= 1 && TT % SEGMENT == 0, "tile too short for this many threads");

  extern __shared__ __align__(16) float shared[];
  float4* s_dx = reinterpret_cast<float4*>(shared);  // [TT][PAIRS] delta, delta u of two channels
  float* s_B = shared + TT * F::PAIRS * 4;           // [TT][N]
  float* s_C = s_B + TT * F::N;                      // [TT][N]
  float2* s_y = reinterpret_cast<float2*>(s_C + TT * F::N);  // [TT][PARTS][Y_STRIDE]

  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, g = lane >> 2, q = lane & 3;
  const int wc = warp % WC, ws = warp / WC;
  const i64 item = blockIdx.x / p.blocks;
  const Span span = find_span(item, p.offsets, p.sequences, p.length, p.chunk);
  if (span.empty) return;
  const Channels ch = find_channels(blockIdx.x % p.blocks, p.segment, F::CT);
  const int pair = wc * 8 + g;           // this lane's pair of channels in the tile
  const int n0 = ws * 4 * S + q * S;     // its first state
  const i64 D = p.channels;
  const int N = int(p.states);

  float A[2][S], h[2][S];
#pragma unroll
  for (int j = 0; j < 2; j++)
#pragma unroll
    for (int i = 0; i < S; i++) {
      const bool real = 2 * pair + j < ch.count && n0 + i < N;
      const i64 d = ch.first + 2 * pair + j;
      A[j][i] = real ? p.A[d * N + n0 + i] * LOG2E : 0.f;
      h[j][i] = 0.f;
      if constexpr (MODE == 0) {
        if (real && p.chunk_state != nullptr) h[j][i] = p.chunk_state[(item * N + n0 + i) * D + d];
        else if (real && p.h0 != nullptr) h[j][i] = p.h0[(span.sequence * D + d) * N + n0 + i];
      }
    }
  float sum[2] = {0.f, 0.f};

  // What this thread loads: channels 4 lq ... 4 lq + 3 of rows lr, lr + ROW_STEP, ... of a tile.
  const int lq = tid % F::QUADS, lr = tid / F::QUADS, valid = ch.count - 4 * lq;
  const i64 d_quad = ch.first + 4 * lq;
  const float4 none = make_float4(0.f, 0.f, 0.f, 0.f);
  const float4 bias = p.bias != nullptr ? load_quad<float, false, false>(p.bias + d_quad, valid) : none;
  const float4 skip =
      MODE == 0 && p.D != nullptr ? load_quad<float, false, false>(p.D + d_quad, valid) : none;
  const i64 t_first = span.from + lr;
  const int u_t = int(REVERSE ? p.dout_t : p.u_t), delta_t = int(p.delta_t), z_t = int(p.z_t);
  const T* u = static_cast<const T*>(REVERSE ? p.dout : p.u) + d_quad +
               span.batch * (REVERSE ? p.dout_b : p.u_b) + t_first * u_t;
  const T* delta =
      static_cast<const T*>(p.delta) + d_quad + span.batch * p.delta_b + t_first * delta_t;
  const T* z =
      LOAD_Z ? static_cast<const T*>(p.z) + d_quad + span.batch * p.z_b + t_first * z_t : nullptr;
  const i64 out = (span.batch * p.length + t_first) * D + d_quad;  // in tensors we allocate

  constexpr int BC_QUADS = TT * F::N / 4, BC_STEPS = (BC_QUADS + F::THREADS - 1) / F::THREADS;
  constexpr int BC_ROWS = F::THREADS * 4 / F::N;  // rows that the block loads at once
  const int bn = tid % (F::N / 4) * 4, br = tid / (F::N / 4), b_valid = N - bn;
  const int B_t = int(REVERSE ? p.C_t : p.B_t), C_t = int(p.C_t);
  const T* B = static_cast<const T*>(REVERSE ? p.C : p.B) + bn + (span.from + br) * B_t +
               (REVERSE ? span.batch * p.C_b + ch.first / p.group_C * p.C_g
                        : span.batch * p.B_b + ch.first / p.group_B * p.B_g);
  const T* C = static_cast<const T*>(p.C) + bn + (span.from + br) * C_t + span.batch * p.C_b +
               ch.first / p.group_C * p.C_g;

  Raw next_u[ROWS], next_delta[ROWS], next_z[LOAD_Z ? ROWS : 1];
  Raw next_B[BC_STEPS], next_C[MODE == 0 ? BC_STEPS : 1];
  const int steps = int(span.to - span.from), tiles = (steps + TT - 1) / TT;
  const bool whole = ALIGNED && ch.count == F::CT && N == F::N;

  auto load_rows = [&](int t0, auto full) {
    constexpr bool FULL = decltype(full)::value;
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      const int n = FULL || t0 + lr + i * ROW_STEP < steps ? valid : 0;
      next_u[i] = load_quad<T, ALIGNED, FULL>(u + (i64(t0) * u_t + i * ROW_STEP * u_t), n);
      next_delta[i] =
          load_quad<T, ALIGNED, FULL>(delta + (i64(t0) * delta_t + i * ROW_STEP * delta_t), n);
      if constexpr (LOAD_Z)
        next_z[i] = load_quad<T, ALIGNED, FULL>(z + (i64(t0) * z_t + i * ROW_STEP * z_t), n);
    }
#pragma unroll
    for (int i = 0; i < BC_STEPS; i++) {
      const bool mine = BC_QUADS % F::THREADS == 0 || tid + i * F::THREADS < BC_QUADS;
      const int n = mine && (FULL || t0 + br + i * BC_ROWS < steps) ? b_valid : 0;
      constexpr bool ALL = FULL && BC_QUADS % F::THREADS == 0;
      next_B[i] = load_quad<T, ALIGNED, ALL>(B + (i64(t0) * B_t + i * BC_ROWS * B_t), n);
      if constexpr (MODE == 0)
        next_C[i] = load_quad<T, ALIGNED, ALL>(C + (i64(t0) * C_t + i * BC_ROWS * C_t), n);
    }
  };
  auto load_tile = [&](int t0) {
    if (whole && t0 + TT <= steps) load_rows(t0, Full());
    else load_rows(t0, Ragged());
  };

  float* kept = nullptr;
  if constexpr (SAVE && MODE == 0)
    kept = p.kept + (kept_slot(span, p.offsets, p.length) + (span.from - span.begin) / SEGMENT) * N * D +
           n0 * D + ch.first + 2 * pair;
  auto tile_start = [&](int i) { return (REVERSE ? tiles - 1 - i : i) * TT; };
  if (tiles > 0) load_tile(tile_start(0));
#pragma unroll 1
  for (int tile = 0; tile < tiles; tile++) {
    const int t0 = tile_start(tile);
    const bool full = whole && t0 + TT <= steps;
    Raw now_u[ROWS], now_z[LOAD_Z ? ROWS : 1];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      const int r = lr + i * ROW_STEP;
      float4 x = Quad<T>::unpack(next_u[i]), d = Quad<T>::unpack(next_delta[i]);
      now_u[i] = next_u[i];
      if constexpr (LOAD_Z) now_z[i] = next_z[i];
      d.x += bias.x, d.y += bias.y, d.z += bias.z, d.w += bias.w;
      if constexpr (SOFTPLUS)
        d.x = softplus(d.x), d.y = softplus(d.y), d.z = softplus(d.z), d.w = softplus(d.w);
      if (t0 + r >= steps) d = none;  // a step that changes nothing
      if constexpr (REVERSE) {
        if constexpr (GATE) {
          const float4 w = Quad<T>::unpack(now_z[i]);
          x.x *= w.x * sigmoid(w.x), x.y *= w.y * sigmoid(w.y);
          x.z *= w.z * sigmoid(w.z), x.w *= w.w * sigmoid(w.w);
        }
      } else {
        x.x *= d.x, x.y *= d.y, x.z *= d.z, x.w *= d.w;
      }
      s_dx[r * F::PAIRS + 2 * lq] = make_float4(d.x, x.x, d.y, x.y);
      s_dx[r * F::PAIRS + 2 * lq + 1] = make_float4(d.z, x.z, d.w, x.w);
    }
#pragma unroll
    for (int i = 0; i < BC_STEPS; i++) {
      const int e = tid + i * F::THREADS;
      if (BC_QUADS % F::THREADS == 0 || e < BC_QUADS) {
        reinterpret_cast<float4*>(s_B)[e] = Quad<T>::unpack(next_B[i]);
        if constexpr (MODE == 0) reinterpret_cast<float4*>(s_C)[e] = Quad<T>::unpack(next_C[i]);
      }
    }
    __syncthreads();
    if (tile + 1 < tiles) load_tile(tile_start(tile + 1));

#pragma unroll 1
    for (int part = 0; part < TT / SEGMENT; part++) {
      const int s0 = (REVERSE ? TT / SEGMENT - 1 - part : part) * SEGMENT;
      if constexpr (SAVE && MODE == 0) {
        if (full) {
#pragma unroll
          for (int i = 0; i < S; i++)
            store_two<ALIGNED, true>(kept + i * D, make_float2(h[0][i], h[1][i]), 2);
        } else if (t0 + s0 < steps) {
#pragma unroll
          for (int i = 0; i < S; i++)
            store_two<ALIGNED, false>(kept + i * D, make_float2(h[0][i], h[1][i]),
                                      n0 + i < N ? ch.count - 2 * pair : 0);
        }
        kept += N * D;
      }
      constexpr int UNROLL = S == 4 ? 4 : 8;
#pragma unroll UNROLL
      for (int k = 0; k < SEGMENT; k++) {
        const int t = s0 + (REVERSE ? SEGMENT - 1 - k : k);
        const float4 dx = s_dx[t * F::PAIRS + pair];
        float b[S];
        load_vector(b, s_B + t * F::N + n0);
        if constexpr (MODE == 0) {
          float c[S], y0 = 0.f, y1 = 0.f;
          load_vector(c, s_C + t * F::N + n0);
#pragma unroll
          for (int i = 0; i < S; i++) {
            h[0][i] = fmaf(exp2_fast(dx.x * A[0][i]), h[0][i], dx.y * b[i]);
            h[1][i] = fmaf(exp2_fast(dx.z * A[1][i]), h[1][i], dx.w * b[i]);
            y0 = fmaf(c[i], h[0][i], y0);
            y1 = fmaf(c[i], h[1][i], y1);
          }
          s_y[(t * F::PARTS + ws * 4 + q) * F::Y_STRIDE + pair] = make_float2(y0, y1);
        } else {
          sum[0] += dx.x, sum[1] += dx.z;
#pragma unroll
          for (int i = 0; i < S; i++) {
            const float a0 = exp2_fast(dx.x * A[0][i]), a1 = exp2_fast(dx.z * A[1][i]);
            if constexpr (REVERSE) {
              h[0][i] = a0 * fmaf(dx.y, b[i], h[0][i]);
              h[1][i] = a1 * fmaf(dx.w, b[i], h[1][i]);
            } else {
              h[0][i] = fmaf(a0, h[0][i], dx.y * b[i]);
              h[1][i] = fmaf(a1, h[1][i], dx.w * b[i]);
            }
          }
        }
      }
    }
    __syncthreads();

    if constexpr (MODE == 0) {
      auto store_rows = [&](auto whole_tile) {
        constexpr bool FULL = decltype(whole_tile)::value;
        T* y = static_cast<T*>(p.y) + (out + t0 * D);
        T* y_pre = static_cast<T*>(p.y_pre) + (out + t0 * D);
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
          const int r = lr + i * ROW_STEP;
          const float4 x = Quad<T>::unpack(now_u[i]);
          float4 v = make_float4(skip.x * x.x, skip.y * x.y, skip.z * x.z, skip.w * x.w);
#pragma unroll
          for (int k = 0; k < F::PARTS; k++) {
            const float4 part = *reinterpret_cast<const float4*>(
                s_y + (r * F::PARTS + k) * F::Y_STRIDE + 2 * lq);
            v.x += part.x, v.y += part.y, v.z += part.z, v.w += part.w;
          }
          const int n = FULL || t0 + r < steps ? valid : 0;
          if constexpr (GATE) {
            if constexpr (SAVE) store_quad<T, ALIGNED, FULL>(y_pre + i * ROW_STEP * D, v, n);
            const float4 w = Quad<T>::unpack(now_z[i]);
            v.x *= w.x * sigmoid(w.x), v.y *= w.y * sigmoid(w.y);
            v.z *= w.z * sigmoid(w.z), v.w *= w.w * sigmoid(w.w);
          }
          store_quad<T, ALIGNED, FULL>(y + i * ROW_STEP * D, v, n);
        }
      };
      if (full) store_rows(Full());
      else store_rows(Ragged());
      // No barrier here: the next tile's stores to s_dx, s_B, s_C touch nothing read above, and
      // s_y is written only after the barrier that follows them.
    }
  }

#pragma unroll
  for (int j = 0; j < 2; j++) {
    if (2 * pair + j >= ch.count) continue;
    const i64 d = ch.first + 2 * pair + j;
    if constexpr (MODE == 0) {
      if (span.to == span.end) {
#pragma unroll
        for (int i = 0; i < S; i++)
          if (n0 + i < N) p.last[(span.sequence * D + d) * N + n0 + i] = h[j][i];
      }
    } else {
#pragma unroll
      for (int i = 0; i < S; i++)
        if (n0 + i < N) p.chunk_state[(item * N + n0 + i) * D + d] = h[j][i];
      if (ws == 0 && q == 0) p.chunk_sum[item * D + d] = sum[j];
    }
  }
}

// From chunks' own states to the state each starts from, in place: chunk after chunk of a sequence
// (REVERSE: from its end, and then the result is also the gradient of the initial state).
struct ChunkParams {
  const float *A, *start, *chunk_sum;
  float *chunk_state, *first;
  const i64* offsets;
  i64 sequences, length, channels, states, chunk;
};

template <bool REVERSE>
__global__ void __launch_bounds__(256) scan_chunks(ChunkParams p) {
  const i64 D = p.channels, N = p.states;
  const i64 id = i64(blockIdx.x) * 256 + threadIdx.x;
  if (id >= p.sequences * N * D) return;
  const i64 sequence = id / (N * D), n = id / D % N, d = id % D;
  Span span;
  span.sequence = sequence;
  span.begin = p.offsets ? clamped(p.offsets, sequence, p.length) : 0;
  span.end = p.offsets ? clamped(p.offsets, sequence + 1, p.length) : p.length;
  const i64 first = first_item(span, p.offsets, p.length, p.chunk);
  const i64 steps = span.end > span.begin ? span.end - span.begin : 0;
  const i64 count = steps == 0 ? 1 : (steps + p.chunk - 1) / p.chunk;
  const float A = p.A[d * N + n] * LOG2E;
  float h = p.start != nullptr ? p.start[(sequence * D + d) * N + n] : 0.f;
  for (i64 k = 0; k < count; k++) {
    const i64 item = first + (REVERSE ? count - 1 - k : k);
    float* at = p.chunk_state + (item * N + n) * D + d;
    const float own = *at, decay = exp2_fast(A * p.chunk_sum[item * D + d]);
    *at = h;
    h = fmaf(decay, h, own);
  }
  if (p.first != nullptr) p.first[(sequence * D + d) * N + n] = h;
}
