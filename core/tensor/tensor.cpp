#include "core/tensor/tensor.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/base/checked.h"
#include "core/tensor/dispatch.h"
#include "core/tensor/tensor_kernels.h"

namespace ls {
Tensor Tensor::empty(const Shape& shape, DType dtype, Device& device) {
  Tensor t;
  t.layout_ = Layout(shape, dtype);
  t.storage_ = std::make_shared<Storage>(checked_mul(shape.numel(), dtype_size(dtype)),
                                         current_stream(device));
  return t;
}

Tensor Tensor::zeros(const Shape& shape, DType dtype, Device& device) {
  Tensor t = empty(shape, dtype, device);
  const ExecutionContext ctx = current_context(device);
  ctx.stream.fill(t.storage_->data(), 0, t.bytes());
  const Tensor* const written[] = {&t};
  record_uses(ctx, {}, written);
  return t;
}

Tensor Tensor::full(const Shape& shape, DType dtype, double value, Device& device) {
  Tensor t = empty(shape, dtype, device);
  t.fill_(value);
  return t;
}

Tensor Tensor::pinned(const Shape& shape, DType dtype, Device& device) {
  Tensor t;
  t.layout_ = Layout(shape, dtype);
  t.storage_ = std::make_shared<Storage>(checked_mul(shape.numel(), dtype_size(dtype)),
                                         device.pinned(), current_stream(device));
  return t;
}

Tensor Tensor::over(const TensorView& view) {
  Tensor t;
  if (view.defined()) {
    const Access all = access_of(view, true);
    t.layout_ = view.layout();
    t.adds_ = view.adds();
    t.storage_ = std::make_shared<Storage>(
        view.buffer(), view.layout().offset() * dtype_size(view.dtype()) + all.bytes);
  }
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
  LS_CHECK(storage_->host_accessible(), kDevice,
           "the host reads or writes elements of {} on {}, which it may not touch; copy it first "
           "(to, Download) or do the work there",
           describe(), storage_->device().describe());
  return static_cast<const char*>(storage_->data()) + layout_.offset() * dtype_size(dtype());
}
void* Tensor::raw() {
  return const_cast<void*>(std::as_const(*this).raw());
}
Tensor::operator TensorView() const {
  return defined() ? TensorView(storage_->data(), layout_).set_adds(adds_) : TensorView();
}

Tensor Tensor::adding(bool adds) const {
  Tensor t = *this;
  t.adds_ = adds;
  return t;
}

Tensor Tensor::lent() const {
  Tensor t = *this;
  t.storage_ = std::make_shared<Storage>(storage_);
  return t;
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
  Tensor t = empty(shape(), dtype(), device());
  t.copy_(*this);
  return t;
}

Tensor Tensor::to(DType dtype) const {
  if (dtype == this->dtype()) {
    return *this;
  }
  Tensor t = empty(shape(), dtype, device());
  t.copy_(*this);
  return t;
}

namespace {

/// kernel(table, ctx) on the device of `to`, which it changes.
template <class Kernel>
void run_kernel(std::string_view what, Tensor& to, const Tensor* from, Kernel kernel) {
  const ExecutionContext ctx = current_context(to.device());
  const Tensor* const read[] = {from ? from : &to};
  const Tensor* const written[] = {&to};
  check_uses(ctx, what, read);
  kernel(tensor_kernels(ctx.device.type()), ctx);
  record_uses(ctx, read, written);
  to.bump_version();
}

}  // namespace

Tensor& Tensor::copy_(const Tensor& source) {
  LS_CHECK(source.shape() == shape(), kShape, "a tensor of shape {} is copied into shape {}",
           source.shape().str(), shape().str());
  run_kernel("copy_", *this, &source, [&](const TensorKernels& kernels, const auto& ctx) {
    kernels.copy(ctx, *this, source);
  });
  return *this;
}

Tensor& Tensor::fill_(double value) {
  run_kernel("fill_", *this, nullptr, [&](const TensorKernels& kernels, const auto& ctx) {
    kernels.fill(ctx, *this, value);
  });
  return *this;
}

Tensor& Tensor::add_(const Tensor& other, double alpha) {
  LS_CHECK(other.shape() == shape(), kShape, "shapes {} and {} are added", shape().str(),
           other.shape().str());
  LS_CHECK(is_float(dtype()) && is_float(other.dtype()), kDType, "{} and {} are added, not floats",
           describe(), other.describe());
  run_kernel("add_", *this, &other, [&](const TensorKernels& kernels, const auto& ctx) {
    kernels.add(ctx, *this, other, alpha);
  });
  return *this;
}

Tensor& Tensor::mul_(double factor) {
  LS_CHECK(is_float(dtype()), kDType, "{} is multiplied, not a float", describe());
  run_kernel("mul_", *this, nullptr, [&](const TensorKernels& kernels, const auto& ctx) {
    kernels.mul(ctx, *this, factor);
  });
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
  if (!storage_->host_accessible()) {
    Tensor element = *this;
    element.layout_ = layout_.at(offset);
    return element.to(cpu()).slow_at(0);
  }
  double value = 0;
  dispatch_all(dtype(),
               [&]<class T>() { value = convert<double>(static_cast<const T*>(raw())[offset]); });
  return value;
}

}  // namespace ls
