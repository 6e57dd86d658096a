#pragma once
// Scan families: what crosses a cut in the sequence, and how. Mixers call families through
// SeqContext::scan; they do not write sequence loops.
//
// A family is served by one or more registered ops. `apply` is the op's forward pass, `apply_vjp`
// its backward pass; the functions below say what a stretch of tokens does to any incoming state.
// Laws, checked for every registered op in tests/conformance/scans.cpp (x, y stretches, s states):
//   compose is associative and identity(x) is its identity
//   summarize(x ++ y) = compose(summarize(x), summarize(y))
//   apply(x ++ y, s) = apply(x, s) followed by apply(y, outgoing state)
//   outgoing state = act(summarize(x), s);  act_adjoint is the transpose of act in s
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/op/op.h"
#include "core/op/scan_attrs.h"

namespace ls::layers {

enum class FamilyKind : std::uint8_t {
  kFixed,    ///< the summary has a fixed size, or one that a window bounds
  kGrowing,  ///< the summary grows with the tokens
  kRelay,    ///< only apply: ranks take turns; no summary functions
};
enum class StatePart : std::uint8_t { kMatrix, kVector, kConv, kKeyValue };
std::string_view family_kind_name(FamilyKind kind);
std::string_view state_part_name(StatePart part);  ///< "matrix", "vector", "conv", "kv"

/// One carried state: the op's input that takes it and the output that gives it back.
struct StatePort {
  std::string name;    ///< "S", "conv", "k"
  std::string input;   ///< "s0"
  std::string output;  ///< "sT"
  StatePart part = StatePart::kMatrix;
};

using Tensors = std::vector<Tensor>;

/// How document boundaries reach an op.
enum class Boundary : std::uint8_t {
  kOffsets,  ///< input `offsets` [N+1], B = 1, states per document
  kStart,    ///< input `start` [B,T]: first visible token of each query; states per row
};

/// One scan: an op, or an op under some of its attributes, and the family that it belongs to.
struct FamilyInfo {
  std::string family;  ///< "decayed_linear", "delta", "window", "keys_values", "nonlinear"
  FamilyKind kind = FamilyKind::kFixed;
  std::string summary;  ///< one line for `longscan list families`
  std::vector<StatePort> states;
  Boundary boundary = Boundary::kOffsets;
  /// The attributes under which the op is this scan; null: all. For each call exactly one scan of
  /// the op applies.
  std::function<bool(const void* attrs)> applies;
  /// Forms that differ from the recurrent one for this op.
  bool has_chunk = false, has_parallel = false;

  // All take the op's inputs in contract order, without state and boundary inputs (undefined), and
  // the op's Attrs. States and summaries are lists of tensors in the acc type, states in the order
  // of `states` with leading axis B. Null for relay families.
  std::function<Tensors(std::span<const Tensor> in, const void* attrs)> summarize;
  std::function<Tensors(std::span<const Tensor> like, const void* attrs)> identity;
  std::function<Tensors(const Tensors& earlier, const Tensors& later, const void* attrs)> compose;
  std::function<Tensors(const Tensors& summary, const Tensors& states, const void* attrs)> act;
  // For key-value states, which hold a row for each token: of the newest rows; rows left out
  // (dropped by a window) have none.
  std::function<Tensors(const Tensors& summary, const Tensors& dstates, const void* attrs)>
      act_adjoint;

  // Filled by register_family.
  const OpInfo* op = nullptr;
  std::function<std::shared_ptr<ScanAttrs>(const void* attrs)> clone_attrs;
};

/// The one of the op's inputs `in`, or outputs `out`, that has this name.
template <class T>
T& input_of(const OpInfo& op, std::vector<T>& in, std::string_view name) {
  return in.at(static_cast<std::size_t>(op.input_index(name)));
}
template <class T>
T& output_of(const OpInfo& op, std::vector<T>& out, std::string_view name) {
  return out.at(static_cast<std::size_t>(op.output_index(name)));
}

/// By the scan's name: that of its op, or another where an op is several scans.
Registry<const FamilyInfo*>& family_registry();
/// The scan that a call of `op` is, or null for ops that are not scans.
const FamilyInfo* find_family(const OpInfo& op, const void* attrs);

namespace detail {
bool register_family(FamilyInfo info, const OpInfo& op, const char* name,
                     std::source_location where);
}

/// In layers/scan/<family>.cpp:
///   static const bool ok = register_family<ops::DeltaRule>("delta_rule", {...});
template <class Op>
bool register_family(const char* name, FamilyInfo info,
                     std::source_location where = std::source_location::current()) {
  using Attrs = typename Op::Attrs;
  static_assert(std::is_base_of_v<ScanAttrs, Attrs>);
  info.clone_attrs = [](const void* attrs) -> std::shared_ptr<ScanAttrs> {
    return std::make_shared<Attrs>(*static_cast<const Attrs*>(attrs));
  };
  return detail::register_family(std::move(info), op_info<Op>(), name, where);
}

}  // namespace ls::layers
