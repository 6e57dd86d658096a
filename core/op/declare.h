#pragma once
// How an op is declared, and kernels are attached to it from any source file.
#include <array>
#include <source_location>
#include <string>
#include <utility>
#include <vector>

#include "core/op/op_info.h"

namespace ls {
namespace detail {

/// Names of arguments as the builder takes them.
struct OpTraits {
  std::string saves, no_grad, grad_acc;
  std::vector<std::array<std::string, 3>> continued;  ///< input, fresh rows, output
  std::array<std::string, 2> same_gradient, gradient_in_forward;
  std::size_t inputs = 0, outputs = 0;  ///< members of In and Out
  bool all_attrs = true;                ///< `fields` lists every member of Attrs
};
/// Reads contract and traits into `info`. What does not fit together is a registration fault.
void register_op(OpInfo& info, const OpTraits& traits, std::source_location where);

/// What a kernel takes, by names of arguments.
struct KernelTraits {
  std::vector<std::pair<std::string, Lies>> reads;
  std::vector<std::pair<std::string, Index>> aligned;
  std::string strided_grad, adds_grad, given, absent;
};
/// Attaches a kernel, once the op is declared. What does not fit together, and an op that is never
/// declared, is a registration fault.
void register_kernel(OpInfo& info, Kernel kernel, KernelTraits traits, std::source_location where);

}  // namespace detail

/// Typed functions of kernels and references, and their erased form.
template <class Op>
struct OpTypes {
  using Attrs = typename Op::Attrs;
  using In = typename Op::template In<TensorView>;
  using Out = typename Op::template Out<TensorView>;
  using Forward = void (*)(const In&, Out&, const Attrs&);
  using Backward = void (*)(const In& in, const Out& out, const Out& dout, In& din, const Attrs&);
  /// Of kernels that keep tensors for their backward pass; `kept` is empty where none follows.
  using KeepingForward = void (*)(const In&, Out&, std::span<TensorView> kept, const Attrs&);
  using KeepingBackward = void (*)(const In& in, const Out& out, const Out& dout, In& din,
                                   std::span<const TensorView> kept, const Attrs&);

  static ForwardKernel erase(Forward fn) {
    return [fn](std::span<const Tensor> in, std::span<Tensor> out, std::span<Tensor>,
                const void* attrs) {
      Out o = operands<Out>(out);
      fn(operands<In>(in), o, *static_cast<const Attrs*>(attrs));
    };
  }
  static ForwardKernel erase(KeepingForward fn) {
    return [fn](std::span<const Tensor> in, std::span<Tensor> out, std::span<Tensor> kept,
                const void* attrs) {
      Out o = operands<Out>(out);
      std::vector<TensorView> k = views(kept);
      fn(operands<In>(in), o, k, *static_cast<const Attrs*>(attrs));
    };
  }
  static BackwardKernel erase(Backward fn) {
    return
        [fn](std::span<const Tensor> in, std::span<const Tensor> out, std::span<const Tensor> dout,
             std::span<Tensor> din, std::span<const Tensor>, const void* attrs) {
          In d = operands<In>(din);
          fn(operands<In>(in), operands<Out>(out), operands<Out>(dout), d,
             *static_cast<const Attrs*>(attrs));
        };
  }
  static BackwardKernel erase(KeepingBackward fn) {
    return
        [fn](std::span<const Tensor> in, std::span<const Tensor> out, std::span<const Tensor> dout,
             std::span<Tensor> din, std::span<const Tensor> kept, const void* attrs) {
          In d = operands<In>(din);
          fn(operands<In>(in), operands<Out>(out), operands<Out>(dout), d, views(kept),
             *static_cast<const Attrs*>(attrs));
        };
  }

 private:
  static std::vector<TensorView> views(std::span<const Tensor> tensors) {
    std::vector<TensorView> out;
    for (const Tensor& t : tensors) {
      out.push_back(kernel_view(t));
    }
    return out;
  }
  template <class Struct>
  static Struct operands(std::span<const Tensor> tensors) {
    Struct s;
    std::size_t i = 0;
    for (TensorView* member : detail::members<TensorView>(s)) {
      *member = kernel_view(tensors[i++]);
    }
    return s;
  }
};

/// Built by LS_OP; each call returns the builder. Conversion to bool registers.
template <class Op>
class OpBuilder {
  using Types = OpTypes<Op>;
  using Attrs = typename Op::Attrs;
  using Shapes = typename Op::template In<ShapeOf>;

