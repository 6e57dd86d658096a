// Tensor's own methods on a GPU: copies with conversion, fills, sums and factors over any strides.
#include "core/tensor/tensor_kernels.h"

#include <cuda_fp16.h>

#include "core/backend/cuda/device/rows.cuh"
#include "core/backend/cuda/device/strided.cuh"
#include "core/tensor/devices.h"
#include "core/tensor/dispatch.h"

namespace ls::cuda {
namespace {

/// fn.operator()<T>() for f64, f32 and bf16; false for other types.
template <class Fn>
bool dispatch_kernel_float(DType t, Fn fn) {
  switch (t) {
    case DType::kF64:
      fn.template operator()<double>();
      return true;
    case DType::kF32:
      fn.template operator()<float>();
      return true;
    case DType::kBF16:
      fn.template operator()<bf16>();
      return true;
    default:
      return false;
  }
}

Strided<2> both(const TensorView& to, const TensorView& from) {
  return Strided<2>(to.shape(), {&to.strides(), &from.strides()});
}
Strided<1> one(const TensorView& to) {
  return Strided<1>(to.shape(), {&to.strides()});
}

/// y = f(y, x) elementwise in the acc type of A, up to 16 bytes at once where so many lie one
/// behind the other in both.
template <class A, class T, class U, class F>
void combine(T* to, const U* from, const Strided<2>& where, F f) {
  constexpr int kWidth = kPack<T> < kPack<U> ? kPack<T> : kPack<U>;
  if (where.packs(kWidth)) {
    for_each_strided(where.in_packs(kWidth), [=] __device__(const Index(&pack)[2]) {
      A x[kWidth], y[kWidth] = {};
      load(from + pack[1] * kWidth, x);
      if (F::kReads) {
        load(to + pack[0] * kWidth, y);
      }
      for (int i = 0; i < kWidth; ++i) {
        y[i] = f(y[i], x[i]);
      }
      store(to + pack[0] * kWidth, y);
    });
    return;
  }
  for_each_strided(where, [=] __device__(const Index(&at)[2]) {
    A y = 0;
    if (F::kReads) {
      y = to_acc<A>(to[at[0]]);
    }
    to[at[0]] = from_acc<T>(f(y, to_acc<A>(from[at[1]])));
  });
}

template <class A>
struct Take {
  static constexpr bool kReads = false;
  __device__ A operator()(A, A x) const { return x; }
};
template <class A>
struct AddTimes {
  static constexpr bool kReads = true;
  A alpha;
  __device__ A operator()(A y, A x) const { return y + alpha * x; }
};

/// Elements of one type are copied by their size alone, and as many at once as lie one behind the
/// other in both, up to 16 bytes.
template <class Bits>
void move_elements(const void* from, void* to, const Strided<2>& where) {
  const auto* const x = static_cast<const Bits*>(from);
  auto* const y = static_cast<Bits*>(to);
  for_each_strided(where, [=] __device__(const Index(&at)[2]) { y[at[0]] = x[at[1]]; });
}
void move(const TensorView& from, TensorView& to) {
  const Strided<2> where = both(to, from);
  const auto lies = [](const void* p, std::size_t size) {
    return reinterpret_cast<std::uintptr_t>(p) % size == 0;
  };
  std::size_t size = dtype_size(to.dtype());
  int joined = 1;
  while (size < 16 && where.packs(2 * joined) && lies(from.raw(), 2 * size) &&
         lies(to.raw(), 2 * size)) {
    size *= 2;
    joined *= 2;
  }
  const Strided<2> packs = where.in_packs(joined);
  switch (size) {
    case 16:
      return move_elements<uint4>(from.raw(), to.raw(), packs);
    case 8:
      return move_elements<std::uint64_t>(from.raw(), to.raw(), packs);
    case 4:
      return move_elements<std::uint32_t>(from.raw(), to.raw(), packs);
    case 2:
      return move_elements<std::uint16_t>(from.raw(), to.raw(), packs);
    default:
      return move_elements<std::uint8_t>(from.raw(), to.raw(), packs);
  }
}

/// Any element, in the wider of two forms: what is no float stays an integer.
struct Number {
  bool whole;
  Index i;
  double x;
};
__device__ Number read_number(const void* p, DType t, Index at) {
  switch (t) {
    case DType::kF64:
      return {false, 0, static_cast<const double*>(p)[at]};
    case DType::kF32:
      return {false, 0, static_cast<const float*>(p)[at]};
    case DType::kBF16:
      return {false, 0, to_acc<float>(static_cast<const bf16*>(p)[at])};
    case DType::kF16:
      return {false, 0, __half2float(static_cast<const __half*>(p)[at])};
    case DType::kI64:
      return {true, static_cast<const std::int64_t*>(p)[at], 0};
    case DType::kI32:
      return {true, static_cast<const std::int32_t*>(p)[at], 0};
    default:  // u8 and bool
      return {true, static_cast<const std::uint8_t*>(p)[at], 0};
  }
}
__device__ void write_number(void* p, DType t, Index at, Number n) {
  const double x = n.whole ? static_cast<double>(n.i) : n.x;
  const Index i = n.whole ? n.i : static_cast<Index>(n.x);
  switch (t) {
    case DType::kF64:
      static_cast<double*>(p)[at] = x;
      return;
    case DType::kF32:
      static_cast<float*>(p)[at] = static_cast<float>(x);
      return;
    case DType::kBF16:
      static_cast<bf16*>(p)[at] = from_acc<bf16>(static_cast<float>(x));
      return;
    case DType::kF16:
      static_cast<__half*>(p)[at] = __float2half_rn(static_cast<float>(x));
      return;
    case DType::kI64:
      static_cast<std::int64_t*>(p)[at] = i;
      return;
    case DType::kI32:
      static_cast<std::int32_t*>(p)[at] = static_cast<std::int32_t>(i);
      return;
    case DType::kU8:
      static_cast<std::uint8_t*>(p)[at] = static_cast<std::uint8_t>(i);
      return;
    case DType::kBool:
      static_cast<bool*>(p)[at] = n.whole ? n.i != 0 : n.x != 0;
      return;
  }
}

void copy(const ExecutionContext& ctx, TensorView to, const TensorView& from) {
  const RunningOn running(ctx);
  if (to.dtype() == from.dtype()) {
    if (to.is_contiguous() && from.is_contiguous()) {
      ctx.stream.copy(to.raw(), from.raw(), to.bytes());
      return;
    }
    return move(from, to);
  }
  bool done = false;
  dispatch_kernel_float(to.dtype(), [&]<class T>() {
    done = dispatch_kernel_float(from.dtype(), [&]<class U>() {
      using A = std::conditional_t<std::is_same_v<U, double>, acc_t<T>, acc_t<U>>;
      combine<A>(static_cast<T*>(to.raw()), static_cast<const U*>(from.raw()), both(to, from),
                 Take<A>());
    });
  });
  if (done) {
    return;
  }
  const void* const x = from.raw();
  void* const y = to.raw();
  const DType tx = from.dtype(), ty = to.dtype();
  for_each_strided(both(to, from), [=] __device__(const Index(&at)[2]) {
    write_number(y, ty, at[0], read_number(x, tx, at[1]));
  });
}

void fill(const ExecutionContext& ctx, TensorView to, double value) {
  const RunningOn running(ctx);
  if (value == 0 && to.is_contiguous()) {
    ctx.stream.fill(to.raw(), 0, to.bytes());
    return;
  }
  void* const y = to.raw();
  const DType t = to.dtype();
  for_each_strided(one(to), [=] __device__(const Index(&at)[1]) {
    write_number(y, t, at[0], {false, 0, value});
  });
}

void add(const ExecutionContext& ctx, TensorView to, const TensorView& from, double alpha) {
  const RunningOn running(ctx);
  bool done = false;
  dispatch_kernel_float(to.dtype(), [&]<class T>() {
    done = dispatch_kernel_float(from.dtype(), [&]<class U>() {
      using A = acc_t<T>;
      combine<A>(static_cast<T*>(to.raw()), static_cast<const U*>(from.raw()), both(to, from),
                 AddTimes<A>{static_cast<A>(alpha)});
    });
  });
  LS_CHECK(done, kUnsupported, "{} and {} are added: a GPU adds f64, f32 and bf16", to.describe(),
           from.describe());
}

template <class T>
void multiply(TensorView& to, double factor) {
  using A = acc_t<T>;
  T* const y = static_cast<T*>(to.raw());
  const A f = static_cast<A>(factor);
  for_each_strided(one(to), [=] __device__(const Index(&at)[1]) {
    y[at[0]] = from_acc<T>(static_cast<A>(to_acc<A>(y[at[0]]) * f));
  });
}
void mul(const ExecutionContext& ctx, TensorView to, double factor) {
  const RunningOn running(ctx);
  const bool done = dispatch_kernel_float(to.dtype(), [&]<class T>() { multiply<T>(to, factor); });
  LS_CHECK(done, kUnsupported, "{} is multiplied: a GPU multiplies f64, f32 and bf16",
           to.describe());
}

constexpr TensorKernels kKernels = {copy, fill, add, mul};
const bool kernels_set = [] {
  set_tensor_kernels(DeviceType::kCuda, kKernels);
  return true;
}();

}  // namespace
}  // namespace ls::cuda
