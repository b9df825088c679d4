// What both passes share: a row is walked by a group of 1 to 16 neighbouring warps.

constexpr int MOST_THREADS = 512, MOST_WARPS = MOST_THREADS / 32;

struct ForwardArgs {
  const void* x;         // (rows, M) or null
  const void* residual;  // (rows, M)
  const void* weight;    // (M,)
  void* y;               // (rows, M)
  void* sum;             // (rows, M), residual + x; null if there is no x
  float* rstd;           // (rows,), 1 / sqrt(mean(sum²) + eps)
  i64 rows, width, warps;  // warps of a group
  i64 weight_type, x_type, residual_type, y_type;
  double eps;
};

struct BackwardArgs {
  const void* dy;       // (rows, M)
  const void* dsum;     // (rows, M), what comes through the sum itself; null for zeros
  const void* sum;      // (rows, M)
  const void* weight;   // (M,)
  const float* rstd;    // (rows,)
  void* dresidual;      // (rows, M)
  void* dx;             // (rows, M), the same in x's type; null where it is not wanted
  float* partial;       // (P, M), this launch's parts of the weight's gradient; null: not wanted
  i64 rows, width, warps;
  i64 weight_type, x_type, residual_type, y_type;
};

// What a type is called where a kernel is told at run time.
enum { FLOAT = 0, BF16 = 1, FP16 = 2 };

// V neighbouring elements of a type known at run time, which all threads agree on.
template <int V>
__device__ __forceinline__ void load_typed(const void* p, i64 type, i64 i, float (&out)[V]) {
  if constexpr (V == 1) {
    if (type == FLOAT) out[0] = static_cast<const float*>(p)[i];
    else if (type == BF16) out[0] = to_float(static_cast<const bf16*>(p)[i]);
    else out[0] = to_float(static_cast<const fp16*>(p)[i]);
  } else if constexpr (V == 8) {  // more than 16 bytes of float
    float low[4], high[4];
    load_typed<4>(p, type, i, low);
    load_typed<4>(p, type, i + 4, high);
#pragma unroll
    for (int v = 0; v < 4; ++v) out[v] = low[v], out[v + 4] = high[v];
  } else {
    if (type == FLOAT) Row<float, V>::unpack(Row<float, V>::load(static_cast<const float*>(p) + i), out);
    else if (type == BF16) Row<bf16, V>::unpack(Row<bf16, V>::load(static_cast<const bf16*>(p) + i), out);
    else Row<fp16, V>::unpack(Row<fp16, V>::load(static_cast<const fp16*>(p) + i), out);
  }
}

template <int V>
__device__ __forceinline__ void store_typed(void* p, i64 type, i64 i, const float (&in)[V]) {
  if constexpr (V == 1) {
    if (type == FLOAT) static_cast<float*>(p)[i] = in[0];
    else if (type == BF16) static_cast<bf16*>(p)[i] = from_float<bf16>(in[0]);
    else static_cast<fp16*>(p)[i] = from_float<fp16>(in[0]);
  } else {
    if (type == FLOAT) Row<float, V>::store(static_cast<float*>(p) + i, in);
    else if (type == BF16) Row<bf16, V>::store(static_cast<bf16*>(p) + i, in);
    else Row<fp16, V>::store(static_cast<fp16*>(p) + i, in);
  }
}

// As it is after a store in that type and a load.
__device__ __forceinline__ float rounded(float x, i64 type) {
  if (type == FLOAT) return x;
  return type == BF16 ? to_float(from_float<bf16>(x)) : to_float(from_float<fp16>(x));
}

// The sum over a group's threads, for each of them. All threads of a block come here as often if its
// groups have several warps; `turn` alternates, so that one barrier a sum is enough.
__device__ __forceinline__ float group_sum(float x, int warps, int turn) {
  __shared__ float parts[2][MOST_WARPS];
#pragma unroll
  for (int offset = 16; offset; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  if (warps == 1) return x;
  const int warp = threadIdx.x / 32, first = warp / warps * warps;
  if (threadIdx.x % 32 == 0) parts[turn][warp] = x;
  __syncthreads();
  x = 0.f;
  for (int w = 0; w < warps; ++w) x += parts[turn][first + w];
  return x;
}
