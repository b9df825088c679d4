// V neighbouring elements as they are in memory: 16, 8 or 4 bytes, loaded and stored at once.
template <int BYTES>
struct RawOf;
template <>
struct RawOf<16> {
  typedef uint4 type;
};
template <>
struct RawOf<8> {
  typedef uint2 type;
};

template <>
struct RawOf<4> {
  typedef u32 type;
};

template <typename T, int V>
struct Row {
  typedef typename RawOf<V * int(sizeof(T))>::type Raw;
  static constexpr int PAIRS = V / 2;
  typedef typename Pair<T>::Raw Word;

  union Cast {
    Raw raw;
    Word word[PAIRS];
    __device__ Cast() {}
  };

  static __device__ __forceinline__ Raw load(const T* p) {
    return __ldg(reinterpret_cast<const Raw*>(p));
  }
  static __device__ __forceinline__ Raw zero() {
    Cast c;
#pragma unroll
    for (int i = 0; i < PAIRS; ++i) c.word[i] = Pair<T>::zero();
    return c.raw;
  }
  static __device__ __forceinline__ void unpack(Raw raw, float (&out)[V]) {
    Cast c;
    c.raw = raw;
#pragma unroll
    for (int i = 0; i < PAIRS; ++i) {
      const float2 two = Pair<T>::unpack(c.word[i]);
      out[2 * i] = two.x;
      out[2 * i + 1] = two.y;
    }
  }
  static __device__ __forceinline__ void store(T* p, const float (&in)[V]) {
    Cast c;
#pragma unroll
    for (int i = 0; i < PAIRS; ++i) c.word[i] = Pair<T>::pack(make_float2(in[2 * i], in[2 * i + 1]));
    *reinterpret_cast<Raw*>(p) = c.raw;
  }
};
