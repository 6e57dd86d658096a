// Elementwise loops of the processor.
#include <functional>
#include <utility>

#include "core/base/parallel_for.h"
#include "core/tensor/dispatch.h"
#include "core/tensor/tensor_kernels.h"

namespace ls {
namespace {

constexpr Index kGrain = 1 << 15;

// Offset and step of two operands in one stretch of n elements.
struct Stretch {
  Index n, offset_a, offset_b, step_a, step_b;
};

// f(stretch) over stretches that together are all of two operands of one shape. Axes that lie one
// after the other in both are one; the steps are 1 where they can be.
void for_each_stretch(const Shape& shape, const Shape& sa, const Shape& sb,
                      const std::function<void(const Stretch&)>& f) {
  Shape extent, step_a, step_b;  // innermost first
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    if (shape[axis] == 1) {
      continue;
    }
    const int last = extent.rank() - 1;
    if (last >= 0 && sa[axis] == step_a[last] * extent[last] &&
        sb[axis] == step_b[last] * extent[last]) {
      extent[last] *= shape[axis];
      continue;
    }
    extent.push_back(shape[axis]);
    step_a.push_back(sa[axis]);
    step_b.push_back(sb[axis]);
  }
  if (extent.empty()) {
    extent.push_back(1);
    step_a.push_back(1);
    step_b.push_back(1);
  }
  const Index cols = extent[0], da = step_a[0], db = step_b[0];
  const Index rows = cols == 0 ? 0 : shape.numel() / cols;
  if (rows == 1) {
    parallel_for(cols, kGrain, [&](Index begin, Index end) {
      f({end - begin, begin * da, begin * db, da, db});
    });
    return;
  }
  parallel_for(rows, row_grain(cols, kGrain), [&](Index r0, Index r1) {
    for (Index r = r0; r < r1; ++r) {
      Index rest = r, oa = 0, ob = 0;
      for (int axis = 1; axis < extent.rank(); ++axis) {
        const Index i = rest % extent[axis];
        rest /= extent[axis];
        oa += i * step_a[axis];
        ob += i * step_b[axis];
      }
      f({cols, oa, ob, da, db});
    }
  });
}

// f(i, j) for the elements i of the first operand and j of the second, in a loop of its own where
// both lie one after the other.
template <class F>
void for_each_element(const Stretch& s, F f) {
  if (s.step_a == 1 && s.step_b == 1) {
    for (Index i = 0; i < s.n; ++i) {
      f(s.offset_a + i, s.offset_b + i);
    }
  } else {
    for (Index i = 0; i < s.n; ++i) {
      f(s.offset_a + i * s.step_a, s.offset_b + i * s.step_b);
    }
  }
}

using CopyLoop = void (*)(const Stretch&, void* dst, const void* src);

template <class To, class From>
void copy_loop(const Stretch& s, void* dst, const void* src) {
  To* const to = static_cast<To*>(dst);
  const From* const from = static_cast<const From*>(src);
  for_each_element(s, [=](Index i, Index j) { to[i] = convert<To>(from[j]); });
}

// Elements of one type are copied by their size alone.
CopyLoop same_type_loop(DType type) {
  switch (dtype_size(type)) {
    case 8:
      return copy_loop<std::uint64_t, std::uint64_t>;
    case 4:
      return copy_loop<std::uint32_t, std::uint32_t>;
    case 2:
      return copy_loop<std::uint16_t, std::uint16_t>;
    default:
      return copy_loop<std::uint8_t, std::uint8_t>;
  }
}

CopyLoop loop_between(DType to, DType from) {
  CopyLoop loop = nullptr;
  dispatch_all(to, [&]<class To>() {
    dispatch_all(from, [&]<class From>() { loop = copy_loop<To, From>; });
  });
  return loop;
}

void copy(const ExecutionContext&, TensorView to, const TensorView& from) {
  const CopyLoop loop = to.dtype() == from.dtype() ? same_type_loop(to.dtype())
                                                   : loop_between(to.dtype(), from.dtype());
  void* const dst = to.raw();
  const void* const src = from.raw();
  for_each_stretch(to.shape(), to.strides(), from.strides(),
                   [&](const Stretch& s) { loop(s, dst, src); });
}

void fill(const ExecutionContext&, TensorView to, double value) {
  dispatch_all(to.dtype(), [&]<class T>() {
    T* const dst = static_cast<T*>(to.raw());
    const T v = convert<T>(value);
    for_each_stretch(to.shape(), to.strides(), to.strides(), [=](const Stretch& s) {
      for_each_element(s, [=](Index i, Index) { dst[i] = v; });
    });
  });
}

void add(const ExecutionContext&, TensorView to, const TensorView& from, double alpha) {
  dispatch_float(to.dtype(), [&]<class T>() {
    dispatch_float(from.dtype(), [&]<class U>() {
      using A = acc_t<T>;
      T* const dst = static_cast<T*>(to.raw());
      const U* const src = static_cast<const U*>(from.raw());
      const A a = static_cast<A>(alpha);
      for_each_stretch(to.shape(), to.strides(), from.strides(), [=](const Stretch& s) {
        for_each_element(s, [=](Index i, Index j) {
          const A sum = convert<A>(dst[i]) + a * convert<A>(src[j]);
          dst[i] = convert<T>(sum);
        });
      });
    });
  });
}

void mul(const ExecutionContext&, TensorView to, double factor) {
  dispatch_float(to.dtype(), [&]<class T>() {
    using A = acc_t<T>;
    T* const dst = static_cast<T*>(to.raw());
    const A f = static_cast<A>(factor);
    for_each_stretch(to.shape(), to.strides(), to.strides(), [=](const Stretch& s) {
      for_each_element(
          s, [=](Index i, Index) { dst[i] = convert<T>(static_cast<A>(convert<A>(dst[i]) * f)); });
    });
  });
}

}  // namespace

const TensorKernels& cpu_tensor_kernels() {
  static constexpr TensorKernels kKernels = {copy, fill, add, mul};
  return kKernels;
}

}  // namespace ls
