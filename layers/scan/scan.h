#pragma once
// Scans: what crosses a cut in the sequence, and how. Mixers call scans through SeqContext::scan;
// they do not write sequence loops.
//
// A scan is an op that reads a sequence token by token and carries a state, or such an op under
// some of its attributes. Its forward pass is `apply` below, its backward pass the derivative.
// Scans that sum a stretch of tokens up in the same way are a family: the summary says what the
// stretch does to any incoming state. Laws, checked for every registered scan in
// tests/conformance/scans.cpp (x, y stretches, s states):
//   compose is associative and identity(x) is its identity
//   summarize(x ++ y) = compose(summarize(x), summarize(y))
//   apply(x ++ y, s) = apply(x, s) followed by apply(y, outgoing state)
//   outgoing state = act(summarize(x), s);  act_adjoint is the transpose of the derivative of act
//   in s: of act itself where that is affine, else it is given s too
//   act(forget(f), s) = f: a document boundary is the summary that forgets
//
// How a family says them: transitions.h has the classes of transitions, of which everything else
// follows.
//
//   // layers/scan/delta.cpp
//   LS_SCAN(ops::DeltaRule, "delta_rule", "S = exp(g) (I - beta k k^T) S + beta k v^T")
//       .family("delta", FamilyKind::kFixed)
//       .state("S", "s0", "sT", StatePart::kMatrix)
//       .chunked().parallel()
//       .linear("v", transitions::kDense);
#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/base/enum_names.h"
#include "core/op/op.h"
#include "core/op/scan_attrs.h"
#include "layers/scan/transitions.h"

namespace ls::layers {

enum class FamilyKind : std::uint8_t {
  kFixed,    ///< the summary has a fixed size, or one that a window bounds
  kGrowing,  ///< the summary grows with the tokens
  kRelay,    ///< there is no summary: ranks take turns
};
enum class StatePart : std::uint8_t { kMatrix, kVector, kConv, kKeyValue };
/// How document boundaries reach an op.
enum class Boundary : std::uint8_t {
  kOffsets,  ///< input `offsets` [N+1] over the B*T tokens; states per row
  kStart,    ///< input `start` [B,T]: first visible token of each query; states per row
};

/// One carried state: the op's input that takes it and the output that gives it back.
struct StatePort {
  std::string name;    ///< "S", "conv", "k"
  std::string input;   ///< "s0"
  std::string output;  ///< "sT"
  StatePart part = StatePart::kMatrix;
};

/// A stretch's tokens run from no state, and what is left to add for one.
struct LocalPart {
  Tensors out;      ///< the op's outputs
  Tensors summary;  ///< of the stretch
  Tensor reads;     ///< [B,T,HO,Dk], acc: what is left to add is o_t += reads_t S
};

/// Everything known of one scan.
struct ScanInfo {
  const OpInfo* op = nullptr;
  std::string help;    ///< one line for `longscan list families`
  std::string family;  ///< "decayed_linear", "delta", "window", "keys_values", "nonlinear"
  FamilyKind kind = FamilyKind::kRelay;
  std::vector<StatePort> states;
  Boundary boundary = Boundary::kOffsets;
  /// The attributes under which the op is this scan; null: all. For each call exactly one scan of
  /// the op applies.
  std::function<bool(const void* attrs)> applies;
  /// Forms that differ from the recurrent one for this op.
  bool has_chunk = false, has_parallel = false;
  std::function<std::shared_ptr<ScanAttrs>(const void* attrs)> clone_attrs;

  /// Null for relay families.
  const Transition* transition = nullptr;
  /// The contract of a summary: the states as they go out, then the transition.
  std::vector<ArgSpec> summary;
  std::vector<std::string> symbols;  ///< of its axes

