// Gradients of the convolution, in one walk over time.
//
// With s the sum before SiLU and ds = dy silu'(s): dx[t] = sum over k of weight[k] ds[t + (W-1) - k]
// and dweight[k] = sum over t of ds[t] x[t - (W-1) + k]. A warp makes s again from x, keeps the W-1
// rows of dx that are not complete yet in registers, and goes W-1 rows past its tile for the last of
// them. Sums over time leave as one row a block and are added up by conv_finish in a fixed order.

template <typename T, int W, int V, bool PACKED>
__global__ void __launch_bounds__(256, 2) conv_backward(const ConvArgs a) {
  constexpr int U = 4;
  typedef Row<T, V> R;
  const Place<V> at(a);
  float dtaps[W][V], dbias[V];
#pragma unroll
  for (int v = 0; v < V; ++v) {
    dbias[v] = 0.f;
#pragma unroll
    for (int k = 0; k < W; ++k) dtaps[k][v] = 0.f;
  }

  if (at.active) {
    const T* x = static_cast<const T*>(a.x) + at.batch * a.x_batch + at.channel;
    const T* dy = static_cast<const T*>(a.grad) + at.batch * a.grad_batch + at.channel;
    T* dx = static_cast<T*>(a.y) + at.batch * a.y_batch + at.channel;
    T* dstate = static_cast<T*>(a.grad_state);
    const Filter<W, V> filter(a, at.channel);
    const bool silu = a.silu != 0;
    const i64 end = at.last_row + W - 1;                       // rows walked
    const i64 loaded = end < a.length ? end : a.length;        // rows that exist

    typename R::Raw coming_x[U], coming_dy[U];
#pragma unroll
    for (int i = 0; i < U; ++i) {
      const i64 t = at.first_row + i;
      coming_x[i] = t < loaded ? R::load(x + t * a.x_row) : R::zero();
      coming_dy[i] = t < loaded ? R::load(dy + t * a.grad_row) : R::zero();
    }
    Segments segment(a, at.batch, PACKED ? at.first_row : 0, W - 1);
    Window<T, W, V> window;
    window.fill(a, x, at.first_row, segment.start, segment.index, at.channel);
    float open[W - 1][V];  // dx of rows t-(W-1) ... t-1 so far
#pragma unroll
    for (int k = 0; k < W - 1; ++k) {
#pragma unroll
      for (int v = 0; v < V; ++v) open[k][v] = 0.f;
    }

    // Row r of dx is complete: it is ours, a neighbour's, or one of the segment's state.
    auto emit = [&](i64 r, const float(&values)[V]) {
      if (r >= segment.start) {
        if (r >= at.first_row && r < at.last_row) R::store(dx + r * a.y_row, values);
      } else if (dstate && segment.start >= at.first_row && segment.start < at.last_row) {
        const i64 row = segment.index * (W - 1) + (W - 1) + r - segment.start;
        R::store(dstate + row * a.channels + at.channel, values);
      }
    };

    for (i64 group = at.first_row; group < end; group += U) {
      typename R::Raw now_x[U], now_dy[U];
#pragma unroll
      for (int i = 0; i < U; ++i) {
        now_x[i] = coming_x[i];
        now_dy[i] = coming_dy[i];
      }
#pragma unroll
      for (int i = 0; i < U; ++i) {
        const i64 t = group + U + i;
        coming_x[i] = t < loaded ? R::load(x + t * a.x_row) : R::zero();
        coming_dy[i] = t < loaded ? R::load(dy + t * a.grad_row) : R::zero();
      }
#pragma unroll
      for (int i = 0; i < U; ++i) {
        const i64 t = group + i;
        if (t >= end) break;
        if (PACKED && t > at.first_row && t < a.length && segment.begins(t)) {
#pragma unroll
          for (int k = 0; k < W - 1; ++k) {
            emit(t - (W - 1) + k, open[k]);
#pragma unroll
            for (int v = 0; v < V; ++v) open[k][v] = 0.f;
          }
          segment.enter(t);
          window.fill(a, x, t, t, segment.index, at.channel);
        }
        float in[V], ds[V];
        R::unpack(now_x[i], in);
        R::unpack(now_dy[i], ds);
        const bool none = t >= a.length || (PACKED && segment.padding(t));
#pragma unroll
        for (int v = 0; v < V; ++v) {
          if (silu) {
            const float sum = filter.apply(window, in[v], v);
            const float gate = sigmoid(sum);
            ds[v] *= gate * fmaf(sum, 1.f - gate, 1.f);
          }
          if (none) ds[v] = 0.f;
        }
        if (t < at.last_row) {
#pragma unroll
          for (int v = 0; v < V; ++v) {
#pragma unroll
            for (int k = 0; k < W - 1; ++k) {
              dtaps[k][v] = fmaf(ds[v], window.rows[k][v], dtaps[k][v]);
            }
            dtaps[W - 1][v] = fmaf(ds[v], in[v], dtaps[W - 1][v]);
            dbias[v] += ds[v];
          }
        }
#pragma unroll
        for (int v = 0; v < V; ++v) {
#pragma unroll
          for (int k = 0; k < W - 1; ++k) open[k][v] = fmaf(filter.taps[k][v], ds[v], open[k][v]);
        }
        emit(t - (W - 1), open[0]);
#pragma unroll
        for (int v = 0; v < V; ++v) {
#pragma unroll
          for (int k = 0; k + 1 < W - 1; ++k) open[k][v] = open[k + 1][v];
          open[W - 2][v] = filter.taps[W - 1][v] * ds[v];
        }
        window.push(in);
      }
    }
  }

  constexpr int WARPS = 8;
  __shared__ float sums[WARPS][(W + 1) * V][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int v = 0; v < V; ++v) {
#pragma unroll
    for (int k = 0; k < W; ++k) sums[warp][k * V + v][lane] = dtaps[k][v];
    sums[warp][W * V + v][lane] = dbias[v];
  }
  __syncthreads();
  const i64 chunk = at.channel - i64(lane) * V;
  for (int i = threadIdx.x; i < (W + 1) * V * 32; i += 256) {
    const int k = i / (V * 32), c = i % (V * 32);
    float sum = 0.f;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) sum += sums[w][k * V + c % V][c / V];
    if (chunk + c < a.channels) a.partial[(at.slot * (W + 1) + k) * a.channels + chunk + c] = sum;
  }
}
