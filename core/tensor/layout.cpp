#include "core/tensor/layout.h"

#include <algorithm>
#include <utility>

#include "core/base/error.h"

namespace ls {
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

void detail::fail_rank() {
  LS_FAIL(kShape, "a tensor has at most {} axes", kMaxRank);
}
void detail::fail_back() {
  LS_FAIL(kShape, "a shape without axes has no last one");
}
void detail::fail_count() {
  LS_FAIL(kShape, "a shape has more elements than 64 bits count; use smaller sizes");
}

Layout::Layout(const Shape& shape, DType dtype) : shape_(shape), dtype_(dtype) {
  check_countable(shape);
  strides_ = shape.contiguous_strides();
}

bool Layout::is_contiguous() const {
  Index step = 1;
  for (int i = rank() - 1; i >= 0; --i) {
    if (shape_[i] != 1 && strides_[i] != step) {
      return shape_.numel() == 0;
    }
    step *= shape_[i];
  }
  return true;
}

int Layout::normalize_axis(int axis) const {
  const int a = axis < 0 ? axis + rank() : axis;
  LS_CHECK(a >= 0 && a < rank(), kShape, "axis {} of a tensor of shape {}", axis, shape_.str());
  return a;
}

void Layout::check_dtype(DType wanted) const {
  LS_CHECK(dtype_ == wanted, kDType, "data of a {} tensor was asked for as {}", enum_name(dtype_),
           enum_name(wanted));
}

// Matches runs of old axes that are contiguous among themselves with runs of new axes.
bool Layout::view_strides(const Shape& shape, Shape& strides) const {
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

bool Layout::can_view(const Shape& shape) const {
  Shape strides;
  return shape.numel() == numel() && view_strides(shape, strides);
}

Layout Layout::view(const Shape& wanted) const {
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
  Layout t = *this;
  t.shape_ = shape;
  LS_CHECK(view_strides(shape, t.strides_), kShape,
           "shape {} with strides {} cannot be viewed as {} without a copy", shape_.str(),
           strides_.str(), wanted.str());
  return t;
}

Layout Layout::permute(std::span<const int> axes) const {
  LS_CHECK(static_cast<int>(axes.size()) == rank(), kShape, "{} axes permute a tensor of shape {}",
           axes.size(), shape_.str());
  Layout t = *this;
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

Layout Layout::transpose(int a, int b) const {
  a = normalize_axis(a);
  b = normalize_axis(b);
  Layout t = *this;
  std::swap(t.shape_[a], t.shape_[b]);
  std::swap(t.strides_[a], t.strides_[b]);
  return t;
}

Layout Layout::slice(int axis, Index begin, Index end) const {
  axis = normalize_axis(axis);
  LS_CHECK(0 <= begin && begin <= end && end <= shape_[axis], kShape,
           "slice [{}, {}) of axis {} of shape {}", begin, end, axis, shape_.str());
  Layout t = *this;
  t.offset_ += begin * strides_[axis];
  t.shape_[axis] = end - begin;
  return t;
}

Layout Layout::select(int axis, Index index) const {
  axis = normalize_axis(axis);
  return slice(axis, index, index + 1).squeeze(axis);
}

Layout Layout::unsqueeze(int axis) const {
  const int a = axis < 0 ? axis + rank() + 1 : axis;
  LS_CHECK(a >= 0 && a <= rank(), kShape, "axis {} put into shape {}", axis, shape_.str());
  Layout t = *this;
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

Layout Layout::squeeze(int axis) const {
  axis = normalize_axis(axis);
  LS_CHECK(shape_[axis] == 1, kShape, "axis {} of shape {} is not 1", axis, shape_.str());
  Layout t = *this;
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

Layout Layout::expand(const Shape& shape) const {
  LS_CHECK(shape.rank() == rank(), kShape, "shape {} cannot be expanded to {}", shape_.str(),
           shape.str());
  check_countable(shape);
  Layout t = *this;
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

Layout Layout::at(Index offset) const {
  Layout t(Shape{}, dtype_);
  t.offset_ = offset_ + offset;
  return t;
}

bool Layout::extend(int axis, Index extent, Index capacity) {
  axis = normalize_axis(axis);
  LS_CHECK(axis > 0 && extent >= shape_[axis], kShape, "axis {} of shape {} extended to {}", axis,
           shape_.str(), extent);
  // Slices of the axis before begin at multiples of its stride, as those of a row-major tensor do.
  const Index apart = strides_[axis - 1], step = strides_[axis];
  if (apart <= 0 || step <= 0 || offset_ % apart + extent * step > apart) {
    return false;
  }
  shape_[axis] = extent;
  Index last = offset_;
  for (int a = 0; a < rank(); ++a) {
    last += std::max<Index>(0, shape_[a] - 1) * strides_[a];
  }
  return last < capacity;
}

}  // namespace ls
