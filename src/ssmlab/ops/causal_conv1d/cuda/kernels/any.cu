// The same for any width and any alignment, one channel a thread: right before fast.

template <typename T>
__device__ __forceinline__ float input_at(const ConvArgs& a, const T* x, i64 r,
                                          const Segments& segment, i64 channel) {
  if (r >= segment.start) return to_float(x[r * a.x_row]);
  if (!a.state) return 0.f;
  const i64 row = segment.index * (a.width - 1) + (a.width - 1) + r - segment.start;
  return to_float(static_cast<const T*>(a.state)[row * a.channels + channel]);
}

template <typename T>
__device__ __forceinline__ float sum_at(const ConvArgs& a, const T* x, i64 t,
                                        const Segments& segment, i64 channel) {
  float sum = a.bias ? a.bias[channel] : 0.f;
  const float* taps = a.weight + channel * a.width;
  for (i64 k = 0; k < a.width; ++k) {
    sum = fmaf(taps[k], input_at(a, x, t - (a.width - 1) + k, segment, channel), sum);
  }
  return sum;
}

template <typename T>
__global__ void __launch_bounds__(256) conv_forward_any(const ConvArgs a) {
  const Place<1> at(a);
  if (!at.active) return;
  const T* x = static_cast<const T*>(a.x) + at.batch * a.x_batch + at.channel;
  T* y = static_cast<T*>(a.y) + at.batch * a.y_batch + at.channel;
  Segments segment(a, at.batch, at.first_row, a.width - 1);
  for (i64 t = at.first_row; t < at.last_row; ++t) {
    if (t > at.first_row && segment.begins(t)) segment.enter(t);
    const float sum = sum_at(a, x, t, segment, at.channel);
    const float out = a.silu ? sum * sigmoid(sum) : sum;
    y[t * a.y_row] = from_float<T>(segment.padding(t) ? 0.f : out);
  }
}

// slope = dy silu'(s), which the other two gradients are made of.
template <typename T>
__global__ void __launch_bounds__(256) conv_slope_any(const ConvArgs a) {
  const Place<1> at(a);
  if (!at.active) return;
  const T* x = static_cast<const T*>(a.x) + at.batch * a.x_batch + at.channel;
  const T* dy = static_cast<const T*>(a.grad) + at.batch * a.grad_batch + at.channel;
  float* slope = a.slope + at.batch * a.length * a.channels + at.channel;
  Segments segment(a, at.batch, at.first_row, a.width - 1);
  for (i64 t = at.first_row; t < at.last_row; ++t) {
    if (t > at.first_row && segment.begins(t)) segment.enter(t);
    float ds = to_float(dy[t * a.grad_row]);
    if (a.silu) {
      const float sum = sum_at(a, x, t, segment, at.channel), gate = sigmoid(sum);
      ds *= gate * fmaf(sum, 1.f - gate, 1.f);
    }
    slope[t * a.channels] = segment.padding(t) ? 0.f : ds;
  }
}

// sum over k of weight[k] ds[r + (W-1) - k] over the rows from `from` on of the segment of `from`.
__device__ __forceinline__ float gradient_at(const ConvArgs& a, const float* slope, i64 r, i64 from,
                                             const Segments& segment, i64 channel) {
  float sum = 0.f;
  const float* taps = a.weight + channel * a.width;
  for (i64 t = from; t < a.length && t <= r + a.width - 1; ++t) {
    if (t > from && segment.begins(t)) break;
    sum = fmaf(taps[a.width - 1 - (t - r)], slope[t * a.channels], sum);
  }
  return sum;
}

template <typename T>
__global__ void __launch_bounds__(256) conv_backward_any(const ConvArgs a) {
  const Place<1> at(a);
  if (!at.active) return;
  const T* x = static_cast<const T*>(a.x) + at.batch * a.x_batch + at.channel;
  T* dx = static_cast<T*>(a.y) + at.batch * a.y_batch + at.channel;
  T* dstate = static_cast<T*>(a.grad_state);
  const float* slope = a.slope + at.batch * a.length * a.channels + at.channel;
  const Segments first(a, at.batch, at.first_row, a.width - 1);

  Segments segment = first;
  for (i64 t = at.first_row; t < at.last_row; ++t) {
    if (t > at.first_row && segment.begins(t)) segment.enter(t);
    dx[t * a.y_row] = from_float<T>(gradient_at(a, slope, t, t, segment, at.channel));
    if (dstate && t == segment.start) {
      for (i64 j = 0; j < a.width - 1; ++j) {
        const float sum = gradient_at(a, slope, t - (a.width - 1) + j, t, segment, at.channel);
        dstate[(segment.index * (a.width - 1) + j) * a.channels + at.channel] = from_float<T>(sum);
      }
    }
  }

  // One row of sums a warp: a block's warps follow each other over time.
  float* partial = a.partial + (at.slot * (blockDim.x / 32) + threadIdx.x / 32) * (a.width + 1) *
                                   a.channels + at.channel;
  for (i64 k = 0; k <= a.width; ++k) {
    float sum = 0.f;
    segment = first;
    for (i64 t = at.first_row; t < at.last_row; ++t) {
      if (t > at.first_row && segment.begins(t)) segment.enter(t);
      const float in =
          k < a.width ? input_at(a, x, t - (a.width - 1) + k, segment, at.channel) : 1.f;
      sum = fmaf(slope[t * a.channels], in, sum);
    }
    partial[k * a.channels] = sum;
  }
}
