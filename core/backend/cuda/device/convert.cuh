#pragma once
// Elements in the type that sums are kept in, one by one and several at once.
#include <cuda_bf16.h>

#include <cstring>

#include "core/base/types.h"

namespace ls::cuda {

template <class A, class T>
__device__ __forceinline__ A to_acc(T x) {
  if constexpr (std::is_same_v<T, bf16>) {
    return static_cast<A>(__uint_as_float(static_cast<unsigned>(x.bits) << 16));
  } else {
    return static_cast<A>(x);
  }
}
template <class T, class A>
__device__ __forceinline__ T from_acc(A x) {
  if constexpr (std::is_same_v<T, bf16>) {
    T y;
    y.bits = __bfloat16_as_ushort(__float2bfloat16_rn(static_cast<float>(x)));
    return y;
  } else {
    return static_cast<T>(x);
  }
}

/// N neighbours.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};
/// Two 16-bit floats are one register: an instruction each to take apart, one to put together.
template <class T, int N>
inline constexpr bool kPairs = std::is_same_v<T, bf16>&& N % 2 == 0;
/// As many of T as one load of 16 bytes brings.
template <class T>
inline constexpr int kPack = 16 / static_cast<int>(sizeof(T));

template <class T, int N>
__device__ __forceinline__ bool is_aligned(const T* p) {
  return reinterpret_cast<std::uintptr_t>(p) % (sizeof(T) * N) == 0;
}

/// N neighbours at once where they lie on a multiple of their size, else one by one.
template <int N, class T>
__device__ __forceinline__ Pack<T, N> load_pack(const T* from) {
  Pack<T, N> p;
  if (is_aligned<T, N>(from)) {
    p = *reinterpret_cast<const Pack<T, N>*>(from);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      p.v[i] = from[i];
    }
  }
  return p;
}
template <class A, int N, class T>
__device__ __forceinline__ void unpack(const Pack<T, N>& p, A (&to)[N]) {
  if constexpr (kPairs<T, N>) {
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      unsigned pair;
      memcpy(&pair, p.v + i, sizeof pair);
      to[i] = static_cast<A>(__uint_as_float(pair << 16));
      to[i + 1] = static_cast<A>(__uint_as_float(pair & 0xffff0000u));
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      to[i] = to_acc<A>(p.v[i]);
    }
  }
}
/// The same the other way, rounded.
template <class T, int N, class A>
__device__ __forceinline__ Pack<T, N> pack(const A (&from)[N]) {
  Pack<T, N> p;
  if constexpr (kPairs<T, N>) {
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      const __nv_bfloat162 pair =
          __floats2bfloat162_rn(static_cast<float>(from[i]), static_cast<float>(from[i + 1]));
      memcpy(p.v + i, &pair, sizeof pair);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      p.v[i] = from_acc<T>(from[i]);
    }
  }
  return p;
}
template <class A, int N, class T>
__device__ __forceinline__ void load(const T* from, A (&to)[N]) {
  unpack(load_pack<N>(from), to);
}
template <class T, int N, class A>
__device__ __forceinline__ void store(T* to, const A (&from)[N]) {
  const Pack<T, N> p = pack<T>(from);
  if (is_aligned<T, N>(to)) {
    *reinterpret_cast<Pack<T, N>*>(to) = p;
    return;
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    to[i] = p.v[i];
  }
}

}  // namespace ls::cuda
