// Any width, alignment and mix of types: a row is read again for the second pass over it.
//
// V is 4 where rows are multiples of 4 elements and aligned for it, else 1.

template <int V>
__global__ void __launch_bounds__(MOST_THREADS) rms_norm_forward_any(const ForwardArgs a) {
  const int warps = int(a.warps), size = 32 * warps;
  const int group = threadIdx.x / size, groups = blockDim.x / size, rank = threadIdx.x % size;
  const i64 row = i64(blockIdx.x) * groups + group, start = row * a.width;
  const bool active = row < a.rows;
  const i64 end = active ? a.width : 0;

  float squares = 0.f;
  for (i64 i = i64(rank) * V; i < end; i += size * V) {
    float h[V], x[V];
    load_typed<V>(a.residual, a.residual_type, start + i, h);
    if (a.x) {
      load_typed<V>(a.x, a.x_type, start + i, x);
#pragma unroll
      for (int v = 0; v < V; ++v) h[v] = rounded(h[v] + x[v], a.residual_type);
      store_typed<V>(a.sum, a.residual_type, start + i, h);
    }
#pragma unroll
    for (int v = 0; v < V; ++v) squares = fmaf(h[v], h[v], squares);
  }
  squares = group_sum(squares, warps, 0);
  if (!active) return;
  const float rstd = rsqrtf(squares / float(a.width) + float(a.eps));
  if (rank == 0) a.rstd[row] = rstd;
  for (i64 i = i64(rank) * V; i < end; i += size * V) {
    float h[V], x[V], w[V];
    // Not what was stored: loads through the read-only path may not see it.
    load_typed<V>(a.residual, a.residual_type, start + i, h);
    load_typed<V>(a.weight, a.weight_type, i, w);
    if (a.x) {
      load_typed<V>(a.x, a.x_type, start + i, x);
#pragma unroll
      for (int v = 0; v < V; ++v) h[v] = rounded(h[v] + x[v], a.residual_type);
    }
#pragma unroll
    for (int v = 0; v < V; ++v) w[v] *= h[v] * rstd;
    store_typed<V>(a.y, a.y_type, start + i, w);
  }
}

template <int V>
__global__ void __launch_bounds__(MOST_THREADS) rms_norm_backward_any(const BackwardArgs a) {
  const int warps = int(a.warps), size = 32 * warps;
  const int group = threadIdx.x / size, groups = blockDim.x / size, rank = threadIdx.x % size;
  // Parts of the weight's gradient stay in memory, a row of them a group.
  const i64 place = i64(blockIdx.x) * groups + group, all = i64(gridDim.x) * groups;
  float* mine = a.partial ? a.partial + place * a.width : nullptr;
  if (mine)
    for (i64 i = i64(rank) * V; i < a.width; i += size * V)
#pragma unroll
      for (int v = 0; v < V; ++v) mine[i + v] = 0.f;

  int turn = 0;
  for (i64 base = i64(blockIdx.x) * groups; base < a.rows; base += all) {
    const i64 row = base + group, start = row * a.width;
    const bool active = row < a.rows;
    const i64 end = active ? a.width : 0;
    const float rstd = active ? __ldg(a.rstd + row) : 0.f;
    float inner = 0.f;
    for (i64 i = i64(rank) * V; i < end; i += size * V) {
      float x[V], g[V], w[V];
      load_typed<V>(a.sum, a.residual_type, start + i, x);
      load_typed<V>(a.dy, a.y_type, start + i, g);
      load_typed<V>(a.weight, a.weight_type, i, w);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const float normed = x[v] * rstd;
        inner = fmaf(g[v] * w[v], normed, inner);
        if (mine) mine[i + v] = fmaf(g[v], normed, mine[i + v]);
      }
    }
    const float mean = group_sum(inner, warps, turn) / float(a.width);
    turn ^= 1;
    for (i64 i = i64(rank) * V; i < end; i += size * V) {
      float x[V], g[V], w[V], d[V];
      load_typed<V>(a.sum, a.residual_type, start + i, x);
      load_typed<V>(a.dy, a.y_type, start + i, g);
      load_typed<V>(a.weight, a.weight_type, i, w);
#pragma unroll
      for (int v = 0; v < V; ++v) d[v] = 0.f;
      if (a.dsum) load_typed<V>(a.dsum, a.residual_type, start + i, d);
#pragma unroll
      for (int v = 0; v < V; ++v) d[v] = fmaf(rstd, fmaf(-mean, x[v] * rstd, g[v] * w[v]), d[v]);
      store_typed<V>(a.dresidual, a.residual_type, start + i, d);
      if (a.dx) store_typed<V>(a.dx, a.x_type, start + i, d);
    }
  }
}
