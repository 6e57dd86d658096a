#pragma once
// How an op is called. A call has two halves: what shapes, types and attributes decide (prepare),
// and the launch of the kernel that was chosen, which a device with queues may do later.
#include <memory>
#include <span>
#include <vector>

#include "core/op/op_info.h"

namespace ls {

/// While alive, ops on this thread run their references, not their kernels (tests, oracles).
class UseReference {
 public:
  UseReference();
  ~UseReference();
  UseReference(const UseReference&) = delete;
  UseReference& operator=(const UseReference&) = delete;
};

/// Attributes of a call: the caller's, who keeps them until the call is done, or shared.
class Attributes {
 public:
  Attributes(const void* attrs) : attrs_(std::shared_ptr<const void>(), attrs) {}  // NOLINT
  template <class T>
  Attributes(std::shared_ptr<T> attrs) : attrs_(std::move(attrs)) {}  // NOLINT
  const void* get() const { return attrs_.get(); }

 private:
  std::shared_ptr<const void> attrs_;
};

/// What a forward pass leaves for its backward pass, besides what the op saves.
struct Kept {
  const Kernel* kernel = nullptr;
  std::vector<Tensor> tensors;  ///< the kernel's own, Kernel::keeps
};

/// One run of a kernel: all that it reads and writes, held until it has run. Entries stand in the
/// order of the contract; `out` of a backward pass is what the op saved of it.
struct Launch {
  enum class Pass : std::uint8_t { kForward, kBackward };
  const OpInfo* op = nullptr;
  const Kernel* kernel = nullptr;
  Pass pass = Pass::kForward;
  DType dtype = DType::kF32;  ///< of the call; on the CPU that of the kernel may be wider
  Device* device = &cpu();    ///< on which the operands lie
  std::vector<Tensor> in, out, dout, din, kept;
  Attributes attrs{nullptr};
};

/// The kernel of a call, before anything of it has run: the first of its device and type that fits;
/// on the CPU, where there is none, the reference, and for 16-bit floats what runs in f32. A kernel
/// that keeps tensors runs a backward pass only with what it kept.
/// @throws Error(Unsupported) with the kernels that there are
const Kernel& choose_kernel(const OpInfo& op, DeviceType device, int generation, DType dtype,
                            std::span<const ShapeOf> in, const void* attrs, Launch::Pass pass);

/// Checks the call against the contract, chooses the kernel and makes the outputs, and in `kept`,
/// where a backward pass will follow, what the kernel keeps. Looks at no element. `places`, when
/// given, has one entry per output, undefined or memory in which it is made where that can be.
/// @throws Error(Shape, DType, Unsupported) naming op and argument
Launch prepare_forward(const OpInfo& op, std::span<const Tensor> in, Attributes attrs,
                       const std::vector<bool>& spent = {}, Kept* kept = nullptr,
                       std::span<const Tensor> places = {});
/// Second half: copies operands that the kernel does not take as they lie, runs it, and rounds
/// results that it computed in a wider type.
void launch(Launch& l);

/// Both halves; returns the outputs. `spent`, when given, marks inputs that nobody else holds:
/// outputs that continue one (OpBuilder::continues) are made in its memory where there is room.
/// `kept` is for run_backward, `places` as for prepare_forward.
std::vector<Tensor> run_forward(const OpInfo& op, std::span<const Tensor> in, Attributes attrs,
                                const std::vector<bool>& spent = {}, Kept* kept = nullptr,
                                std::span<const Tensor> places = {});
/// Gradients of the inputs marked in `wanted`; the others come back undefined. `shapes` are those
/// of all inputs, saved or not. `places`, when given, has one entry per input, undefined or a
/// tensor that its gradient is written to where that can be: of the gradient's shape and type, a
/// slice (pieces_of) of what the caller owns, contiguous or the kernel having strided_grad, adding
/// (Tensor::adding) only where the kernel has adds_grad. Then it comes back itself.
/// @throws Error(Unsupported) on a gradient of an output that has none
std::vector<Tensor> run_backward(const OpInfo& op, std::span<const Tensor> in,
                                 std::span<const Tensor> out, std::span<const Tensor> dout,
                                 const std::vector<bool>& wanted, std::span<const ShapeOf> shapes,
                                 DType dtype, Attributes attrs, std::span<const Tensor> places = {},
                                 const Kept& kept = {});
/// The float type a call with these inputs runs in: that of the first argument without a suffix.
DType op_dtype(const OpInfo& op, std::span<const ShapeOf> in);
DType op_dtype(const OpInfo& op, std::span<const Tensor> in);
std::vector<ShapeOf> shapes_of(std::span<const Tensor> tensors);

/// Runs an op on plain tensors, without a tape: `call_op<Scale>({.x = x}, {.factor = 2}).y`.
template <class Op>
typename Op::template Out<Tensor> call_op(const typename Op::template In<Tensor>& in,
                                          const typename Op::Attrs& attrs = {}) {
  const std::vector<Tensor> inputs = detail::spread_members<Tensor>(in);
  const std::vector<Tensor> out =
      run_forward(op_info<Op>(), inputs, std::make_shared<const typename Op::Attrs>(attrs));
  return detail::gather_members<typename Op::template Out<Tensor>>(std::span<const Tensor>(out));
}

}  // namespace ls
