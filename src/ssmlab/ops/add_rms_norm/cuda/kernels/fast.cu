// A row in registers: each thread has up to K vectors of V elements, between the two passes over them.
//
// Rows are multiples of V elements and start where V of them can be loaded at once. X is the type of x,
// R that of the residual stream, Y that of y; the weight's is told at run time.

template <typename X, typename R, typename Y, int V, int K>
__global__ void __launch_bounds__(MOST_THREADS, 1) rms_norm_forward(const ForwardArgs a) {
  const int warps = int(a.warps), size = 32 * warps;
  const int group = threadIdx.x / size, groups = blockDim.x / size, rank = threadIdx.x % size;
  const int width = int(a.width);
  const i64 row = i64(blockIdx.x) * groups + group;
  const bool active = row < a.rows;
  const i64 start = row * a.width;

  float h[K][V];
  typename Row<X, V>::Raw raw[K];
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const int i = (k * size + rank) * V;
    const bool there = active && i < width;
    raw[k] = Row<X, V>::zero();
    typename Row<R, V>::Raw r = Row<R, V>::zero();
    if (there) r = Row<R, V>::load(static_cast<const R*>(a.residual) + start + i);
    if (there && a.x) raw[k] = Row<X, V>::load(static_cast<const X*>(a.x) + start + i);
    Row<R, V>::unpack(r, h[k]);
  }
  float squares = 0.f;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const int i = (k * size + rank) * V;
    float x[V];
    Row<X, V>::unpack(raw[k], x);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      // The norm sees what the stream holds.
      h[k][v] = to_float(from_float<R>(h[k][v] + x[v]));
      squares = fmaf(h[k][v], h[k][v], squares);
    }
    if (active && a.sum && i < width) Row<R, V>::store(static_cast<R*>(a.sum) + start + i, h[k]);
  }
  squares = group_sum(squares, warps, 0);
  if (!active) return;
  const float rstd = rsqrtf(squares / float(width) + float(a.eps));
  if (rank == 0) a.rstd[row] = rstd;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const int i = (k * size + rank) * V;
    if (i >= width) continue;
    float w[V];
    load_typed<V>(a.weight, a.weight_type, i, w);
#pragma unroll
    for (int v = 0; v < V; ++v) w[v] *= h[k][v] * rstd;
    Row<Y, V>::store(static_cast<Y*>(a.y) + start + i, w);
  }
}

template <typename X, typename R, typename Y, int V, int K>
__global__ void __launch_bounds__(MOST_THREADS, 1) rms_norm_backward(const BackwardArgs a) {
  const int warps = int(a.warps), size = 32 * warps;
  const int group = threadIdx.x / size, groups = blockDim.x / size, rank = threadIdx.x % size;
  const int width = int(a.width);

  float dweight[K][V];
#pragma unroll
  for (int k = 0; k < K; ++k)
#pragma unroll
    for (int v = 0; v < V; ++v) dweight[k][v] = 0.f;

  int turn = 0;
  for (i64 base = i64(blockIdx.x) * groups; base < a.rows; base += i64(gridDim.x) * groups) {
    const i64 row = base + group, start = row * a.width;
    const bool active = row < a.rows;
    typename Row<R, V>::Raw h[K], through[K];
    typename Row<Y, V>::Raw dy[K];
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int i = (k * size + rank) * V;
      const bool there = active && i < width;
      h[k] = through[k] = Row<R, V>::zero();
      dy[k] = Row<Y, V>::zero();
      if (there) {
        h[k] = Row<R, V>::load(static_cast<const R*>(a.sum) + start + i);
        dy[k] = Row<Y, V>::load(static_cast<const Y*>(a.dy) + start + i);
      }
      if (there && a.dsum) through[k] = Row<R, V>::load(static_cast<const R*>(a.dsum) + start + i);
    }
    const float rstd = active ? __ldg(a.rstd + row) : 0.f;
    float inner = 0.f;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int i = (k * size + rank) * V;
      if (i >= width) continue;
      float x[V], g[V], w[V];
      Row<R, V>::unpack(h[k], x);
      Row<Y, V>::unpack(dy[k], g);
      load_typed<V>(a.weight, a.weight_type, i, w);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const float normed = x[v] * rstd;
        inner = fmaf(g[v] * w[v], normed, inner);
        dweight[k][v] = fmaf(g[v], normed, dweight[k][v]);
      }
    }
    const float mean = group_sum(inner, warps, turn) / float(width);
    turn ^= 1;
    if (!active) continue;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int i = (k * size + rank) * V;
      if (i >= width) continue;
      float x[V], g[V], w[V], d[V];
      Row<R, V>::unpack(h[k], x);
      Row<Y, V>::unpack(dy[k], g);
      Row<R, V>::unpack(through[k], d);
      load_typed<V>(a.weight, a.weight_type, i, w);
#pragma unroll
      for (int v = 0; v < V; ++v) d[v] = fmaf(rstd, fmaf(-mean, x[v] * rstd, g[v] * w[v]), d[v]);
      Row<R, V>::store(static_cast<R*>(a.dresidual) + start + i, d);
      if (a.dx) Row<X, V>::store(static_cast<X*>(a.dx) + start + i, d);
    }
  }

  if (!a.partial) return;
  extern __shared__ float sums[];  // M of a block with several groups, which add one after another
  float* mine = a.partial + i64(blockIdx.x) * a.width;
  for (int g = 0; g < groups; ++g) {
    if (g == group) {
#pragma unroll
      for (int k = 0; k < K; ++k) {
        const int i = (k * size + rank) * V;
        if (i >= width) continue;
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const float sum = g ? sums[i + v] + dweight[k][v] : dweight[k][v];
          if (g + 1 == groups) mine[i + v] = sum;
          else sums[i + v] = sum;
        }
      }
    }
    if (g + 1 < groups) __syncthreads();
  }
}
