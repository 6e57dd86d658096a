#include "core/tensor/tensor.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

#include "core/base/checked.h"
#include "core/base/parallel_for.h"
#include "core/tensor/dispatch.h"

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

}  // namespace

Tensor Tensor::empty(const Shape& shape, DType dtype) {
  Tensor t;
  t.layout_ = Layout(shape, dtype);
  t.storage_ = std::make_shared<Storage>(checked_mul(shape.numel(), dtype_size(dtype)));
  return t;
}

Tensor Tensor::zeros(const Shape& shape, DType dtype) {
  Tensor t = empty(shape, dtype);
  std::memset(t.storage_->data(), 0, static_cast<std::size_t>(t.bytes()));
  return t;
}

Tensor Tensor::full(const Shape& shape, DType dtype, double value) {
  Tensor t = empty(shape, dtype);
  t.fill_(value);
  return t;
}

Tensor Tensor::scalar(double value, DType dtype) {
  return full({}, dtype, value);
}

Tensor Tensor::from_raw(const void* values, Index count, const Shape& shape, DType dtype) {
  LS_CHECK(count == shape.numel(), kShape, "{} values do not fill shape {}", count, shape.str());
  Tensor t = empty(shape, dtype);
  if (count > 0) {
    std::memcpy(t.storage_->data(), values, static_cast<std::size_t>(t.bytes()));
  }
  return t;
}

const void* Tensor::raw() const {
  LS_ASSERT(defined());
  return static_cast<const char*>(storage_->data()) + layout_.offset() * dtype_size(dtype());
}
void* Tensor::raw() {
  return const_cast<void*>(std::as_const(*this).raw());
}
Tensor::operator TensorView() const {
  return defined() ? TensorView(storage_->data(), layout_) : TensorView();
}

Tensor Tensor::reshape(const Shape& shape) const {
  const bool infers = std::find(shape.begin(), shape.end(), -1) != shape.end();
  return (!infers && layout_.can_view(shape) ? *this : contiguous()).view(shape);
}

Tensor Tensor::extended(int axis, Index extent) const {
  Tensor t = *this;
  const Index capacity = storage_->bytes() / dtype_size(dtype());
  return t.layout_.extend(axis, extent, capacity) ? t : Tensor();
}

Tensor Tensor::contiguous() const {
  return is_contiguous() ? *this : clone();
}

Tensor Tensor::clone() const {
  Tensor t = empty(shape(), dtype());
  t.copy_(*this);
  return t;
}

Tensor Tensor::to(DType dtype) const {
  if (dtype == this->dtype()) {
    return *this;
  }
  Tensor t = empty(shape(), dtype);
  t.copy_(*this);
  return t;
}

Tensor& Tensor::copy_(const Tensor& source) {
  LS_CHECK(source.shape() == shape(), kShape, "a tensor of shape {} is copied into shape {}",
           source.shape().str(), shape().str());
  const CopyLoop loop =
      dtype() == source.dtype() ? same_type_loop(dtype()) : loop_between(dtype(), source.dtype());
  void* const dst = raw();
  const void* const src = source.raw();
  for_each_stretch(shape(), strides(), source.strides(),
                   [&](const Stretch& s) { loop(s, dst, src); });
  bump_version();
  return *this;
}

Tensor& Tensor::fill_(double value) {
  dispatch_all(dtype(), [&]<class T>() {
    T* const dst = static_cast<T*>(raw());
    const T v = convert<T>(value);
    for_each_stretch(shape(), strides(), strides(), [=](const Stretch& s) {
      for_each_element(s, [=](Index i, Index) { dst[i] = v; });
    });
  });
  bump_version();
  return *this;
}

Tensor& Tensor::add_(const Tensor& other, double alpha) {
  LS_CHECK(other.shape() == shape(), kShape, "shapes {} and {} are added", shape().str(),
           other.shape().str());
  dispatch_float(dtype(), [&]<class T>() {
    dispatch_float(other.dtype(), [&]<class U>() {
      using A = acc_t<T>;
      T* const dst = static_cast<T*>(raw());
      const U* const src = static_cast<const U*>(other.raw());
      const A a = static_cast<A>(alpha);
      for_each_stretch(shape(), strides(), other.strides(), [=](const Stretch& s) {
        for_each_element(s, [=](Index i, Index j) {
          const A sum = convert<A>(dst[i]) + a * convert<A>(src[j]);
          dst[i] = convert<T>(sum);
        });
      });
    });
  });
  bump_version();
  return *this;
}

Tensor& Tensor::mul_(double factor) {
  dispatch_float(dtype(), [&]<class T>() {
    using A = acc_t<T>;
    T* const dst = static_cast<T*>(raw());
    const A f = static_cast<A>(factor);
    for_each_stretch(shape(), strides(), strides(), [=](const Stretch& s) {
      for_each_element(
          s, [=](Index i, Index) { dst[i] = convert<T>(static_cast<A>(convert<A>(dst[i]) * f)); });
    });
  });
  bump_version();
  return *this;
}

double Tensor::item() const {
  LS_CHECK(numel() == 1, kShape, "a tensor of shape {} is read as one number", shape().str());
  return slow_at(0);
}

double Tensor::slow_at(Index flat) const {
  Index offset = 0;
  for (int a = rank() - 1; a >= 0; --a) {
    offset += flat % shape()[a] * strides()[a];
    flat /= shape()[a];
  }
  double value = 0;
  dispatch_all(dtype(),
               [&]<class T>() { value = convert<double>(static_cast<const T*>(raw())[offset]); });
  return value;
}

}  // namespace ls
