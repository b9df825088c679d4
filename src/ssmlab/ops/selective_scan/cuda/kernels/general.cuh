// General scan: real or complex A, constant or per-step B and C, float or double. Needs spans.cuh.
//
// A lane owns a channel, a thread NPT of its states, the warps of a block W NPT states: a slab.
// More states than a slab are done slab after slab, each adding to y. Softplus, D and the gate are
// left to the caller. Everything is dense: (B, L, D), (rows, G, N), (D, N).
//
// Gradients of complex numbers are dL/dRe + i dL/dIm, and y = 2 Re(C h):
//   dh = 2 dy conj(C) + carry,  carry = conj(a) dh,  dC = 2 dy conj(h),  dB = x dh,
//   dA = sum_t delta conj(w) dh,  ddelta = sum_n Re(conj(A w) dh + conj(B) dh u),  w = a h_prev.

template <typename R>
struct Real {
  typedef R Scalar;
  static constexpr int PARTS = 1;
  R re;
};
template <typename R>
struct Complex {
  typedef R Scalar;
  static constexpr int PARTS = 2;
  R re, im;
};

__device__ __forceinline__ float exp_of(float x) { return exp_fast(x); }
__device__ __forceinline__ double exp_of(double x) { return exp(x); }
__device__ __forceinline__ void sincospi_of(float x, float* s, float* c) { sincospif(x, s, c); }
__device__ __forceinline__ void sincospi_of(double x, double* s, double* c) { sincospi(x, s, c); }

