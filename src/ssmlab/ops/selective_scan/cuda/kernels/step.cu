// One step of the recurrence for decoding: h = exp(dt A) h + dt B u, y = (C . h + D u) silu(z).
//
// `lanes` threads share a channel, V of its states each at a time; bound by reading and writing h.
// The state of row b lies in slot slots[b] of a pool, or in slot b; a negative slot is padding.

struct StepArgs {
  const void* source;  // (P, D, N)
  void* target;        // (P, D, N), maybe the same memory; or (B, D, N) with target_slots = 0
  const void* slots;   // (B,) or null
  const void* u;       // (B, D)
  const void* delta;   // (B, D)
  const void* z;       // (B, D) or null
  const float* A;      // (D, N)
  const void* B;       // (B, G, N), or constant (D, N)
  const void* C;
  const float* D;      // (D,) or null
  const float* bias;   // (D,) or null
  void* y;             // (B, D)
  i64 u_row, delta_row, delta_column, z_row;         // strides in elements
  i64 B_batch, B_group, B_span, C_batch, C_group, C_span;  // span: channels a group
  i64 batch, channels, states, lanes, wide_index, target_slots, softplus;
  i64 packed;  // V neighbours of B and C can be loaded at once
};

template <typename S, int V>
struct States {
  static __device__ __forceinline__ void load(const S* p, float (&h)[V]) {
    if constexpr (V == 1) {
      h[0] = to_float(*p);
    } else {
      Row<S, V>::unpack(*reinterpret_cast<const typename Row<S, V>::Raw*>(p), h);
    }
  }
  static __device__ __forceinline__ void store(S* p, const float (&h)[V]) {
    if constexpr (V == 1) {
      *p = from_float<S>(h[0]);
    } else {
      Row<S, V>::store(p, h);
    }
  }
};

template <typename T, typename S, int V>
__global__ void __launch_bounds__(128) scan_step(const StepArgs a) {
  const u32 lanes = u32(a.lanes), per = 128 / lanes, lane = threadIdx.x % lanes;
  const u32 blocks = u32((a.channels + per - 1) / per);
  const i64 b = blockIdx.x / blocks;
  const i64 place = i64(blockIdx.x % blocks) * per + threadIdx.x / lanes;
  const bool on = place < a.channels;
  const i64 d = on ? place : a.channels - 1;  // the others only take part in the shuffles
  i64 slot = b;
  if (a.slots) {
    slot = a.wide_index ? static_cast<const i64*>(a.slots)[b]
                        : i64(static_cast<const int*>(a.slots)[b]);
  }
  const bool padding = slot < 0;

  const float u = to_float(static_cast<const T*>(a.u)[b * a.u_row + d]);
  float dt = to_float(static_cast<const T*>(a.delta)[b * a.delta_row + d * a.delta_column]);
  if (a.bias) dt += a.bias[d];
  if (a.softplus) dt = softplus(dt);
  const float drive = dt * u;
  const S* source = static_cast<const S*>(a.source) + ((padding ? 0 : slot) * a.channels + d) * a.states;
  S* target = static_cast<S*>(a.target) + ((a.target_slots ? slot : b) * a.channels + d) * a.states;
  const T* B = static_cast<const T*>(a.B) + b * a.B_batch + d / a.B_span * a.B_group;
  const T* C = static_cast<const T*>(a.C) + b * a.C_batch + d / a.C_span * a.C_group;

  // All loads of a thread's K x V states before the first store, which may be to the same memory.
  constexpr int K = 2;
  const bool writes = on && !(padding && a.target_slots);
  const u32 states = u32(a.states), stride = lanes * V;
  float sum = 0.f;
  for (u32 first = lane * V; first < states; first += stride * K) {
    float h[K][V], decay[K][V], b_n[K][V], c_n[K][V];
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const u32 n = first + k * stride;
      if (n >= states) continue;
      States<S, V>::load(source + n, h[k]);
      States<float, V>::load(a.A + d * a.states + n, decay[k]);
      if (a.packed) {
        States<T, V>::load(B + n, b_n[k]);
        States<T, V>::load(C + n, c_n[k]);
      } else {
#pragma unroll
        for (int v = 0; v < V; ++v) b_n[k][v] = to_float(B[n + v]), c_n[k][v] = to_float(C[n + v]);
      }
    }
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const u32 n = first + k * stride;
      if (n >= states) continue;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        h[k][v] = fmaf(exp_fast(dt * decay[k][v]), h[k][v], drive * b_n[k][v]);
        sum = fmaf(h[k][v], c_n[k][v], sum);
        if (padding) h[k][v] = 0.f;
      }
      if (writes) States<S, V>::store(target + n, h[k]);
    }
  }
  for (u32 offset = lanes / 2; offset; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (!on || lane) return;
  if (a.D) sum = fmaf(a.D[d], u, sum);
  if (a.z) {
    const float z = to_float(static_cast<const T*>(a.z)[b * a.z_row + d]);
    sum *= z * sigmoid(z);
  }
  static_cast<T*>(a.y)[b * a.channels + d] = from_float<T>(padding ? 0.f : sum);
}
