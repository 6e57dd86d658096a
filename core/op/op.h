#pragma once
// Ops: declared once (shape contract, element types, reference forward and backward, cost), with
// kernels attached from any source file.
//
//   // core/ops/scale/scale.h
//   struct Scale {
//     template <class T> struct In { T x; };
//     template <class T> struct Out { T y; };
//     struct Attrs { double factor = 1; };
//   };
//   // core/ops/scale/scale.cpp
//   template <class Real> struct Reference {
//     static void forward(const Scale::In<Tensor>&, Scale::Out<Tensor>&, const Scale::Attrs&);
//     static void backward(const Scale::In<Tensor>& in, const Scale::Out<Tensor>& out,
//                          const Scale::Out<Tensor>& dout, Scale::In<Tensor>& din,
//                          const Scale::Attrs&);
//   };
//   LS_OP(Scale, "scale", "x times a
//   factor").in("x[...]").out("y[...]").saves("").reference<Reference>(); //
//   core/ops/scale/scale_cpu.cpp template <class T> struct Kernel { ... the same two functions ...
//   }; LS_KERNEL(Scale).kernel<Kernel, float, bf16>();
//
// The contract string lists arguments as name[axes]dtype?:
//   axes   symbols bound at first sight (B, T), integers, `...` for any leading axes, or sums and
//          products of symbols and integers (W-1, 4*H) that are checked, not bound
//   dtype  nothing: the op's float type, the same for all such arguments; :acc f32, or f64 when the
//          op's type is f64; :i64, :f32, ... exactly that; :any unchecked
//   ?      after the brackets or dtype: may be absent
// What the builder adds stands in the order of its methods, each that is needed:
//   in out saves no_grad grad_acc strided_grad same_gradient continues bind reference cost
// Members of In and Out are all of type T and stand in the order of the contract.
#include <array>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <source_location>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/registry.h"
#include "core/tensor/tensor.h"

namespace ls {

/// Bases of ops whose only result is y, and of those that take only x besides.
struct GivesY {
  template <class T>
  struct Out {
    T y;
  };
};
struct TakesXGivesY : GivesY {
  template <class T>
  struct In {
    T x;
  };
};

/// Work of one call, for rooflines: bytes that must move, floating-point operations.
struct Cost {
  double bytes = 0;
  double flops = 0;
};

/// One argument of a contract.
struct ArgSpec {
  enum class Type : std::uint8_t { kFloat, kAcc, kExact, kAny };
  std::string name;
  std::vector<std::string> axes;  ///< without the ellipsis
  bool ellipsis = false;
  Type type = Type::kFloat;
  DType exact = DType::kF32;  ///< for kExact
  bool optional = false;
  std::string text;  ///< as written
};

/// Values of the contract's symbols in one call.
class Bindings {
 public:
  /// @throws Error(Internal) for a symbol that was never bound.
  Index operator[](std::string_view symbol) const;
  bool has(std::string_view symbol) const;
  void set(std::string symbol, Index value);
  /// The optional output `name` is not produced by this call.
  void drop_output(std::string name) { dropped_.push_back(std::move(name)); }
  bool dropped(std::string_view name) const;
  /// Evaluates "W-1", "4*H", "7". Empty when a symbol is unbound.
  std::optional<Index> evaluate(std::string_view expression) const;

  Shape ellipsis;  ///< the axes that `...` stood for
  bool ellipsis_bound = false;

