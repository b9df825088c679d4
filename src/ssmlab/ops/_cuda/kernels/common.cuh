// Element types, vector loads and stores, fast maths. No CUDA header: NVRTC alone compiles it.

typedef unsigned int u32;
typedef unsigned short u16;
typedef long long i64;
typedef unsigned long long u64;

constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.6931471805599453f;

struct bf16 {
  u16 bits;
};
struct fp16 {
  u16 bits;
};

__device__ __forceinline__ float bits_to_float(u32 bits) { return __uint_as_float(bits); }

// ---- single elements ------------------------------------------------------------------------

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return bits_to_float(u32(x.bits) << 16); }
__device__ __forceinline__ float to_float(fp16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}

template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
  bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
template <>
__device__ __forceinline__ fp16 from_float<fp16>(float x) {
  fp16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}

// ---- pairs: a raw word (or two) in flight, converted where it is used --------------------------

template <typename T>
struct Pair;

template <>
struct Pair<float> {
  typedef float2 Raw;
  static __device__ __forceinline__ Raw zero() { return make_float2(0.f, 0.f); }
  static __device__ __forceinline__ float2 unpack(Raw r) { return r; }
  static __device__ __forceinline__ Raw pack(float2 v) { return v; }
  static __device__ __forceinline__ Raw join(float a, float b) { return make_float2(a, b); }
};

template <>
struct Pair<bf16> {
  typedef u32 Raw;
  static __device__ __forceinline__ Raw zero() { return 0u; }
  static __device__ __forceinline__ float2 unpack(Raw r) {
    return make_float2(bits_to_float(r << 16), bits_to_float(r & 0xffff0000u));
  }
  static __device__ __forceinline__ Raw pack(float2 v) {
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(v.y), "f"(v.x));
    return r;
  }
  static __device__ __forceinline__ Raw join(bf16 a, bf16 b) { return u32(a.bits) | u32(b.bits) << 16; }
};

template <>
struct Pair<fp16> {
  typedef u32 Raw;
  static __device__ __forceinline__ Raw zero() { return 0u; }
  static __device__ __forceinline__ float2 unpack(Raw r) {
    fp16 a{u16(r & 0xffffu)}, b{u16(r >> 16)};
    return make_float2(to_float(a), to_float(b));
  }
  static __device__ __forceinline__ Raw pack(float2 v) {
    u32 r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(v.y), "f"(v.x));
    return r;
  }
  static __device__ __forceinline__ Raw join(fp16 a, fp16 b) { return u32(a.bits) | u32(b.bits) << 16; }
};

// ---- four elements at once -----------------------------------------------------------------------

template <typename T>
struct Quad {
  typedef uint2 Raw;
  static __device__ __forceinline__ Raw zero() { return make_uint2(0u, 0u); }
  static __device__ __forceinline__ float4 unpack(Raw r) {
    const float2 a = Pair<T>::unpack(r.x), b = Pair<T>::unpack(r.y);
    return make_float4(a.x, a.y, b.x, b.y);
  }
  static __device__ __forceinline__ Raw pack(float4 v) {
    return make_uint2(Pair<T>::pack(make_float2(v.x, v.y)), Pair<T>::pack(make_float2(v.z, v.w)));
  }
  static __device__ __forceinline__ Raw join(T a, T b, T c, T d) {
    return make_uint2(Pair<T>::join(a, b), Pair<T>::join(c, d));
  }
};
template <>
struct Quad<float> {
  typedef float4 Raw;
  static __device__ __forceinline__ Raw zero() { return make_float4(0.f, 0.f, 0.f, 0.f); }
  static __device__ __forceinline__ float4 unpack(Raw r) { return r; }
  static __device__ __forceinline__ Raw pack(float4 v) { return v; }
  static __device__ __forceinline__ Raw join(float a, float b, float c, float d) {
    return make_float4(a, b, c, d);
  }
};

