#pragma once
// Tensor: a strided view of shared storage, passed by value.
#include <memory>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/tensor/storage.h"
#include "core/tensor/tensor_view.h"

namespace ls {

/// Views (`permute`, `slice`, ...) share storage and never copy; a `const Tensor` gives read-only
/// data. In-place changes go through methods ending in `_` or through `data<T>()` followed by
/// `bump_version()`; both are seen by the tape's check of saved tensors.
class Tensor : public LaidOut<Tensor> {
 public:
  Tensor() = default;

  static Tensor empty(const Shape& shape, DType dtype, Device& device = cpu());
  static Tensor zeros(const Shape& shape, DType dtype, Device& device = cpu());
  static Tensor full(const Shape& shape, DType dtype, double value, Device& device = cpu());
  /// Of host memory that copies of `device` read and write by themselves: the host must not change
  /// what such a copy still reads.
  static Tensor pinned(const Shape& shape, DType dtype, Device& device);
  /// Over memory of the processor that `view` shows, which stays somebody else's.
  static Tensor over(const TensorView& view);
  /// A rank-0 tensor.
  static Tensor scalar(double value, DType dtype = DType::kF32);
  template <class T>
  static Tensor from(const std::vector<T>& values, const Shape& shape) {
    return from_raw(values.data(), static_cast<Index>(values.size()), shape, dtype_of_v<T>);
  }
  template <class T>
  static Tensor from(const std::vector<T>& values) {
    return from(values, Shape{static_cast<Index>(values.size())});
  }

  bool defined() const { return storage_ != nullptr; }
  Device& device() const { return storage_->device(); }
  const std::shared_ptr<Storage>& storage() const { return storage_; }
  /// @throws Error(Device) where the host may not touch the memory, as data()
  const void* raw() const;
  void* raw();
  /// The same as kernels see it; does not keep the memory.
  operator TensorView() const;  // NOLINT: a tensor is a view of its memory

  /// The same as a place for a gradient: kernels that can (Operand::adds_grad) add theirs to what
  /// lies there, in place of writing over it. For nothing else.
  Tensor adding(bool adds = true) const;
  bool adds() const { return adds_; }

  /// As `view`, by a copy where one is needed.
  Tensor reshape(const Shape& shape) const;
  /// The same elements and, behind them on an axis other than the first, as many more as make
  /// `extent`: what lies there in the storage. Undefined where another slice lies there, or
  /// nothing.
  Tensor extended(int axis, Index extent) const;

  /// Itself when already row-major, else a copy.
  Tensor contiguous() const;
  Tensor clone() const;
  /// Itself when already of that type, else a converted copy (contiguous).
  Tensor to(DType dtype) const;
  /// Itself when already there, else a copy. To the processor the host waits (see Download), from
  /// it the copy goes on by itself.
  Tensor to(Device& device) const;
  /// Copies from a tensor of the same shape on the same device, converting the element type.
  Tensor& copy_(const Tensor& source);
  /// Copies from a tensor of the same shape and type on another device, on the current stream of
  /// the destination's device, or of the source's where the destination is the processor's. The
  /// host waits where it must: for what it gets in memory that is not pinned.
  Tensor& transfer_(const Tensor& source);
  Tensor& fill_(double value);
  Tensor& zero_() { return fill_(0.0); }
  /// this += alpha * other, same shape, float types.
  Tensor& add_(const Tensor& other, double alpha = 1.0);
  Tensor& mul_(double factor);

  /// The only element of a tensor with one element.
  double item() const;
  /// Element by row-major position, found and converted each time: for tests and messages.
  double slow_at(Index flat) const;
  template <class T>
  std::vector<T> to_vector() const {
    const Tensor c = to(cpu()).to(dtype_of_v<T>).contiguous();
    return std::vector<T>(c.data<T>(), c.data<T>() + c.numel());
  }

  std::uint64_t version() const { return storage_ ? storage_->version() : 0; }
  void bump_version() { storage_->bump_version(); }
  /// The same elements by a storage of its own (Storage(lender)): to lend what one wants back.
  Tensor lent() const;
  /// How many handles share the storage; 1 allows changing it in place unseen.
  long storage_use_count() const { return storage_.use_count(); }
  bool shares_storage(const Tensor& other) const { return storage_ == other.storage_; }

 private:
  static Tensor from_raw(const void* values, Index count, const Shape& shape, DType dtype);
  void upload(const Tensor& source);
  void copy_between(const Tensor& source);

  std::shared_ptr<Storage> storage_;
  bool adds_ = false;
};

/// A copy on its way to the host, begun on the current stream of the source's device.
class Download {
 public:
  Download() = default;
  explicit Download(const Tensor& source);
  /// Never waits.
  bool ready() const { return done_.happened(); }
  /// The host waits where it is not ready.
  const Tensor& wait() const;

 private:
  Tensor host_;
  Event done_;
};

}  // namespace ls