 private:
  std::vector<std::pair<std::string, Index>> values_;
  std::vector<std::string> dropped_;
};

using ForwardKernel =
    std::function<void(std::span<const Tensor> in, std::span<Tensor> out, const void* attrs)>;
/// `dout` entries may be undefined (zero), but never all of them. Every defined entry of `din`, of
/// which there is one, must be filled; the others are not wanted. Entries of `in` and `out` that
/// are not saved are undefined, with the exception that the caller may always read shapes through
/// `din`. Outputs and gradients are contiguous, but for those that OpBuilder::strided_grad names.
using BackwardKernel =
    std::function<void(std::span<const Tensor> in, std::span<const Tensor> out,
                       std::span<const Tensor> dout, std::span<Tensor> din, const void* attrs)>;

/// Everything known of one op. Read through OpRegistry or op_info<Op>().
struct OpInfo {
  std::string name;
  std::string contract_in, contract_out, help;
  std::vector<ArgSpec> in, out;
  std::vector<bool> saves_in, saves_out;  ///< kept for the backward pass
  std::vector<bool> differentiable;       ///< inputs: has a gradient
  std::vector<bool> differentiable_out;   ///< outputs: a gradient may arrive
  std::vector<bool> grad_is_acc;          ///< inputs: the gradient has the acc type
  std::vector<bool> strided_grad;         ///< inputs: kernels write the gradient into a slice
  /// Outputs that may be made in the memory of an input; see OpBuilder::continues.
  struct Continued {
    int input, fresh, output;  ///< fresh is -1 for a state
  };
  std::vector<Continued> continued;
  /// Two inputs with one and the same gradient, or -1: kernels fill the first that is wanted.
  std::array<int, 2> same_gradient{-1, -1};
  bool has_backward = false;
  std::string file;

  std::function<void(std::span<const Tensor>, const void* attrs, Bindings&)> bind;
  std::function<Cost(std::span<const Tensor>, const void* attrs)> cost;
  std::array<ForwardKernel, kNumDTypes> forward_cpu;
  std::array<BackwardKernel, kNumDTypes> backward_cpu;
  std::array<ForwardKernel, kNumDTypes> forward_reference;
  std::array<BackwardKernel, kNumDTypes> backward_reference;

