// One step for decoding: y = act(bias + weight . (state, x)), and the state moved on by x.
// A row's state lies in slot slots[row] of a pool, or in slot row; a negative slot is padding.

struct UpdateArgs {
  const void* x;        // (B, D)
  const void* source;   // (P, W-1, D)
  void* target;         // (P, W-1, D), maybe the same memory; rows are slots, or 0 ... B-1
  const float* weight;  // (D, W)
  const float* bias;    // (D,) or null
  const void* slots;    // (B,) or null
  void* y;              // (B, D)
  i64 x_row, batch, channels, width, wide_index, target_slots, silu;
};

template <typename T>
__global__ void __launch_bounds__(128) conv_update(const UpdateArgs a) {
  const i64 blocks = (a.channels + 127) / 128;
  const i64 b = blockIdx.x / blocks, d = (blockIdx.x % blocks) * 128 + threadIdx.x;
  if (d >= a.channels) return;
  i64 slot = b;
  if (a.slots) {
    slot = a.wide_index ? static_cast<const i64*>(a.slots)[b]
                        : i64(static_cast<const int*>(a.slots)[b]);
  }
  T* y = static_cast<T*>(a.y) + b * a.channels + d;
  const i64 rows = a.width - 1;
  T* target = static_cast<T*>(a.target) + (a.target_slots ? slot : b) * rows * a.channels + d;
  if (slot < 0) {
    *y = from_float<T>(0.f);
    if (!a.target_slots) {
      for (i64 k = 0; k < rows; ++k) target[k * a.channels] = from_float<T>(0.f);
    }
    return;
  }
  const T* source = static_cast<const T*>(a.source) + slot * rows * a.channels + d;
  const float* taps = a.weight + d * a.width;
  float sum = a.bias ? a.bias[d] : 0.f;
  for (i64 k = 0; k < rows; ++k) {
    const T old = source[k * a.channels];
    sum = fmaf(taps[k], to_float(old), sum);
    if (k > 0) target[(k - 1) * a.channels] = old;
  }
  const T x = static_cast<const T*>(a.x)[b * a.x_row + d];
  sum = fmaf(taps[rows], to_float(x), sum);
  if (rows > 0) target[(rows - 1) * a.channels] = x;
  *y = from_float<T>(a.silu ? sum * sigmoid(sum) : sum);
}