  // All take the op's inputs in contract order, without state and boundary inputs (undefined), and
  // the op's Attrs. States and summaries are lists of tensors with leading axis B, states in the
  // order of `states`. Null for relay families.
  std::function<Tensors(std::span<const Tensor> in, const void* attrs)> summarize;
  std::function<Tensors(std::span<const Tensor> like, const void* attrs)> identity;
  std::function<Tensors(const Tensors& earlier, const Tensors& later, const void* attrs)> compose;
  std::function<Tensors(const Tensors& summary, const Tensors& states, const void* attrs)> act;
  // `states` are those that act was given. For key-value states, which hold a row for each token:
  // of the newest rows; rows left out (dropped by a window) have none.
  std::function<Tensors(const Tensors& summary, const Tensors& states, const Tensors& dstates,
                        const void* attrs)>
      act_adjoint;
  bool affine = true;  ///< act is affine in the states, so that act_adjoint does not read them
  // Tokens that the outgoing state reaches back, of an op whose inputs are `in`. Null: all.
  std::function<Index(std::span<const Tensor> in, const void* attrs)> reach;
  // What a document boundary does: of the states [1,...] that documents start from (undefined:
  // zeros) the summary that leaves them, whatever came before. Null where boundaries reach the op
  // as `start`: what is hidden need not be forgotten.
  std::function<Tensors(std::span<const Tensor> like, const Tensors& fresh, const void* attrs)>
      forget;

  // Traits: what a strategy may do besides handing states on. Symbols of the contract's axes.
  /// Heads know nothing of one another: each may run on a rank of its own, for all tokens. All
  /// these axes are cut, each in as many parts.
  std::vector<std::string> heads;
  /// The same of value columns: a state may be cut along them.
  std::vector<std::string> columns;
  /// The output of log-sums by which outputs over parts of the keys are merged; empty: none. The
  /// op's backward pass takes outputs that are merged in place of its own: it then gives the part's
  /// share of all gradients.
  std::string merged_by;
  /// Under these inputs and attributes; null: always.
  std::function<bool(std::span<const Tensor> in, const void* attrs)> merges;
  /// Of scans that merge: makes of the inputs of a stretch those of a run in which it sees the rows
  /// `keys` (in the order of `states`) alone, `ahead` tokens before it, counted from the first row
  /// to its first token; `own` where these are those of the stretch itself. Returns the attributes.
  std::function<std::shared_ptr<ScanAttrs>(std::span<Tensor> in, const Tensors& keys, Index ahead,
                                           bool own, const void* attrs)>
      look_at;

  // Optional, of scans whose output `read_by` is what it would be from no state plus a product with
  // the one state: o_t += reads_t S.
  std::string read_by;
  /// The gradient of that state for one of the output, in the acc type; undefined where these
  /// inputs make it no product.
  std::function<Tensor(std::span<const Tensor> in, const Tensor& dout, const void* attrs)>
      read_adjoint;
  /// Everything that needs no state, where that costs less than to make the summary and then run
  /// the op: what is left is `finish`.
  std::function<LocalPart(std::span<const Tensor> in, const void* attrs)> local;
};

/// The outputs and states out of a stretch of which `local` was called.
Tensors finish(const ScanInfo& scan, const LocalPart& local, const Tensors& states,
               const void* attrs);
/// What outputs [B,T,HO,Dv] read of states [B,H,Dk,Dv], and the gradient of the states for one of
/// those outputs. @shape reads [B,T,HO,Dk], HO a multiple of H
Tensor read_states(const Tensor& reads, const Tensor& states);
Tensor read_adjoint(const Tensor& reads, const Tensor& dout, Index heads);

/// How a family makes its summaries.
struct SummaryParts {
  const Transition* transition = nullptr;
  /// Its tensors, of the inputs. Null: the op is linear in the input `values` and its only state,
  /// and the transition is what it makes of the unit state when nothing is written.
  std::function<Tensors(std::span<const Tensor> in, const void* attrs)> moves;
  std::string values;
  bool wide = false;  ///< columns of the unit state may stand beside those of the values
  /// What a stretch leaves in the states, and behind it, where there are no `moves`, the tensors of
  /// its transition. Null: run the op, from states that `nothing` puts in where absent ones would
  /// count.
  std::function<Tensors(std::span<const Tensor> in, const void* attrs)> writes;
  std::function<void(std::span<Tensor> in)> nothing;
  std::function<Index(const void* attrs)> window;  ///< rows that growing states keep; null: all
};
/// Fills in the functions of a scan whose op, states and clone_attrs are set.
void set_summary(ScanInfo& scan, SummaryParts parts);

/// The summary of a stretch of [B,T,...] inputs, some rows of which begin documents at `starts`
/// (ascending token indices by row; empty: none inside). `fresh` as for forget.
Tensors summarize(const ScanInfo& scan, std::span<const Tensor> in, const void* attrs,
                  const std::vector<std::vector<Index>>& starts, const Tensors& fresh = {});
/// A state like that: `fresh` [1,...] for every row, zeros where it is undefined.
Tensor fresh_state(const Tensor& fresh, const Tensor& like);
/// @throws Error(Internal) where tensors are not as the scan's contract of summaries says
void check_summary(const ScanInfo& scan, const Tensors& summary);

/// Does an argument of a scan op run along the sequence: [B,T,...], or keys [B,Tk,...]?
bool is_sequence(const ArgSpec& arg);

/// By the scan's name: that of its op, or another where an op is several scans.
Registry<const ScanInfo*>& scan_registry();
/// The scan that a call of `op` is. @throws Error(Internal) where it is none
const ScanInfo& scan_of(const OpInfo& op, const void* attrs);

/// The one of the op's inputs `in`, or outputs `out`, that has this name.
template <class T>
T& input_of(const OpInfo& op, std::vector<T>& in, std::string_view name) {
  return in.at(static_cast<std::size_t>(op.input_index(name)));
}
template <class T>
auto& output_of(const OpInfo& op, T& out, std::string_view name) {
  return out.at(static_cast<std::size_t>(op.output_index(name)));
}

namespace detail {
bool register_scan(ScanInfo info, const std::string& name, std::source_location where);
}

/// Built by LS_SCAN; each call returns the builder. Conversion to bool registers.
template <class Op>
class ScanBuilder {
  using In = typename Op::template In<Tensor>;
  using Attrs = typename Op::Attrs;
  static_assert(std::is_base_of_v<ScanAttrs, Attrs>);