 public:
  OpBuilder(std::string name, std::string help,
            std::source_location where = std::source_location::current())
      : info_(detail::OpSlot<Op>::info()), where_(where) {
    info_.name = std::move(name);
    info_.help = std::move(help);
    info_.attrs = detail::attrs_of<Attrs>(traits_.all_attrs);
    traits_.inputs = sizeof(Shapes) / sizeof(ShapeOf);
    traits_.outputs = sizeof(typename Op::template Out<ShapeOf>) / sizeof(ShapeOf);
  }
  OpBuilder& in(std::string contract) {
    info_.contract_in = std::move(contract);
    return *this;
  }
  OpBuilder& out(std::string contract) {
    info_.contract_out = std::move(contract);
    return *this;
  }
  /// Inputs and outputs that the backward pass reads.
  OpBuilder& saves(std::string names) {
    traits_.saves = std::move(names);
    return *this;
  }
  /// Inputs and outputs without a gradient, besides integer ones. One that is asked for, of such an
  /// input or through such an output, is an error.
  OpBuilder& no_grad(std::string names) {
    traits_.no_grad = std::move(names);
    return *this;
  }
  /// Inputs (weights) whose gradient is summed and returned in the acc type.
  OpBuilder& grad_acc(std::string names) {
    traits_.grad_acc = std::move(names);
    return *this;
  }
  /// Two inputs of which the gradients are equal (terms of a sum): one tensor serves both.
  OpBuilder& same_gradient(std::string first, std::string second) {
    traits_.same_gradient = {std::move(first), std::move(second)};
    return *this;
  }
  /// `output` is the gradient of `input` for a gradient 1 of the first output, a sum. Where that of
  /// `input` has its place already, the forward pass writes or adds it there, and `output` is
  /// undefined then and in the backward pass, which checks that the gradient that arrives is 1.
  OpBuilder& gradient_in_forward(std::string input, std::string output) {
    traits_.gradient_in_forward = {std::move(input), std::move(output)};
    return *this;
  }
  /// Kernels may be given `output` in the memory of `input`: a state over the state that it
  /// follows.
  OpBuilder& continues(std::string input, std::string output) {
    return continues(std::move(input), "", std::move(output));
  }
  /// The same of a cache: `output` is the last rows (second axis) of `input` followed by `fresh`.
  /// Where it lies in the memory of `input`, those of `input` stand in their places.
  OpBuilder& continues(std::string input, std::string fresh, std::string output) {
    traits_.continued.push_back({std::move(input), std::move(fresh), std::move(output)});
    return *this;
  }
  /// Binds symbols that outputs need and inputs do not show, checks attributes, drops outputs.
  OpBuilder& bind(void (*fn)(const Shapes&, const Attrs&, Bindings&)) {
    info_.bind = [fn](std::span<const ShapeOf> in, const void* attrs, Bindings& b) {
      fn(detail::gather_members<Shapes>(in), *static_cast<const Attrs*>(attrs), b);
    };
    return *this;
  }
  OpBuilder& cost(Cost (*fn)(const Shapes&, const Attrs&)) {
    info_.cost = [fn](std::span<const ShapeOf> in, const void* attrs) {
      return fn(detail::gather_members<Shapes>(in), *static_cast<const Attrs*>(attrs));
    };
    return *this;
  }
  /// The same of ops that read or write the first input `passes` times in all, with `flops`
  /// operations for each element of it.
  OpBuilder& cost(double passes, double flops) {
    info_.cost = [passes, flops](std::span<const ShapeOf> in, const void*) {
      return Cost{passes * in[0].bytes(), flops * in[0].numel()};
    };
    return *this;
  }
  /// Plain loops for double (the oracle) and float, over contiguous operands.
  template <template <class> class Ref>
  OpBuilder& reference() {
    set_reference<Ref, double>();
    set_reference<Ref, float>();
    return *this;
  }
  operator bool() {  // NOLINT: the declaration is an initialiser
    detail::register_op(info_, traits_, where_);
    return true;
  }

 private:
  template <template <class> class Ref, class Real>
  void set_reference() {
    Kernel& reference = info_.references[static_cast<std::size_t>(dtype_of_v<Real>)];
    reference.name = "reference";
    reference.dtype = dtype_of_v<Real>;
    reference.forward = Types::erase(&Ref<Real>::forward);
    if constexpr (requires { &Ref<Real>::backward; }) {
      reference.backward = Types::erase(&Ref<Real>::backward);
      info_.has_backward = true;
    }
  }
  OpInfo& info_;
  std::source_location where_;
  detail::OpTraits traits_;
};

/// Attaches kernels to an op; the order against LS_OP does not matter. What is said of kernels
/// stands before `types` or `kernel`, which attach them. Kernels with a test are asked before those
/// without, then those that were attached first: keep kernels of one device and type in one file.
template <class Op>
class KernelBuilder {
  using Types = OpTypes<Op>;
  using Attrs = typename Op::Attrs;
  using Shapes = typename Op::template In<ShapeOf>;

