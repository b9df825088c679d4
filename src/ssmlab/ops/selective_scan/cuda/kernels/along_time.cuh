// Tensors whose rows run along time, (B, D, L): what a feeding thread owns of a tile, and how it moves.
//
// A thread has two neighbouring channels, a run of 2 or 4 steps of each: as many elements as where
// rows run along channels, and what it writes to shared memory is a float4 (delta and delta u of both
// channels) a step, as the warps that run read it.

// Shared memory of delta and delta u: the pairs of channels in their order, steps one float4 apart by
// banks, so that neither eight lanes' stores (a run's first steps times some pairs) nor eight pairs'
// loads fall on the same banks.
template <int PAIRS>
struct TimeRows {
  static constexpr int STRIDE = PAIRS + 1;  // float4 a step
  static __device__ __forceinline__ int at(int pair) { return pair; }
};

template <bool FIRST, class A, class B>
struct Select {
  using Type = A;
};
template <class A, class B>
struct Select<false, A, B> {
  using Type = B;
};

// STEPS neighbouring elements of a row.
template <typename T, int STEPS>
struct Run {
  static_assert(STEPS == 2 || STEPS == 4, "a run has 2 or 4 steps");
  using Raw = typename Select<STEPS == 4, typename Quad<T>::Raw, typename Pair<T>::Raw>::Type;
  static __device__ __forceinline__ void unpack(const Raw& raw, float (&v)[STEPS]) {
    if constexpr (STEPS == 4) {
      const float4 x = Quad<T>::unpack(raw);
      v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
    } else {
      const float2 x = Pair<T>::unpack(raw);
      v[0] = x.x, v[1] = x.y;
    }
  }
  static __device__ __forceinline__ void store(T* p, const float (&v)[STEPS]) {
    if constexpr (STEPS == 4) store_raw(p, Quad<T>::pack(make_float4(v[0], v[1], v[2], v[3])));
    else store_pair(p, make_float2(v[0], v[1]));
  }
  static __device__ __forceinline__ void store_pair(T* p, float2 v) {
    *reinterpret_cast<typename Pair<T>::Raw*>(p) = Pair<T>::pack(v);
  }
};

// Which pair of channels and which steps of a tile. Lanes are laid out so that 16 neighbouring ones
// have whole rows of the tile (of 16 bits: a sector of memory each) and eight different banks.
template <int TT, int STEPS>
struct TimePlace {
  static constexpr int RUNS = TT / STEPS;
  static __device__ __forceinline__ int pair(int thread) {
    return thread / (STEPS * RUNS) * STEPS + thread % STEPS;
  }
  static __device__ __forceinline__ int step(int thread) { return thread / STEPS % RUNS * STEPS; }
};

// copy_async of a run; the rest of its line, which the next tiles take, is fetched into the L2 cache.
template <int SIZE, bool FULL>
__device__ __forceinline__ void copy_run(void* shared, const void* global, bool wanted) {
  const u32 to = u32(__cvta_generic_to_shared(shared));
  if constexpr (FULL) {
    asm volatile("cp.async.ca.shared.global.L2::128B [%0], [%1], %2;" ::"r"(to), "l"(global), "n"(SIZE)
                 : "memory");
  } else {
    const int bytes = wanted ? SIZE : 0;
    asm volatile("cp.async.ca.shared.global.L2::128B [%0], [%1], %2, %3;" ::"r"(to), "l"(global),
                 "n"(SIZE), "r"(bytes)
                 : "memory");
  }
}

// Four elements of two channels and two steps, one in each order, into the other.
__device__ __forceinline__ float4 crossed(float4 v) { return make_float4(v.x, v.z, v.y, v.w); }
