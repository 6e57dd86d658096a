#pragma once
// Calls a registered op and records it:
//   auto [o, sT] = ag::call<ops::DecayedLinear>({.q = q, .k = k, .v = v}, {.scale = 0.5});
#include <functional>
#include <optional>

#include "autograd/var.h"
#include "core/op/run.h"

namespace ls::ag {

/// Untyped call; `attrs` points to the op's Attrs and is kept for the backward pass. Undefined Vars
/// are absent optional inputs. @throws Error(Unsupported) when a gradient is wanted of an input
/// that has none
std::vector<Var> call(const OpInfo& op, std::span<const Var> inputs,
                      std::shared_ptr<const void> attrs);
/// The same; `places` has one entry per output, undefined or memory where it is made if that can
/// be.
std::vector<Var> call(const OpInfo& op, std::span<const Var> inputs,
                      std::shared_ptr<const void> attrs, std::vector<Tensor> places);
/// The same, with inputs that are given up: where nothing is recorded, the memory of a state or
/// cache that nobody else holds goes on as the output that continues it (OpBuilder::continues).
std::vector<Var> call(const OpInfo& op, std::vector<Var>&& inputs,
                      std::shared_ptr<const void> attrs);

/// Runs `Op` forward; outputs in the order of its Out struct.
template <class Op>
typename Op::template Out<Var> call(const typename Op::template In<Var>& in,
                                    const typename Op::Attrs& attrs = {}) {
  const std::vector<Var> inputs = ls::detail::spread_members<Var>(in);
  const std::vector<Var> out =
      call(op_info<Op>(), inputs, std::make_shared<const typename Op::Attrs>(attrs));
  return ls::detail::gather_members<typename Op::template Out<Var>>(std::span<const Var>(out));
}

/// While alive, every op's outputs on this thread are checked; the first non-finite one is an
/// Error(Numeric) naming op, output and the enclosing ErrorContext lines (module path).
class CheckFinite {
 public:
  /// What becomes of it, and of what a tape finds (Tape::set_check_finite): thrown, or kept while
  /// the work goes on, which other ranks may wait for.
  enum class Found : std::uint8_t { kThrown, kKept };
  explicit CheckFinite(Found found = Found::kThrown);
  ~CheckFinite();
  CheckFinite(const CheckFinite&) = delete;
  CheckFinite& operator=(const CheckFinite&) = delete;

  const std::optional<Error>& first() const { return first_; }
  /// Checks that passed before it.
  Index passed() const { return passed_; }

  /// For what checks: tells the innermost one on this thread, or throws.
  static void tell(bool finite, const std::function<Error()>& fault);

 private:
  Found found_;
  CheckFinite* around_;
  std::optional<Error> first_;
  Index passed_ = 0;
};

}  // namespace ls::ag