template <typename R>
__device__ __forceinline__ Real<R> multiply(Real<R> a, Real<R> b) {
  return {a.re * b.re};
}
template <typename R>
__device__ __forceinline__ Complex<R> multiply(Complex<R> a, Complex<R> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
template <typename R>
__device__ __forceinline__ Real<R> conjugate(Real<R> a) {
  return a;
}
template <typename R>
__device__ __forceinline__ Complex<R> conjugate(Complex<R> a) {
  return {a.re, -a.im};
}
template <typename R>
__device__ __forceinline__ Real<R> add_scaled(Real<R> sum, R s, Real<R> a) {
  return {sum.re + s * a.re};
}
template <typename R>
__device__ __forceinline__ Complex<R> add_scaled(Complex<R> sum, R s, Complex<R> a) {
  return {sum.re + s * a.re, sum.im + s * a.im};
}
// Re(conj(a) b)
template <typename R>
__device__ __forceinline__ R inner(Real<R> a, Real<R> b) {
  return a.re * b.re;
}
template <typename R>
__device__ __forceinline__ R inner(Complex<R> a, Complex<R> b) {
  return a.re * b.re + a.im * b.im;
}
// exp(s A)
template <typename R>
__device__ __forceinline__ Real<R> decay(R s, Real<R> A) {
  return {exp_of(s * A.re)};
}
template <typename R>
__device__ __forceinline__ Complex<R> decay(R s, Complex<R> A) {
  const R size = exp_of(s * A.re);
  R sine, cosine;  // in units of pi, whose range is reduced exactly
  sincospi_of(s * (A.im * R(0.31830988618379067154)), &sine, &cosine);
  return {size * cosine, size * sine};
}
template <typename R>
__device__ __forceinline__ R read_out(Real<R> c, Real<R> h) {
  return c.re * h.re;
}
template <typename R>
__device__ __forceinline__ R read_out(Complex<R> c, Complex<R> h) {
  return R(2) * (c.re * h.re - c.im * h.im);
}

struct GeneralParams {
  const void *u, *delta, *A, *B, *C, *h0, *dy, *dlast;
  void *y, *last, *kept, *du, *ddelta, *dA, *dB, *dC, *dBC, *dh0;
  const i64* offsets;
  i64 sequences, length, channels, states, segment, group_B, group_C, blocks, rows, slab, groups_B,
      groups_C;
};

constexpr int LANES = 32;

template <typename V, bool CONST_B, bool CONST_C>
__global__ void __launch_bounds__(256, 1) general_forward(GeneralParams p) {
  typedef typename V::Scalar R;
  constexpr int NPT = 4 / V::PARTS, T = SEGMENT;
  const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, W = blockDim.x / LANES;
  const int width = W * NPT;
  extern __shared__ __align__(16) unsigned char raw[];
  V* s_B = reinterpret_cast<V*>(raw);
  V* s_C = s_B + T * width;
  R* s_dt = reinterpret_cast<R*>(s_C + T * width);
  R* s_x = s_dt + T * LANES;
  R* s_y = s_x + T * LANES;  // [W][T][LANES]

  const Span span = find_span(blockIdx.x / p.blocks, p.offsets, p.sequences, p.length, i64(1) << 40);
  if (span.empty) return;
  const Channels ch = find_channels(blockIdx.x % p.blocks, p.segment, LANES);
  const i64 D = p.channels, N = p.states, d = ch.first + lane;
  const bool live = lane < ch.count;
  const i64 first = p.slab * width + warp * NPT;
  const i64 row0 = span.batch * p.length;

  V A[NPT], h[NPT], fixed_B[NPT], fixed_C[NPT];
#pragma unroll
  for (int i = 0; i < NPT; i++) {
    const bool real = live && first + i < N;
    const i64 at = d * N + first + i;
    A[i] = real ? static_cast<const V*>(p.A)[at] : V{};
    h[i] = real && p.h0 ? static_cast<const V*>(p.h0)[span.sequence * D * N + at] : V{};
    if constexpr (CONST_B) fixed_B[i] = real ? static_cast<const V*>(p.B)[at] : V{};
    if constexpr (CONST_C) fixed_C[i] = real ? static_cast<const V*>(p.C)[at] : V{};
  }
  V* kept = static_cast<V*>(p.kept);
  if (kept) kept += kept_slot(span, p.offsets, p.length) * N * D;

  for (i64 t0 = span.from; t0 < span.to; t0 += T) {
    for (int e = threadIdx.x; e < T * LANES; e += blockDim.x) {
      const int r = e / LANES, c = e % LANES;
      const bool real = t0 + r < span.to && c < ch.count;
      const i64 at = (row0 + t0 + r) * D + ch.first + c;
      const R dt = real ? static_cast<const R*>(p.delta)[at] : R(0);
      s_dt[e] = dt;
      s_x[e] = real ? dt * static_cast<const R*>(p.u)[at] : R(0);
    }
    for (int e = threadIdx.x; e < T * width; e += blockDim.x) {
      const int r = e / width;
      const i64 n = p.slab * width + e % width, row = row0 + t0 + r;
      const bool real = t0 + r < span.to && n < N;
      if constexpr (!CONST_B)
        s_B[e] = real ? static_cast<const V*>(p.B)[(row * p.groups_B + ch.first / p.group_B) * N + n]
                      : V{};
      if constexpr (!CONST_C)
        s_C[e] = real ? static_cast<const V*>(p.C)[(row * p.groups_C + ch.first / p.group_C) * N + n]
                      : V{};
    }
    if (kept) {
#pragma unroll
      for (int i = 0; i < NPT; i++)
        if (live && first + i < N) kept[(first + i) * D + d] = h[i];
      kept += N * D;
    }
    __syncthreads();
#pragma unroll 2
    for (int t = 0; t < T; t++) {
      const R dt = s_dt[t * LANES + lane], x = s_x[t * LANES + lane];
      R y = 0;
#pragma unroll
      for (int i = 0; i < NPT; i++) {
        const V b = CONST_B ? fixed_B[i] : s_B[t * width + warp * NPT + i];
        const V c = CONST_C ? fixed_C[i] : s_C[t * width + warp * NPT + i];
        h[i] = add_scaled(multiply(decay(dt, A[i]), h[i]), x, b);
        y += read_out(c, h[i]);
      }
      s_y[(warp * T + t) * LANES + lane] = y;
    }
    __syncthreads();
    for (int e = threadIdx.x; e < T * LANES; e += blockDim.x) {
      const int r = e / LANES, c = e % LANES;
      if (t0 + r >= span.to || c >= ch.count) continue;
      R* out = static_cast<R*>(p.y) + (row0 + t0 + r) * D + ch.first + c;
      R total = p.slab ? *out : R(0);
      for (int k = 0; k < W; k++) total += s_y[k * T * LANES + e];
      *out = total;
    }
  }
#pragma unroll
  for (int i = 0; i < NPT; i++)
    if (live && first + i < N)
      static_cast<V*>(p.last)[(span.sequence * D + d) * N + first + i] = h[i];
}

// Sums eight values over 32 lanes: lane l (of each eight) gets the total of value l.
template <typename R>
__device__ __forceinline__ R sum_eight(R (&v)[8], int lane) {
#pragma unroll
  for (int width = 4; width >= 1; width >>= 1) {
    const bool upper = lane & width;
#pragma unroll
    for (int k = 0; k < width; k++) {
      const R keep = upper ? v[k + width] : v[k], send = upper ? v[k] : v[k + width];
      v[k] = keep + __shfl_xor_sync(0xffffffffu, send, width);
    }
  }
  R total = v[0];
  total += __shfl_xor_sync(0xffffffffu, total, 8);
  total += __shfl_xor_sync(0xffffffffu, total, 16);
  return total;
}

template <typename V, bool CONST_B, bool CONST_C>
__global__ void __launch_bounds__(256, 1) general_backward(GeneralParams p) {
  typedef typename V::Scalar R;
  constexpr int NPT = 4 / V::PARTS, T = SEGMENT;
  constexpr R FACTOR = V::PARTS;  // y = 2 Re(C h) if complex
  const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, W = blockDim.x / LANES;
  const int width = W * NPT;
  extern __shared__ __align__(16) unsigned char raw[];
  V* s_B = reinterpret_cast<V*>(raw);
  V* s_C = s_B + T * width;
  R* s_dt = reinterpret_cast<R*>(s_C + T * width);
  R* s_x = s_dt + T * LANES;
  R* s_dy = s_x + T * LANES;
  R* s_v = s_dy + T * LANES;  // [W][2][T][LANES]

  const i64 item = blockIdx.x / p.blocks, block = blockIdx.x % p.blocks;
  const Span span = find_span(item, p.offsets, p.sequences, p.length, i64(1) << 40);
  if (span.empty) return;
  const Channels ch = find_channels(block, p.segment, LANES);
  const i64 D = p.channels, N = p.states, d = ch.first + lane;
  const bool live = lane < ch.count;
  const i64 first = p.slab * width + warp * NPT;
  const i64 row0 = span.batch * p.length;

  V A[NPT], carry[NPT], dA[NPT], dB[NPT], dC[NPT], fixed_B[NPT], fixed_C[NPT];
#pragma unroll
  for (int i = 0; i < NPT; i++) {
    const bool real = live && first + i < N;
    const i64 at = d * N + first + i;
    A[i] = real ? static_cast<const V*>(p.A)[at] : V{};
    carry[i] = real && p.dlast ? static_cast<const V*>(p.dlast)[span.sequence * D * N + at] : V{};
    dA[i] = dB[i] = dC[i] = V{};
    if constexpr (CONST_B) fixed_B[i] = real ? static_cast<const V*>(p.B)[at] : V{};
    if constexpr (CONST_C) fixed_C[i] = real ? static_cast<const V*>(p.C)[at] : V{};
  }
  const i64 steps = span.to - span.from, tiles = (steps + T - 1) / T;
  const V* kept = static_cast<const V*>(p.kept) + kept_slot(span, p.offsets, p.length) * N * D;

  for (i64 tile = tiles - 1; tile >= 0; tile--) {
    const i64 t0 = span.from + tile * T;
    __syncthreads();
    for (int e = threadIdx.x; e < T * LANES; e += blockDim.x) {
      const int r = e / LANES, c = e % LANES;
      const bool real = t0 + r < span.to && c < ch.count;
      const i64 at = (row0 + t0 + r) * D + ch.first + c;
      const R dt = real ? static_cast<const R*>(p.delta)[at] : R(0);
      s_dt[e] = dt;
      s_x[e] = real ? dt * static_cast<const R*>(p.u)[at] : R(0);
      s_dy[e] = real ? static_cast<const R*>(p.dy)[at] : R(0);
    }
    for (int e = threadIdx.x; e < T * width; e += blockDim.x) {
      const int r = e / width;
      const i64 n = p.slab * width + e % width, row = row0 + t0 + r;
      const bool real = t0 + r < span.to && n < N;
      if constexpr (!CONST_B)
        s_B[e] = real ? static_cast<const V*>(p.B)[(row * p.groups_B + ch.first / p.group_B) * N + n]
                      : V{};
      if constexpr (!CONST_C)
        s_C[e] = real ? static_cast<const V*>(p.C)[(row * p.groups_C + ch.first / p.group_C) * N + n]
                      : V{};
    }
    V start[NPT];
#pragma unroll
    for (int i = 0; i < NPT; i++)
      start[i] = live && first + i < N ? kept[(tile * N + first + i) * D + d] : V{};
    __syncthreads();
    // The states before a window's steps are in registers; of complex128 those of four steps fit.
    constexpr int WINDOW = sizeof(V) > 8 ? T / 4 : T;
#pragma unroll 1
    for (int w0 = T - WINDOW; w0 >= 0; w0 -= WINDOW) {
      V h[NPT], before[WINDOW][NPT];
      auto advance = [&](int t) {
        const R dt = s_dt[t * LANES + lane], x = s_x[t * LANES + lane];
#pragma unroll
        for (int i = 0; i < NPT; i++) {
          const V b = CONST_B ? fixed_B[i] : s_B[t * width + warp * NPT + i];
          h[i] = add_scaled(multiply(decay(dt, A[i]), h[i]), x, b);
        }
      };
#pragma unroll
      for (int i = 0; i < NPT; i++) h[i] = start[i];
      for (int t = 0; t < w0; t++) advance(t);
#pragma unroll
      for (int t = 0; t < WINDOW; t++) {
#pragma unroll
        for (int i = 0; i < NPT; i++) before[t][i] = h[i];
        if (t + 1 < WINDOW) advance(w0 + t);
      }
#pragma unroll
      for (int i_t = WINDOW - 1; i_t >= 0; i_t--) {
        const int t = w0 + i_t;
        asm volatile("" ::: "memory");  // a step's loads stay in it: registers are short
        const R dt = s_dt[t * LANES + lane], x = s_x[t * LANES + lane], dy = s_dy[t * LANES + lane];
        R v1 = 0, v2 = 0, sums[8];
#pragma unroll
        for (int i = 0; i < NPT; i++) {
          const V b = CONST_B ? fixed_B[i] : s_B[t * width + warp * NPT + i];
          const V c = CONST_C ? fixed_C[i] : s_C[t * width + warp * NPT + i];
          const V a = decay(dt, A[i]), w = multiply(a, before[i_t][i]);
          const V after = add_scaled(w, x, b), dh = add_scaled(carry[i], FACTOR * dy, conjugate(c));
          const V weight = multiply(conjugate(w), dh);
          carry[i] = multiply(conjugate(a), dh);
          dA[i] = add_scaled(dA[i], dt, weight);
          v1 += inner(b, dh);
          v2 += inner(A[i], weight);
          const V own_C = add_scaled(V{}, FACTOR * dy, conjugate(after));
          if constexpr (CONST_B) dB[i] = add_scaled(dB[i], x, dh);
          if constexpr (CONST_C) dC[i] = add_scaled(dC[i], R(1), own_C);
          const R* from_h = reinterpret_cast<const R*>(&dh);
          const R* from_C = reinterpret_cast<const R*>(&own_C);
#pragma unroll
          for (int k = 0; k < V::PARTS; k++) {
            sums[i * V::PARTS + k] = x * from_h[k];
            sums[4 + i * V::PARTS + k] = from_C[k];
          }
        }
        s_v[((warp * 2 + 0) * T + t) * LANES + lane] = v1;
        s_v[((warp * 2 + 1) * T + t) * LANES + lane] = v2;
        if constexpr (!CONST_B || !CONST_C) {
          const R total = sum_eight(sums, lane);
          const i64 scalar = first * V::PARTS + lane % 4, row = row0 + t0 + t;
          if (lane < 8 && t0 + t < span.to && scalar < N * V::PARTS)
            static_cast<R*>(p.dBC)[((block * p.rows + row) * 2 + lane / 4) * N * V::PARTS + scalar] =
                total;
        }
      }
    }
    __syncthreads();
    for (int e = threadIdx.x; e < T * LANES; e += blockDim.x) {
      const int r = e / LANES, c = e % LANES;
      if (t0 + r >= span.to || c >= ch.count) continue;
      const i64 at = (row0 + t0 + r) * D + ch.first + c;
      R v1 = 0, v2 = 0;
      for (int k = 0; k < W; k++) {
        v1 += s_v[(k * 2 + 0) * T * LANES + e];
        v2 += s_v[(k * 2 + 1) * T * LANES + e];
      }
      R* du = static_cast<R*>(p.du) + at;
      R* ddelta = static_cast<R*>(p.ddelta) + at;
      const R own_u = s_dt[e] * v1, own_delta = v2 + static_cast<const R*>(p.u)[at] * v1;
      *du = p.slab ? *du + own_u : own_u;
      *ddelta = p.slab ? *ddelta + own_delta : own_delta;
    }
  }
#pragma unroll
  for (int i = 0; i < NPT; i++) {
    if (!live || first + i >= N) continue;
    const i64 part = (span.sequence * D + d) * N + first + i;
    static_cast<V*>(p.dA)[part] = dA[i];
    if constexpr (CONST_B) static_cast<V*>(p.dB)[part] = dB[i];
    if constexpr (CONST_C) static_cast<V*>(p.dC)[part] = dC[i];
    if (p.dh0) static_cast<V*>(p.dh0)[part] = carry[i];
  }
}
