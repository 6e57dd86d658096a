#pragma once
// A kernel: forward and backward of one op on one kind of device in one float type, and what it
// takes. Declared by LS_KERNEL.
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/base/device_type.h"
#include "core/op/shape_of.h"
#include "core/tensor/context.h"
#include "core/tensor/tensor.h"

namespace ls {

/// What kernels get of a tensor: the address under which they find it.
inline TensorView kernel_view(const Tensor& t) {
  return t.defined() ? kernel_view(t.device(), t) : TensorView();
}

/// Kernels behind their types: entries stand in the order of the contract, absent ones are
/// undefined. `kept` has what Kernel::keeps says, or nothing where no backward pass will follow.
using ForwardKernel = std::function<void(std::span<const Tensor> in, std::span<Tensor> out,
                                         std::span<Tensor> kept, const void* attrs)>;
/// `dout` entries may be undefined (zero), but never all of them. Every defined entry of `din`, of
/// which there is one, must be filled; the others are not wanted. Entries of `in` and `out` that
/// are not saved are undefined, with the exception that the caller may always read shapes through
/// `din`. Outputs and gradients are contiguous, but for those with Operand::strided_grad.
using BackwardKernel = std::function<void(std::span<const Tensor> in, std::span<const Tensor> out,
                                          std::span<const Tensor> dout, std::span<Tensor> din,
                                          std::span<const Tensor> kept, const void* attrs)>;

/// How a kernel reads an operand where it lies: false for one that the caller copies first.
using Lies = bool (*)(const Layout&);
namespace lies {
bool contiguous(const Layout& x);
/// Rows of the last axis without gaps, equally far apart (Rows); they may overlap.
bool rows(const Layout& x);
/// The same, not overlapping: rows of a matrix.
bool rows_apart(const Layout& x);
/// The last axis without gaps, [B,T,H,D].
bool heads(const Layout& x);
/// The last two axes are the rows or columns of a matrix, the others lie at one step.
bool matrices(const Layout& x);
bool anyhow(const Layout& x);
}  // namespace lies

/// What a kernel takes of one argument.
struct Operand {
  enum class Presence : std::uint8_t { kAny, kGiven, kAbsent };
  /// Of an input and of the gradient that arrives for an output; an output that is saved lies as it
  /// was made.
  Lies lies = &lies::contiguous;
  Index alignment = 1;                 ///< of its first element, in bytes
  bool strided_grad = false;           ///< its gradient, or the output, may be a slice (pieces_of)
  bool adds_grad = false;              ///< it can add the gradient to its place (Tensor::adding)
  Presence presence = Presence::kAny;  ///< of an input
};

struct Kernel {
  std::string name;
  DeviceType device = DeviceType::kCpu;
  DType dtype = DType::kF32;
  ForwardKernel forward;
  BackwardKernel backward;
  std::vector<Operand> in, out;
  /// Whether it is for a call, besides presence; absent: for all. `generation` is the device's.
  std::function<bool(std::span<const ShapeOf> in, const void* attrs, int generation)> fits;
  /// Tensors that forward writes for backward.
  std::function<std::vector<ShapeOf>(std::span<const ShapeOf> in, const void* attrs)> keeps;
  std::string file;
};

}  // namespace ls
