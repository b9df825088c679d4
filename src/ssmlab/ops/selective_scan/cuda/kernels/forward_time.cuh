// What feeds the forward scan where rows of u, delta, z (or dout) and y run along time; along_time.cuh
// says how. Steps and lengths are multiples of four, so that a run lies within a sequence or behind it.
// y before the gate stays (B, L, D): the backward pass may read it from either kind of kernel.

enum Pass { OUTPUT_PASS, STATE_PASS, REVERSE_PASS };
template <Pass PASS>
struct PassOf {
  static constexpr Pass value = PASS;
};

template <typename T, class F, Pass PASS, bool SOFTPLUS, bool GATE, bool SAVE>
struct TimeFeeder {
  static constexpr int STEPS = F::TT * F::PAIRS / F::FEEDERS;
  static constexpr bool REVERSE = PASS == REVERSE_PASS, LOAD_Z = GATE && PASS != STATE_PASS;
  using R = Run<T, STEPS>;
  using Place = TimePlace<F::TT, STEPS>;
  using Raw = typename R::Raw;
  enum Slot { U = 0, DELTA = 2, Z = 4 };  // of both channels; no more than what quads of them take
  static_assert(STEPS == 2 * F::ROWS, "a thread has as many elements in either layout");

  int thread, pair, step, valid;  // valid: channels of this thread and behind it
  const T *any, *u, *delta, *z;
  i64 u_d, delta_d, z_d, y_d, width;
  T *y, *y_pre;
  float bias[2], skip[2];

  __device__ __forceinline__ TimeFeeder(const ForwardParams& p, const Span& span, const Channels& ch,
                                        int thread)
      : thread(thread), pair(Place::pair(thread)), step(Place::step(thread)), valid(ch.count - 2 * pair) {
    const i64 d = ch.first + 2 * pair, t = span.from + step;
    u_d = REVERSE ? p.dout_t : p.u_t, delta_d = p.delta_t, z_d = p.z_t;
    y_d = p.length, width = p.channels;
    any = static_cast<const T*>(p.u);
    u = static_cast<const T*>(REVERSE ? p.dout : p.u) + span.batch * (REVERSE ? p.dout_b : p.u_b) +
        d * u_d + t;
    delta = static_cast<const T*>(p.delta) + span.batch * p.delta_b + d * delta_d + t;
    z = LOAD_Z ? static_cast<const T*>(p.z) + span.batch * p.z_b + d * z_d + t : nullptr;
    y = static_cast<T*>(p.y) + (span.batch * width + d) * y_d + t;
    y_pre = static_cast<T*>(p.y_pre) + (span.batch * y_d + t) * width + d;
#pragma unroll
    for (int j = 0; j < 2; j++) {
      bias[j] = p.bias != nullptr && j < valid ? p.bias[d + j] : 0.f;
      skip[j] = PASS == OUTPUT_PASS && p.D != nullptr && j < valid ? p.D[d + j] : 0.f;
    }
  }

  // What this thread has copied of a tile; none reads what another did.
  __device__ __forceinline__ Raw* own(void* tile) const { return static_cast<Raw*>(tile) + thread; }

  template <bool FULL>
  __device__ __forceinline__ void copy(void* tile, int t0, int steps) const {
    Raw* raw = own(tile);
    const bool in = FULL || t0 + step < steps;
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const bool wanted = FULL || (in && j < valid);
      auto put = [&](int slot, const T* from) {
        copy_run<sizeof(Raw), FULL>(raw + (slot + j) * F::FEEDERS, wanted ? from + t0 : any, wanted);
      };
      put(U, u + j * u_d);
      put(DELTA, delta + j * delta_d);
      if constexpr (LOAD_Z) put(Z, z + j * z_d);
    }
  }

  // delta and delta u (backwards in time: dout, gated) of a tile.
  template <bool FULL>
  __device__ __forceinline__ void stage(void* tile, float4* dx, int t0, int steps) const {
    const Raw* raw = own(tile);
    const bool in = FULL || t0 + step < steps;
    float x[2][STEPS], d[2][STEPS];
#pragma unroll
    for (int j = 0; j < 2; j++) {
      R::unpack(raw[(U + j) * F::FEEDERS], x[j]);
      R::unpack(raw[(DELTA + j) * F::FEEDERS], d[j]);
      float w[STEPS];
      if constexpr (REVERSE && GATE) R::unpack(raw[(Z + j) * F::FEEDERS], w);
#pragma unroll
      for (int i = 0; i < STEPS; i++) {
        d[j][i] += bias[j];
        if constexpr (SOFTPLUS) d[j][i] = softplus(d[j][i]);
        if (!in) d[j][i] = 0.f;  // a step that changes nothing
        if constexpr (!REVERSE) x[j][i] *= d[j][i];
        else if constexpr (GATE) x[j][i] *= w[i] * sigmoid(w[i]);
      }
    }
    dx += step * F::Rows::STRIDE + F::Rows::at(pair);
#pragma unroll
    for (int i = 0; i < STEPS; i++)
      dx[i * F::Rows::STRIDE] = make_float4(d[0][i], x[0][i], d[1][i], x[1][i]);
  }

  template <bool FULL>
  __device__ __forceinline__ void store(void* tile, const float2* parts, int t0, int steps) const {
    const Raw* raw = own(tile);
    const bool in = FULL || t0 + step < steps;
    float v[2][STEPS];
#pragma unroll
    for (int j = 0; j < 2; j++) {
      R::unpack(raw[(U + j) * F::FEEDERS], v[j]);
#pragma unroll
      for (int i = 0; i < STEPS; i++) v[j][i] *= skip[j];
    }
    parts += step * F::Y_ROW + pair;
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
#pragma unroll
      for (int k = 0; k < F::PARTS; k++) {
        const float2 part = parts[i * F::Y_ROW + k * F::Y_STRIDE];
        v[0][i] += part.x, v[1][i] += part.y;
      }
      if constexpr (GATE && SAVE) {
        if (FULL || (in && valid >= 2))  // channels are a multiple of four
          R::store_pair(y_pre + (t0 + i) * width, make_float2(v[0][i], v[1][i]));
      }
    }
#pragma unroll
    for (int j = 0; j < 2; j++) {
      if constexpr (GATE) {
        float w[STEPS];
        R::unpack(raw[(Z + j) * F::FEEDERS], w);
#pragma unroll
        for (int i = 0; i < STEPS; i++) v[j][i] *= w[i] * sigmoid(w[i]);
      }
      if (FULL || (in && j < valid)) R::store(y + t0 + j * y_d, v[j]);
    }
  }
};
struct NoFeeder {};  // rows along channels: forward.cuh itself