  int input_index(std::string_view name) const;   ///< -1 if there is none
  int output_index(std::string_view name) const;  ///< -1 if there is none
};

/// All ops by name.
Registry<const OpInfo*>& op_registry();

/// While alive, ops on this thread run their references, not their kernels (tests, oracles).
class UseReference {
 public:
  UseReference();
  ~UseReference();
  UseReference(const UseReference&) = delete;
  UseReference& operator=(const UseReference&) = delete;
};

/// Checks the call against the contract, makes the outputs and runs the kernel for their type: on
/// the CPU the kernel of exactly that type, else for 16-bit floats the f32 kernel on converted
/// tensors, else the reference. `spent`, when given, marks inputs that nobody else holds: outputs
/// that continue one (OpBuilder::continues) are made in its memory where there is room.
/// @throws Error(Shape, DType, Unsupported) naming op and argument
std::vector<Tensor> run_forward(const OpInfo& op, std::span<const Tensor> in, const void* attrs,
                                const std::vector<bool>& spent = {});
/// Gradients of the inputs marked in `wanted`; the others come back undefined. `places`, when
/// given, has one entry per input, undefined or a tensor that its gradient is written to where that
/// can be: of the gradient's shape and type, a slice (pieces_of) of what the caller owns, the op's
/// kernel of exactly this type having strided_grad for the input. Then it comes back itself.
/// @throws Error(Unsupported) on a gradient of an output that has none
std::vector<Tensor> run_backward(const OpInfo& op, std::span<const Tensor> in,
                                 std::span<const Tensor> out, std::span<const Tensor> dout,
                                 const std::vector<bool>& wanted, std::span<const Shape> in_shapes,
                                 DType dtype, const void* attrs,
                                 std::span<const Tensor> places = {});
/// The float type a call with these inputs runs in: that of the first argument without a suffix.
DType op_dtype(const OpInfo& op, std::span<const Tensor> in);

namespace detail {

/// Pointers to the members of a struct whose N members all have type T.
template <class T, class Struct>
auto members(Struct& s) {
  constexpr std::size_t kN = sizeof(Struct) / sizeof(T);
  static_assert(kN * sizeof(T) == sizeof(Struct) && kN >= 1 && kN <= 10);
  if constexpr (kN == 1) {
    auto& [a] = s;
    return std::array{&a};
  } else if constexpr (kN == 2) {
    auto& [a, b] = s;
    return std::array{&a, &b};
  } else if constexpr (kN == 3) {
    auto& [a, b, c] = s;
    return std::array{&a, &b, &c};
  } else if constexpr (kN == 4) {
    auto& [a, b, c, d] = s;
    return std::array{&a, &b, &c, &d};
  } else if constexpr (kN == 5) {
    auto& [a, b, c, d, e] = s;
    return std::array{&a, &b, &c, &d, &e};
  } else if constexpr (kN == 6) {
    auto& [a, b, c, d, e, f] = s;
    return std::array{&a, &b, &c, &d, &e, &f};
  } else if constexpr (kN == 7) {
    auto& [a, b, c, d, e, f, g] = s;
    return std::array{&a, &b, &c, &d, &e, &f, &g};
  } else if constexpr (kN == 8) {
    auto& [a, b, c, d, e, f, g, h] = s;
    return std::array{&a, &b, &c, &d, &e, &f, &g, &h};
  } else if constexpr (kN == 9) {
    auto& [a, b, c, d, e, f, g, h, i] = s;
    return std::array{&a, &b, &c, &d, &e, &f, &g, &h, &i};
  } else {
    auto& [a, b, c, d, e, f, g, h, i, j] = s;
    return std::array{&a, &b, &c, &d, &e, &f, &g, &h, &i, &j};
  }
}

template <class Struct, class T>
Struct gather_members(std::span<const T> values) {
  Struct s;
  std::size_t i = 0;
  for (T* member : members<T>(s)) {
    *member = values[i++];
  }
  return s;
}

template <class T, class Struct>
std::vector<T> spread_members(const Struct& s) {
  std::vector<T> out;
  for (const T* member : members<const T>(s)) {
    out.push_back(*member);
  }
  return out;
}

template <class Op>
struct OpSlot {
  static OpInfo& info() {
    static OpInfo* const instance = new OpInfo;
    return *instance;
  }
};

/// Names of arguments as the builder takes them.
struct OpTraits {
  std::string saves, no_grad, grad_acc, strided_grad;
  std::vector<std::array<std::string, 3>> continued;  ///< input, fresh rows, output
  std::array<std::string, 2> same_gradient;
};
/// Reads contract and traits into `info`. @throws Error(Internal) where they do not fit together
void register_op(OpInfo& info, const OpTraits& traits, std::source_location where);

}  // namespace detail

template <class Op>
const OpInfo& op_info() {
  return detail::OpSlot<Op>::info();
}

/// Typed kernels and their erased form.
template <class Op>
struct OpTypes {
  using In = typename Op::template In<Tensor>;
  using Out = typename Op::template Out<Tensor>;
  using Attrs = typename Op::Attrs;
  using Forward = void (*)(const In&, Out&, const Attrs&);
  using Backward = void (*)(const In& in, const Out& out, const Out& dout, In& din, const Attrs&);

  static ForwardKernel erase(Forward fn) {
    return [fn](std::span<const Tensor> in, std::span<Tensor> out, const void* attrs) {
      Out o = detail::gather_members<Out>(std::span<const Tensor>(out));
      fn(detail::gather_members<In>(in), o, *static_cast<const Attrs*>(attrs));
    };
  }
  static BackwardKernel erase(Backward fn) {
    return [fn](std::span<const Tensor> in, std::span<const Tensor> out,
                std::span<const Tensor> dout, std::span<Tensor> din, const void* attrs) {
      In d = detail::gather_members<In>(std::span<const Tensor>(din));
      fn(detail::gather_members<In>(in), detail::gather_members<Out>(out),
         detail::gather_members<Out>(dout), d, *static_cast<const Attrs*>(attrs));
    };
  }
};

/// Built by LS_OP; each call returns the builder. Conversion to bool registers.
template <class Op>
class OpBuilder {
  using Types = OpTypes<Op>;

