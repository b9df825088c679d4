// Between and after the main kernels: the scan over chunks of time, and the sums over blocks.

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
  // Loads of a few chunks at once: one after the other, their latency would be most of the time.
  constexpr int BATCH = 8;
  for (i64 k0 = 0; k0 < count; k0 += BATCH) {
    float own[BATCH], sum[BATCH];
    auto item_of = [&](int k) { return first + (REVERSE ? count - 1 - (k0 + k) : k0 + k); };
#pragma unroll
    for (int k = 0; k < BATCH; k++) {
      const bool real = k0 + k < count;
      own[k] = real ? p.chunk_state[(item_of(k) * N + n) * D + d] : 0.f;
      sum[k] = real ? p.chunk_sum[item_of(k) * D + d] : 0.f;
    }
#pragma unroll
    for (int k = 0; k < BATCH; k++) {
      if (k0 + k >= count) break;
      p.chunk_state[(item_of(k) * N + n) * D + d] = h;
      h = fmaf(exp2_fast(A * sum[k]), h, own[k]);
    }
  }
  if (p.first != nullptr) p.first[(sequence * D + d) * N + n] = h;
}

// What remains after scan_backward: dB and dC from the parts of blocks of channels, and dA (of a
// constant B or C, dB and dC too), dD and dbias from those of items, each sum in the order of its
// parts. One launch, blocks of 256 threads: first those of dB and dC per step (four states a thread),
// then three times those of dA, dB, dC, then of dD and dbias.
struct FinishParams {
  const float *dBC, *dA, *fixed_dB, *fixed_dC;     // (blocks, rows, 2, N), (items, N, D) thrice
  const float *dD, *dbias;                         // (items, D) twice
  void *out_B, *out_C;                             // (rows, groups, N), null if constant
  float *out_A, *out_fixed_B, *out_fixed_C;        // (D, N), the last two null if per step
  float *out_D, *out_bias;                         // (D,)
  i64 rows, states, channels, items, blocks, groups_B, groups_C, blocks_BC, blocks_A;
};

template <typename T, bool ALIGNED>
__global__ void __launch_bounds__(256) scan_finish(FinishParams p) {
  const i64 N = p.states, D = p.channels;
  i64 block = blockIdx.x;
  if (block < p.blocks_BC) {
    const i64 id = block * 256 + threadIdx.x, quads = (N + 3) / 4;
    const i64 row = id / (2 * quads), which = id / quads % 2, n = id % quads * 4;
    if (row >= p.rows) return;
    const i64 groups = which ? p.groups_C : p.groups_B, per_group = p.blocks / groups;
    T* out = static_cast<T*>(which ? p.out_C : p.out_B);
    if (out == nullptr) return;
    const i64 stride = p.rows * 2 * N;
    for (i64 group = 0; group < groups; group++) {
      const float* at = p.dBC + group * per_group * stride + (row * 2 + which) * N + n;
      float4 total = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll 8
      for (i64 k = 0; k < per_group; k++) {
        const float4 one = load_quad<float, ALIGNED, ALIGNED>(at + k * stride, int(N - n));
        total.x += one.x, total.y += one.y, total.z += one.z, total.w += one.w;
      }
      store_quad<T, ALIGNED, ALIGNED>(out + (row * groups + group) * N + n, total, int(N - n));
    }
    return;
  }
  block -= p.blocks_BC;
  auto sum = [&](const float* parts, i64 size, i64 at) {
    float total = 0.f;
#pragma unroll 8
    for (i64 k = 0; k < p.items; k++) total += parts[k * size + at];
    return total;
  };
  if (block < 3 * p.blocks_A) {
    const i64 which = block / p.blocks_A, id = block % p.blocks_A * 256 + threadIdx.x;
    float* out = which == 0 ? p.out_A : which == 1 ? p.out_fixed_B : p.out_fixed_C;
    const float* parts = which == 0 ? p.dA : which == 1 ? p.fixed_dB : p.fixed_dC;
    if (out != nullptr && id < N * D) out[id % D * N + id / D] = sum(parts, N * D, id);
    return;
  }
  const i64 d = (block - 3 * p.blocks_A) * 256 + threadIdx.x;
  if (d >= D) return;
  p.out_D[d] = sum(p.dD, D, d);
  p.out_bias[d] = sum(p.dbias, D, d);
}