 public:
  ScanBuilder(std::string name, std::string help,
              std::source_location where = std::source_location::current())
      : name_(std::move(name)), where_(where) {
    info_.op = &op_info<Op>();
    info_.help = std::move(help);
    info_.clone_attrs = [](const void* attrs) -> std::shared_ptr<ScanAttrs> {
      return std::make_shared<Attrs>(typed(attrs));
    };
  }
  ScanBuilder& family(std::string name, FamilyKind kind) {
    info_.family = std::move(name);
    info_.kind = kind;
    return *this;
  }
  ScanBuilder& state(std::string name, std::string input, std::string output, StatePart part) {
    info_.states.push_back({std::move(name), std::move(input), std::move(output), part});
    return *this;
  }
  ScanBuilder& boundary(Boundary b) {
    info_.boundary = b;
    return *this;
  }
  /// The attributes under which the op is this scan, where it is several.
  ScanBuilder& applies(bool (*when)(const Attrs&)) {
    info_.applies = [when](const void* attrs) { return when(typed(attrs)); };
    return *this;
  }
  /// How many tokens the outgoing state reaches back: a window.
  ScanBuilder& reach(Index (*tokens)(const In&, const Attrs&)) {
    info_.reach = [tokens](std::span<const Tensor> in, const void* attrs) {
      return tokens(ls::detail::gather_members<In>(in), typed(attrs));
    };
    return *this;
  }
  ScanBuilder& chunked() {
    info_.has_chunk = true;
    return *this;
  }
  ScanBuilder& parallel() {
    info_.has_parallel = true;
    return *this;
  }
  ScanBuilder& heads(std::vector<std::string> axes) {
    info_.heads = std::move(axes);
    return *this;
  }
  ScanBuilder& columns(std::vector<std::string> axes) {
    info_.columns = std::move(axes);
    return *this;
  }
  ScanBuilder& merged_by(std::string output, bool (*merges)(const In&, const Attrs&),
                         Attrs (*look_at)(In&, const Tensors& keys, Index ahead, bool own,
                                          const Attrs&)) {
    info_.merged_by = std::move(output);
    info_.merges = erased(merges);
    info_.look_at = [look_at](std::span<Tensor> in, const Tensors& keys, Index ahead, bool own,
                              const void* attrs) -> std::shared_ptr<ScanAttrs> {
      In members = ls::detail::gather_members<In>(std::span<const Tensor>(in));
      auto made = std::make_shared<Attrs>(look_at(members, keys, ahead, own, typed(attrs)));
      std::ranges::copy(ls::detail::spread_members<Tensor>(members), in.begin());
      return made;
    };
    return *this;
  }
  /// The transition of a stretch: its class, and its tensors made of the inputs.
  ScanBuilder& transition(const Transition& t, Tensors (*moves)(const In&, const Attrs&)) {
    parts_.transition = &t;
    parts_.moves = erased(moves);
    return *this;
  }
  /// The same, where one call makes all of a summary: the states as they go out of a stretch that
  /// starts from nothing, then the tensors of its transition.
  ScanBuilder& summary(const Transition& t, Tensors (*of)(const In&, const Attrs&)) {
    parts_.transition = &t;
    parts_.writes = erased(of);
    return *this;
  }
  /// The same of an op that is linear in its input `values` [B,T,...] and its only state: what it
  /// makes of the unit state when nothing is written.
  ScanBuilder& linear(std::string values, const Transition& t) {
    parts_.transition = &t;
    parts_.values = std::move(values);
    return *this;
  }
  /// The same where columns of values, of the state and of `output` know nothing of one another:
  /// those of the unit state run beside the others, which gives the summary and what the output
  /// reads of an incoming state at once.
  ScanBuilder& linear(std::string values, std::string output, const Transition& t) {
    info_.read_by = std::move(output);
    parts_.wide = true;
    return linear(std::move(values), t);
  }
  /// The gradient of the incoming state for one of the output, which adds a product with that state
  /// to what it would be from none; undefined where these inputs make it no product.
  ScanBuilder& read_adjoint(std::string output,
                            Tensor (*of)(const In&, const Tensor& dout, const Attrs&)) {
    info_.read_by = std::move(output);
    info_.read_adjoint = [of](std::span<const Tensor> in, const Tensor& dout, const void* attrs) {
      return of(ls::detail::gather_members<In>(in), dout, typed(attrs));
    };
    return *this;
  }
  /// What a stretch leaves of nothing, where that costs less than a run of the op.
  ScanBuilder& writes(Tensors (*states)(const In&, const Attrs&)) {
    parts_.writes = erased(states);
    return *this;
  }
  /// Sets states that count for nothing, where absent ones would count.
  ScanBuilder& nothing(void (*set)(In&)) {
    parts_.nothing = [set](std::span<Tensor> in) {
      In members = ls::detail::gather_members<In>(std::span<const Tensor>(in));
      set(members);
      std::ranges::copy(ls::detail::spread_members<Tensor>(members), in.begin());
    };
    return *this;
  }
  /// Rows that states which grow by concatenation keep.
  ScanBuilder& window(Index (*rows)(const Attrs&)) {
    parts_.window = [rows](const void* attrs) { return rows(typed(attrs)); };
    return *this;
  }
  operator bool() {  // NOLINT: the declaration is an initialiser
    if (parts_.transition) {
      set_summary(info_, std::move(parts_));
    }
    return detail::register_scan(std::move(info_), name_, where_);
  }

