#pragma once
// What an op is: its contract, what its declaration says, its references and its kernels.
#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/registry.h"
#include "core/op/arg_spec.h"
#include "core/op/attr_info.h"
#include "core/op/gives_y.h"
#include "core/op/kernel.h"
#include "core/op/members.h"

namespace ls {

/// Work of one call, for rooflines: bytes that must move, floating-point operations.
struct Cost {
  double bytes = 0;
  double flops = 0;
};

/// Everything known of one op. Read through op_registry() or op_info<Op>().
struct OpInfo {
  std::string name;
  std::string contract_in, contract_out, help;
  std::vector<ArgSpec> in, out;
  std::vector<std::string> symbols;  ///< of the axes, Bindings hold their values
  std::vector<AttrInfo> attrs;
  /// Two inputs with one and the same gradient, or -1: kernels fill the first that is wanted.
  std::array<int, 2> same_gradient{-1, -1};
  /// An input, and the output that is its gradient, or -1: see OpBuilder::gradient_in_forward.
  std::array<int, 2> gradient_in_forward{-1, -1};
  bool has_backward = false;
  std::string file;

  std::function<void(std::span<const ShapeOf>, const void* attrs, Bindings&)> bind;
  std::function<Cost(std::span<const ShapeOf>, const void* attrs)> cost;
  /// In the order in which they are asked whether they fit: those that ask for something first.
  std::vector<Kernel> kernels;
  /// By element type; without `forward` where there is none. They run on the CPU.
  std::array<Kernel, kNumDTypes> references;

  int input_index(std::string_view name) const { return index_of(in, name); }
  int output_index(std::string_view name) const { return index_of(out, name); }
  /// An output may be made in the memory of an input; see OpBuilder::continues.
  bool continues() const;
  /// The first kernel of that device and type, or null.
  const Kernel* kernel(DeviceType device, DType dtype) const;
  /// It is one of `kernels`, not a reference.
  bool has(const Kernel& kernel) const;
};

/// All ops by name.
Registry<const OpInfo*>& op_registry();

namespace detail {
template <class Op>
struct OpSlot {
  static OpInfo& info() {
    static OpInfo* const instance = new OpInfo;
    return *instance;
  }
};
}  // namespace detail

template <class Op>
const OpInfo& op_info() {
  return detail::OpSlot<Op>::info();
}

}  // namespace ls
