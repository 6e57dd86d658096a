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

namespace {
/// Shapes that tensors get pass here, so that elements and strides can be counted without a look.
void check_countable(const Shape& shape) {
  Index n = 1;
  bool fits = true;
  for (const Index d : shape) {
    LS_CHECK(d >= 0, kShape, "a tensor cannot have shape {}", shape.str());
    fits &= !__builtin_mul_overflow(n, std::max<Index>(d, 1), &n);
  }
  LS_CHECK(fits, kShape,
           "a tensor of shape {} has more elements than 64 bits count; use smaller sizes",
           shape.str());
}
}  // namespace

Tensor Tensor::empty(const Shape& shape, DType dtype) {
  check_countable(shape);
  Tensor t;
  t.shape_ = shape;
  t.strides_ = shape.contiguous_strides();
  t.dtype_ = dtype;
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

bool Tensor::is_contiguous() const {
  Index step = 1;
  for (int i = rank() - 1; i >= 0; --i) {
    if (shape_[i] != 1 && strides_[i] != step) {
      return shape_.numel() == 0;
    }
    step *= shape_[i];
  }
  return true;
}

const void* Tensor::raw() const {
  LS_ASSERT(defined());
  return static_cast<const char*>(storage_->data()) + offset_ * dtype_size(dtype_);
}
void* Tensor::raw() {
  return const_cast<void*>(std::as_const(*this).raw());
}

int Tensor::normalize_axis(int axis) const {
  const int a = axis < 0 ? axis + rank() : axis;
  LS_CHECK(a >= 0 && a < rank(), kShape, "axis {} of a tensor of shape {}", axis, shape_.str());
  return a;
}

void Tensor::check_dtype(DType wanted) const {
  LS_CHECK(dtype_ == wanted, kDType, "data of a {} tensor was asked for as {}", enum_name(dtype_),
           enum_name(wanted));
}

// Matches runs of old axes that are contiguous among themselves with runs of new axes.
bool Tensor::view_strides(const Shape& shape, Shape& strides) const {
  strides = shape.contiguous_strides();
  if (is_contiguous()) {
    return true;
  }
  int o = rank() - 1;
  int n = shape.rank() - 1;
  while (n >= 0) {
    while (o >= 0 && shape_[o] == 1) {
      --o;
    }
    if (o < 0) {
      break;  // only axes of extent 1 are left
    }
    Index run = shape_[o];
    const Index step = strides_[o];
    Index covered = 1;
    while (n >= 0 && covered < run) {
      strides[n] = step * covered;
      covered *= shape[n--];
      while (covered > run && o > 0 && strides_[o - 1] == strides_[o] * shape_[o]) {
        run *= shape_[--o];
      }
    }
    if (covered != run) {
      return false;
    }
    --o;
    while (n >= 0 && shape[n] == 1) {
      --n;
    }
  }
  return true;
}

Tensor Tensor::view(const Shape& wanted) const {
  Shape shape = wanted;
  int infer = -1;
  for (int i = 0; i < shape.rank(); ++i) {
    LS_CHECK(shape[i] >= 0 || (shape[i] == -1 && infer < 0), kShape,
             "shape {} cannot be viewed as {}: extents are 0 or more, one may be -1", shape_.str(),
             wanted.str());
    infer = shape[i] == -1 ? i : infer;
  }
  if (infer >= 0) {
    shape[infer] = 1;
  }
  check_countable(shape);
  if (infer >= 0) {
    const Index known = shape.numel();
    LS_CHECK(known != 0, kShape, "shape {} viewed as {} leaves -1 open", shape_.str(),
             wanted.str());
    shape[infer] = numel() / known;
  }
  LS_CHECK(shape.numel() == numel(), kShape, "shape {} cannot be viewed as {}", shape_.str(),
           wanted.str());
  Tensor t = *this;
  t.shape_ = shape;
  LS_CHECK(view_strides(shape, t.strides_), kShape,
           "shape {} with strides {} cannot be viewed as {} without a copy", shape_.str(),
           strides_.str(), wanted.str());
  return t;
}

Tensor Tensor::reshape(const Shape& shape) const {
  Shape strides;
  const bool infers = std::find(shape.begin(), shape.end(), -1) != shape.end();
  if (!infers && shape.numel() == numel() && view_strides(shape, strides)) {
    return view(shape);
  }
  return contiguous().view(shape);
}

Tensor Tensor::permute(std::initializer_list<int> axes) const {
  return permute(std::span<const int>(axes.begin(), axes.size()));
}

Tensor Tensor::permute(std::span<const int> axes) const {
  LS_CHECK(static_cast<int>(axes.size()) == rank(), kShape, "{} axes permute a tensor of shape {}",
           axes.size(), shape_.str());
  Tensor t = *this;
  unsigned seen = 0;
  for (int i = 0; i < rank(); ++i) {
    const int a = normalize_axis(axes[i]);
    LS_CHECK(!(seen >> a & 1u), kShape, "axis {} is permuted twice", a);
    seen |= 1u << a;
    t.shape_[i] = shape_[a];
    t.strides_[i] = strides_[a];
  }
  return t;
}

Tensor Tensor::transpose(int a, int b) const {
  a = normalize_axis(a);
  b = normalize_axis(b);
  Tensor t = *this;
  std::swap(t.shape_[a], t.shape_[b]);
  std::swap(t.strides_[a], t.strides_[b]);
  return t;
}

Tensor Tensor::slice(int axis, Index begin, Index end) const {
  axis = normalize_axis(axis);
  LS_CHECK(0 <= begin && begin <= end && end <= shape_[axis], kShape,
           "slice [{}, {}) of axis {} of shape {}", begin, end, axis, shape_.str());
  Tensor t = *this;
  t.offset_ += begin * strides_[axis];
  t.shape_[axis] = end - begin;
  return t;
}

Tensor Tensor::extended(int axis, Index extent) const {
  axis = normalize_axis(axis);
  LS_CHECK(axis > 0 && extent >= shape_[axis], kShape, "axis {} of shape {} extended to {}", axis,
           shape_.str(), extent);
  // Slices of the axis before begin at multiples of its stride, as those of a row-major tensor do.
  const Index apart = strides_[axis - 1], step = strides_[axis];
  if (apart <= 0 || step <= 0 || offset_ % apart + extent * step > apart) {
    return {};
  }
  Tensor t = *this;
  t.shape_[axis] = extent;
  Index last = t.offset_;
  for (int a = 0; a < rank(); ++a) {
    last += std::max<Index>(0, t.shape_[a] - 1) * strides_[a];
  }
  return (last + 1) * dtype_size(dtype_) <= storage_->bytes() ? t : Tensor();
}

Tensor Tensor::select(int axis, Index index) const {
  axis = normalize_axis(axis);
  return slice(axis, index, index + 1).squeeze(axis);
}

Tensor Tensor::unsqueeze(int axis) const {
  const int a = axis < 0 ? axis + rank() + 1 : axis;
  LS_CHECK(a >= 0 && a <= rank(), kShape, "axis {} put into shape {}", axis, shape_.str());
  Tensor t = *this;
  t.shape_.push_back(1);
  t.strides_.push_back(1);
  for (int i = rank(); i > a; --i) {
    t.shape_[i] = shape_[i - 1];
    t.strides_[i] = strides_[i - 1];
  }
  t.shape_[a] = 1;
  t.strides_[a] = a < rank() ? strides_[a] * shape_[a] : 1;
  return t;
}

Tensor Tensor::squeeze(int axis) const {
  axis = normalize_axis(axis);
  LS_CHECK(shape_[axis] == 1, kShape, "axis {} of shape {} is not 1", axis, shape_.str());
  Tensor t = *this;
  t.shape_ = Shape{};
  t.strides_ = Shape{};
  for (int i = 0; i < rank(); ++i) {
    if (i != axis) {
      t.shape_.push_back(shape_[i]);
      t.strides_.push_back(strides_[i]);
    }
  }
  return t;
}

Tensor Tensor::expand(const Shape& shape) const {
  LS_CHECK(shape.rank() == rank(), kShape, "shape {} cannot be expanded to {}", shape_.str(),
           shape.str());
  check_countable(shape);
  Tensor t = *this;
  for (int i = 0; i < rank(); ++i) {
    LS_CHECK(shape_[i] == shape[i] || shape_[i] == 1, kShape, "shape {} cannot be expanded to {}",
             shape_.str(), shape.str());
    if (shape_[i] != shape[i]) {
      t.shape_[i] = shape[i];
      t.strides_[i] = 0;
    }
  }
  return t;
}

Tensor Tensor::contiguous() const {
  return is_contiguous() ? *this : clone();
}

Tensor Tensor::clone() const {
  Tensor t = empty(shape_, dtype_);
  t.copy_(*this);
  return t;
}

Tensor Tensor::to(DType dtype) const {
  if (dtype == dtype_) {
    return *this;
  }
  Tensor t = empty(shape_, dtype);
  t.copy_(*this);
  return t;
}

Tensor& Tensor::copy_(const Tensor& source) {
  LS_CHECK(source.shape_ == shape_, kShape, "a tensor of shape {} is copied into shape {}",
           source.shape_.str(), shape_.str());
  const CopyLoop loop =
      dtype_ == source.dtype_ ? same_type_loop(dtype_) : loop_between(dtype_, source.dtype_);
  void* const dst = raw();
  const void* const src = source.raw();
  for_each_stretch(shape_, strides_, source.strides_, [&](const Stretch& s) { loop(s, dst, src); });
  bump_version();
  return *this;
}

Tensor& Tensor::fill_(double value) {
  dispatch_all(dtype_, [&]<class T>() {
    T* const dst = static_cast<T*>(raw());
    const T v = convert<T>(value);
    for_each_stretch(shape_, strides_, strides_, [=](const Stretch& s) {
      for_each_element(s, [=](Index i, Index) { dst[i] = v; });
    });
  });
  bump_version();
  return *this;
}

Tensor& Tensor::add_(const Tensor& other, double alpha) {
  LS_CHECK(other.shape_ == shape_, kShape, "shapes {} and {} are added", shape_.str(),
           other.shape_.str());
  dispatch_float(dtype_, [&]<class T>() {
    dispatch_float(other.dtype_, [&]<class U>() {
      using A = acc_t<T>;
      T* const dst = static_cast<T*>(raw());
      const U* const src = static_cast<const U*>(other.raw());
      const A a = static_cast<A>(alpha);
      for_each_stretch(shape_, strides_, other.strides_, [=](const Stretch& s) {
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
  dispatch_float(dtype_, [&]<class T>() {
    using A = acc_t<T>;
    T* const dst = static_cast<T*>(raw());
    const A f = static_cast<A>(factor);
    for_each_stretch(shape_, strides_, strides_, [=](const Stretch& s) {
      for_each_element(
          s, [=](Index i, Index) { dst[i] = convert<T>(static_cast<A>(convert<A>(dst[i]) * f)); });
    });
  });
  bump_version();
  return *this;
}

double Tensor::item() const {
  LS_CHECK(numel() == 1, kShape, "a tensor of shape {} is read as one number", shape_.str());
  return slow_at(0);
}

double Tensor::slow_at(Index flat) const {
  Index offset = 0;
  for (int a = rank() - 1; a >= 0; --a) {
    offset += flat % shape_[a] * strides_[a];
    flat /= shape_[a];
  }
  double value = 0;
  dispatch_all(dtype_,
               [&]<class T>() { value = convert<double>(static_cast<const T*>(raw())[offset]); });
  return value;
}

std::string Tensor::describe() const {
  return defined() ? std::string(enum_name(dtype_)) + shape_.str() : "undefined";
}

}  // namespace ls