// ALIGNED: rows start at multiples of four elements and are aligned for four, and `valid` is 0 or at
// least 4; else element by element. FULL: `valid` is at least 4 and not looked at.
template <typename T, bool ALIGNED, bool FULL>
__device__ __forceinline__ typename Quad<T>::Raw load_quad(const T* p, int valid) {
  if constexpr (ALIGNED) {
    if (FULL || valid >= 4) return *reinterpret_cast<const typename Quad<T>::Raw*>(p);
    return Quad<T>::zero();
  } else {
    const T none = from_float<T>(0.f);
    return Quad<T>::join(valid > 0 ? p[0] : none, valid > 1 ? p[1] : none, valid > 2 ? p[2] : none,
                         valid > 3 ? p[3] : none);
  }
}
// One store: of a plain assignment the compiler often makes a store of each 32 bits.
__device__ __forceinline__ void store_raw(void* p, uint2 v) {
  asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(p), "r"(v.x), "r"(v.y));
}
__device__ __forceinline__ void store_raw(void* p, float2 v) {
  asm volatile("st.global.v2.f32 [%0], {%1, %2};" ::"l"(p), "f"(v.x), "f"(v.y));
}
__device__ __forceinline__ void store_raw(void* p, float4 v) {
  asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(p), "f"(v.x), "f"(v.y), "f"(v.z),
               "f"(v.w));
}
template <typename T, bool ALIGNED, bool FULL>
__device__ __forceinline__ void store_quad(T* p, float4 v, int valid) {
  if constexpr (ALIGNED) {
    if (FULL || valid >= 4) store_raw(p, Quad<T>::pack(v));
  } else {
    if (valid > 0) p[0] = from_float<T>(v.x);
    if (valid > 1) p[1] = from_float<T>(v.y);
    if (valid > 2) p[2] = from_float<T>(v.z);
    if (valid > 3) p[3] = from_float<T>(v.w);
  }
}
// Two floats; ALIGNED as above for two.
template <bool ALIGNED, bool FULL>
__device__ __forceinline__ float2 load_two(const float* p, int valid) {
  if constexpr (ALIGNED) {
    if (FULL || valid >= 2) return *reinterpret_cast<const float2*>(p);
    return make_float2(0.f, 0.f);
  } else {
    return make_float2(valid > 0 ? p[0] : 0.f, valid > 1 ? p[1] : 0.f);
  }
}
template <bool ALIGNED, bool FULL>
__device__ __forceinline__ void store_two(float* p, float2 v, int valid) {
  if constexpr (ALIGNED) {
    if (FULL || valid >= 2) store_raw(p, v);
  } else {
    if (valid > 0) p[0] = v.x;
    if (valid > 1) p[1] = v.y;
  }
}

// Copies that run while the thread goes on (4, 8 or 16 bytes; FULL: always, else zeros where
// `wanted` is false).
template <int SIZE, bool FULL>
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool wanted) {
  const u32 to = u32(__cvta_generic_to_shared(shared));
  if constexpr (FULL) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(global), "n"(SIZE) : "memory");
  } else {
    const int bytes = wanted ? SIZE : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(SIZE),
                 "r"(bytes)
                 : "memory");
  }
}
// Copies since the last call make a group; wait until at most LATER groups are unfinished.
__device__ __forceinline__ void end_copy_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LATER>
__device__ __forceinline__ void wait_copy_groups() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory");
}

// ---- matrix products ---------------------------------------------------------------------------

// c (16 x 8) += a (16 x 8) b (8 x 8) in tf32: the lowest 13 bits of a and b are dropped. A lane has
// c[lane / 4 (+ 8)][lane % 4 * 2 (+ 1)], a[lane / 4 (+ 8)][lane % 4 (+ 4)], b[lane % 4 (+ 4)][lane / 4].
__device__ __forceinline__ void mma_tf32(float (&c)[4], const float (&a)[4], float b0, float b1) {
  asm(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
        "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
}
struct Full {
  static constexpr bool value = true;
};
struct Ragged {
  static constexpr bool value = false;
};

// ---- fast maths: special-function unit, relative error about 2^-22 -----------------------------

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float log2_fast(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float reciprocal_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float exp_fast(float x) { return exp2_fast(x * LOG2E); }

// 1 / (1 + exp(-x)); exp(-x) = inf for very negative x gives 0, as it should.
__device__ __forceinline__ float sigmoid(float x) { return reciprocal_fast(1.f + exp_fast(-x)); }

// log(1 + e) / e for 0 <= e <= 1, relative error under 4e-7: a polynomial fitted for the least error. As
// many instructions as log2 and a series for small e, and the special-function unit is what is scarce.
__device__ __forceinline__ float log1p_ratio(float e) {
  float p = -0.0085391980f;
  p = fmaf(p, e, 0.044089593f);
  p = fmaf(p, e, -0.10768165f);
  p = fmaf(p, e, 0.17745237f);
  p = fmaf(p, e, -0.24495462f);
  p = fmaf(p, e, 0.33275479f);
  p = fmaf(p, e, -0.49997404f);
  return fmaf(p, e, 0.99999982f);
}

// log(1 + exp(x)) = max(x, 0) + log(1 + e), e = exp(-|x|).
__device__ __forceinline__ float softplus(float x) {
  const float e = exp_fast(-fabsf(x));
  return fmaf(e, log1p_ratio(e), fmaxf(x, 0.f));
}

// The same, and its derivative 1 / (1 + exp(-x)) in `slope`.
__device__ __forceinline__ float softplus_with_slope(float x, float* slope) {
  const float e = exp_fast(-fabsf(x)), r = reciprocal_fast(1.f + e);
  *slope = x < 0.f ? e * r : r;
  return fmaf(e, log1p_ratio(e), fmaxf(x, 0.f));
}
