// y[t] = act(bias + sum over k of weight[k] * x[t - (W-1) + k]), W known, V channels a thread.
//
// A thread keeps the last W-1 inputs of its channels in registers and walks over `rows` steps; the
// rows of the next group are under way while one is computed. Bound by memory: each element is read
// once (and W-1 rows a tile once more, from the L2) and written once.

template <typename T, int W, int V>
struct Window {
  float rows[W - 1][V];

  // The W-1 inputs before row t of a segment that begins at `start`.
  __device__ __forceinline__ void fill(const ConvArgs& a, const T* x, i64 t, i64 start, i64 index,
                                       i64 channel) {
    const T* state = static_cast<const T*>(a.state);
#pragma unroll
    for (int k = 0; k < W - 1; ++k) {
      const i64 r = t - (W - 1) + k;
      typename Row<T, V>::Raw raw = Row<T, V>::zero();
      if (r >= start) {
        raw = Row<T, V>::load(x + r * a.x_row);
      } else if (state) {
        raw = Row<T, V>::load(state + (index * (W - 1) + (W - 1) + r - start) * a.channels + channel);
      }
      Row<T, V>::unpack(raw, rows[k]);
    }
  }

  __device__ __forceinline__ void push(const float (&x)[V]) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
#pragma unroll
      for (int k = 0; k + 1 < W - 1; ++k) rows[k][v] = rows[k + 1][v];
      rows[W - 2][v] = x[v];
    }
  }
};

template <int W, int V>
struct Filter {
  float taps[W][V], bias[V];

  __device__ __forceinline__ Filter(const ConvArgs& a, i64 channel) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const float* p = a.weight + (channel + v) * W;
      if constexpr (W == 4) {
        const float4 four = __ldg(reinterpret_cast<const float4*>(p));
        taps[0][v] = four.x, taps[1][v] = four.y, taps[2][v] = four.z, taps[3][v] = four.w;
      } else {
#pragma unroll
        for (int k = 0; k < W; ++k) taps[k][v] = __ldg(p + k);
      }
      bias[v] = a.bias ? __ldg(a.bias + channel + v) : 0.f;
    }
  }

  template <typename T>
  __device__ __forceinline__ float apply(const Window<T, W, V>& window, float x, int v) const {
    float sum = bias[v];
#pragma unroll
    for (int k = 0; k < W - 1; ++k) sum = fmaf(taps[k][v], window.rows[k][v], sum);
    return fmaf(taps[W - 1][v], x, sum);
  }
};

template <typename T, int W, int V, bool PACKED>
__global__ void __launch_bounds__(256, 2) conv_forward(const ConvArgs a) {
  constexpr int U = 4;
  typedef Row<T, V> R;
  const Place<V> at(a);
  if (!at.active) return;
  const T* x = static_cast<const T*>(a.x) + at.batch * a.x_batch + at.channel;
  T* y = static_cast<T*>(a.y) + at.batch * a.y_batch + at.channel;
  const Filter<W, V> filter(a, at.channel);
  const bool silu = a.silu != 0;

  typename R::Raw coming[U];
#pragma unroll
  for (int i = 0; i < U; ++i) {
    const i64 t = at.first_row + i;
    coming[i] = t < at.last_row ? R::load(x + t * a.x_row) : R::zero();
  }
  Segments segment(a, at.batch, PACKED ? at.first_row : 0, W - 1);
  Window<T, W, V> window;
  window.fill(a, x, at.first_row, segment.start, segment.index, at.channel);

  for (i64 group = at.first_row; group < at.last_row; group += U) {
    typename R::Raw now[U];
#pragma unroll
    for (int i = 0; i < U; ++i) now[i] = coming[i];
#pragma unroll
    for (int i = 0; i < U; ++i) {
      const i64 t = group + U + i;
      coming[i] = t < at.last_row ? R::load(x + t * a.x_row) : R::zero();
    }
#pragma unroll
    for (int i = 0; i < U; ++i) {
      const i64 t = group + i;
      if (t >= at.last_row) break;
      if (PACKED && t > at.first_row && segment.begins(t)) {
        segment.enter(t);
        window.fill(a, x, t, t, segment.index, at.channel);
      }
      float in[V], out[V];
      R::unpack(now[i], in);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const float sum = filter.apply(window, in[v], v);
        out[v] = silu ? sum * sigmoid(sum) : sum;
      }
      if (PACKED && segment.padding(t)) {
#pragma unroll
        for (int v = 0; v < V; ++v) out[v] = 0.f;
      }
      R::store(y + t * a.y_row, out);
      window.push(in);
    }
  }
}