 private:
  static const Attrs& typed(const void* attrs) { return *static_cast<const Attrs*>(attrs); }
  template <class R>
  static std::function<R(std::span<const Tensor>, const void*)> erased(R (*f)(const In&,
                                                                              const Attrs&)) {
    return [f](std::span<const Tensor> in, const void* attrs) {
      return f(ls::detail::gather_members<In>(in), typed(attrs));
    };
  }
  std::string name_;
  SummaryParts parts_;
  ScanInfo info_;
  std::source_location where_;
};

}  // namespace ls::layers

template <>
struct ls::EnumNames<ls::layers::FamilyKind> {
  static constexpr std::string_view kKind = "kind of family";
  static constexpr std::array<std::string_view, 3> kNames = {"fixed", "growing", "relay"};
};
template <>
struct ls::EnumNames<ls::layers::StatePart> {
  static constexpr std::string_view kKind = "part of the state";
  static constexpr std::array<std::string_view, 4> kNames = {"matrix", "vector", "conv", "kv"};
};

/// In layers/scan/<family>.cpp; `help` is one line: the recurrence.
#define LS_SCAN(Type, name, help)                                    \
  [[maybe_unused]] static const bool LS_CONCAT(ls_scan_, __LINE__) = \
      ::ls::layers::ScanBuilder<Type>(name, help)