 public:
  OpBuilder(std::string name, std::string help,
            std::source_location where = std::source_location::current())
      : info_(detail::OpSlot<Op>::info()), where_(where) {
    info_.name = std::move(name);
    info_.help = std::move(help);
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
  /// Inputs whose gradient the kernels write wherever it lies as slices of contiguous tensors do:
  /// pieces of equal length and equally far apart (pieces_of), rows of the last axis never cut. The
  /// references need not.
  OpBuilder& strided_grad(std::string names) {
    traits_.strided_grad = std::move(names);
    return *this;
  }
  /// Two inputs of which the gradients are equal (terms of a sum): one tensor serves both.
  OpBuilder& same_gradient(std::string first, std::string second) {
    traits_.same_gradient = {std::move(first), std::move(second)};
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
  OpBuilder& bind(void (*fn)(const typename Types::In&, const typename Types::Attrs&, Bindings&)) {
    info_.bind = [fn](std::span<const Tensor> in, const void* attrs, Bindings& b) {
      fn(detail::gather_members<typename Types::In>(in),
         *static_cast<const typename Types::Attrs*>(attrs), b);
    };
    return *this;
  }
  OpBuilder& cost(Cost (*fn)(const typename Types::In&, const typename Types::Attrs&)) {
    info_.cost = [fn](std::span<const Tensor> in, const void* attrs) {
      return fn(detail::gather_members<typename Types::In>(in),
                *static_cast<const typename Types::Attrs*>(attrs));
    };
    return *this;
  }
  /// The same of ops that read or write the first input `passes` times in all, with `flops`
  /// operations for each element of it.
  OpBuilder& cost(double passes, double flops) {
    info_.cost = [passes, flops](std::span<const Tensor> in, const void*) {
      return Cost{passes * in[0].bytes(), flops * in[0].numel()};
    };
    return *this;
  }
  /// Plain loops for double (the oracle) and float.
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
    const auto t = static_cast<std::size_t>(dtype_of_v<Real>);
    info_.forward_reference[t] = Types::erase(typename Types::Forward(&Ref<Real>::forward));
    if constexpr (requires { &Ref<Real>::backward; }) {
      info_.backward_reference[t] = Types::erase(typename Types::Backward(&Ref<Real>::backward));
      info_.has_backward = true;
    }
  }
  OpInfo& info_;
  std::source_location where_;
  detail::OpTraits traits_;
};

/// Attaches CPU kernels to an op; the order against LS_OP does not matter.
template <class Op>
class KernelBuilder {
  using Types = OpTypes<Op>;

 public:
  /// For each type T, `kernels.operator()<T>()` is the pair of forward and backward.
  template <class... T, class F>
  KernelBuilder& types(F kernels) {
    (attach<T>(kernels.template operator()<T>()), ...);
    return *this;
  }
  /// The same of Kernel<T>, a class with static functions forward and backward.
  template <template <class> class Kernel, class... T>
  KernelBuilder& kernel() {
    (attach<T>({&Kernel<T>::forward, &Kernel<T>::backward}), ...);
    return *this;
  }
  operator bool() { return true; }  // NOLINT

 private:
  template <class T>
  void attach(std::pair<typename Types::Forward, typename Types::Backward> kernels) {
    constexpr auto kType = static_cast<std::size_t>(dtype_of_v<T>);
    OpInfo& info = detail::OpSlot<Op>::info();
    info.forward_cpu[kType] = Types::erase(kernels.first);
    info.backward_cpu[kType] = Types::erase(kernels.second);
  }
};

/// Runs an op on plain tensors, without a tape: `call_op<Scale>({.x = x}, {.factor = 2}).y`.
template <class Op>
typename Op::template Out<Tensor> call_op(const typename Op::template In<Tensor>& in,
                                          const typename Op::Attrs& attrs = {}) {
  const std::vector<Tensor> inputs = detail::spread_members<Tensor>(in);
  const std::vector<Tensor> out = run_forward(op_info<Op>(), inputs, &attrs);
  return detail::gather_members<typename Op::template Out<Tensor>>(std::span<const Tensor>(out));
}

}  // namespace ls

#define LS_CONCAT_(a, b) a##b
#define LS_CONCAT(a, b) LS_CONCAT_(a, b)
/// `help` is one line: what is computed.
#define LS_OP(Type, name, help) \
  [[maybe_unused]] static const bool ls_op_##Type = ::ls::OpBuilder<Type>(name, help)
#define LS_KERNEL(Type) \
  [[maybe_unused]] static const bool LS_CONCAT(ls_kernel_, __LINE__) = ::ls::KernelBuilder<Type>()