 public:
  explicit KernelBuilder(std::source_location where = std::source_location::current())
      : where_(where) {}
  /// What reports and listings call it, where an op has several.
  KernelBuilder& named(std::string name) {
    kernel_.name = std::move(name);
    return *this;
  }
  KernelBuilder& on(DeviceType device) {
    kernel_.device = device;
    return *this;
  }
  /// Inputs, and gradients that arrive for outputs, that are read where they lie; others, and those
  /// that are not named and not contiguous, are copied first.
  KernelBuilder& reads(std::string names, Lies lies) {
    traits_.reads.emplace_back(std::move(names), lies);
    return *this;
  }
  /// The same of those whose first element must have an address that `bytes` divides.
  KernelBuilder& aligned(std::string names, Index bytes) {
    traits_.aligned.emplace_back(std::move(names), bytes);
    return *this;
  }
  /// Inputs whose gradient, and outputs that, it writes wherever they lie as slices do: pieces of
  /// equal length and equally far apart (pieces_of), rows of the last axis never cut.
  KernelBuilder& strided_grad(std::string names) {
    traits_.strided_grad = std::move(names);
    return *this;
  }
  /// Inputs whose gradient it adds to what lies in its place, where TensorView::adds says so, and
  /// outputs that are gradients (OpBuilder::gradient_in_forward).
  KernelBuilder& adds_grad(std::string names) {
    traits_.adds_grad = std::move(names);
    return *this;
  }
  /// Optional inputs without which it cannot run.
  KernelBuilder& given(std::string names) {
    traits_.given = std::move(names);
    return *this;
  }
  /// Optional inputs that it does not take.
  KernelBuilder& absent(std::string names) {
    traits_.absent = std::move(names);
    return *this;
  }
  /// Calls that it is for, by shapes and attributes.
  KernelBuilder& when(bool (*fits)(const Shapes&, const Attrs&)) {
    kernel_.fits = [fits](std::span<const ShapeOf> in, const void* attrs, int) {
      return fits(detail::gather_members<Shapes>(in), *static_cast<const Attrs*>(attrs));
    };
    return *this;
  }
  /// The same, by the device's generation too.
  KernelBuilder& when(bool (*fits)(const Shapes&, const Attrs&, int generation)) {
    kernel_.fits = [fits](std::span<const ShapeOf> in, const void* attrs, int generation) {
      return fits(detail::gather_members<Shapes>(in), *static_cast<const Attrs*>(attrs),
                  generation);
    };
    return *this;
  }
  /// Tensors that forward writes for its own backward; both then take them before the attributes
  /// (OpTypes::KeepingForward). They exist where a backward pass will follow.
  KernelBuilder& keeps(std::vector<ShapeOf> (*fn)(const Shapes&, const Attrs&)) {
    kernel_.keeps = [fn](std::span<const ShapeOf> in, const void* attrs) {
      return fn(detail::gather_members<Shapes>(in), *static_cast<const Attrs*>(attrs));
    };
    return *this;
  }
  /// For each type T, `kernels.operator()<T>()` is the pair of forward and backward.
  template <class... T, class F>
  KernelBuilder& types(F kernels) {
    (attach<T>(kernels.template operator()<T>()), ...);
    return *this;
  }
  /// The same of Kernel<T>, a class with static functions forward and backward.
  template <template <class> class Kernel, class... T>
  KernelBuilder& kernel() {
    (attach<T>(std::pair(&Kernel<T>::forward, &Kernel<T>::backward)), ...);
    return *this;
  }
  operator bool() { return true; }  // NOLINT: the declaration is an initialiser

 private:
  template <class T, class Forward, class Backward>
  void attach(std::pair<Forward, Backward> functions) {
    Kernel k = kernel_;
    k.dtype = dtype_of_v<T>;
    k.forward = Types::erase(functions.first);
    k.backward = Types::erase(functions.second);
    detail::register_kernel(detail::OpSlot<Op>::info(), std::move(k), traits_, where_);
  }
  std::source_location where_;
  Kernel kernel_;
  detail::KernelTraits traits_;
};

}  // namespace ls

#define LS_CONCAT_(a, b) a##b
#define LS_CONCAT(a, b) LS_CONCAT_(a, b)
/// `help` is one line: what is computed.
#define LS_OP(Type, name, help) \
  [[maybe_unused]] static const bool ls_op_##Type = ::ls::OpBuilder<Type>(name, help)
#define LS_KERNEL(Type) \
  [[maybe_unused]] static const bool LS_CONCAT(ls_kernel_, __LINE__) = ::ls::KernelBuilder<Type>()
