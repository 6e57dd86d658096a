#pragma once
// Var: a tensor on the tape. Handles share one value; leaves carry the gradient.
#include <memory>

#include "autograd/converted_copy.h"

namespace ls::ag {

/// What a Var points to. Leaves own `grad`; gradients of intermediate values live in the tape.
struct VarData {
  Tensor value;
  Tensor grad;  ///< leaves only; accumulates over backward passes, undefined until the first
  /// Leaves: where the gradient is put, of the value's shape and type; undefined: anywhere.
  Tensor grad_place;
  std::shared_ptr<ConvertedCopy> copy;  ///< leaves: for ag::cast, made by the first
  bool requires_grad = false;
  std::uint64_t tape_id = 0;
  Index node = -1;  ///< -1 for leaves and for values not recorded
  int output = 0;
};

class Var {
 public:
  Var() = default;
  /// A constant: no gradient flows into it.
  Var(Tensor value) : data_(value.defined() ? std::make_shared<VarData>() : nullptr) {  // NOLINT
    if (data_) {
      data_->value = std::move(value);
    }
  }
  /// A leaf whose gradient is wanted.
  static Var leaf(Tensor value) {
    Var v(std::move(value));
    v.data_->requires_grad = true;
    return v;
  }

  bool defined() const { return data_ != nullptr; }
  const Tensor& value() const { return data_->value; }
  Tensor& mutable_value() { return data_->value; }
  const Shape& shape() const { return data_->value.shape(); }
  Index size(int axis) const { return data_->value.size(axis); }
  int rank() const { return data_->value.rank(); }
  DType dtype() const { return data_->value.dtype(); }
  bool requires_grad() const { return data_ && data_->requires_grad; }
  /// Undefined until a backward pass reached this leaf.
  const Tensor& grad() const { return data_->grad; }
  Tensor& mutable_grad() { return data_->grad; }
  void clear_grad() { data_->grad = Tensor(); }
  const Tensor& grad_place() const { return data_->grad_place; }
  /// Backward passes put the gradient there from now on, until an undefined one is set.
  void set_grad_place(Tensor place) {
    data_->grad = Tensor();
    data_->grad_place = std::move(place);
  }
  /// The same value off the tape.
  Var detach() const { return data_ ? Var(data_->value) : Var(); }
  const std::shared_ptr<VarData>& data() const { return data_; }

 private:
  friend class Tape;
  std::shared_ptr<VarData> data_;
};

}  // namespace ls::ag
