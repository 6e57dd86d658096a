#pragma once
// Cases of an op: inputs and attributes on which everything that every op owes is checked.
//
//   // tests/cases/glu.cpp
//   LS_OP_CASES(Glu, "glu") {
//     Draw draw("glu");
//     cases.add("halves", {.x = draw.normal({3, 10})});
//   }
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/op/op.h"
#include "tests/support/draw.h"

namespace ls::ops {}

namespace ls::test {

using namespace ops;  // NOLINT: cases name ops as the sources of the ops do

struct OpCase {
  std::string name;
  /// In contract order: floats as f64, integers as they are, undefined where absent.
  std::vector<Tensor> in;
  std::shared_ptr<const void> attrs;
  /// Outputs whose gradient is not checked here, besides those that have none.
  std::vector<std::string> kept;
  double slack = 1;      ///< factor on the tolerances; an exception that needs a reason
  double gpu_slack = 1;  ///< one more, of 16-bit kernels on a GPU
  bool smooth = true;    ///< false: no finite differences here
  bool backward = true;  ///< false: these attributes allow no backward pass
};

template <class Op, class Case = OpCase>
class CaseList {
 public:
  using In = typename Op::template In<Tensor>;
  class Added {
   public:
    explicit Added(Case& c) : case_(c) {}
    Added& mask(std::function<void(In&, Index, Index)> f) requires requires(Case& c) { c.mask; }
    {
      case_.mask = [f = std::move(f)](std::vector<Tensor>& in, Index from, Index to) {
        In members = ls::detail::gather_members<In>(std::span<const Tensor>(in));
        f(members, from, to);
        in = ls::detail::spread_members<Tensor>(members);
      };
      return *this;
    }
    Added& kept(std::vector<std::string> outputs) {
      case_.kept = std::move(outputs);
      return *this;
    }
    Added& slack(double factor, const char* /*reason*/) {
      case_.slack = factor;
      return *this;
    }
    Added& gpu_slack(double factor, const char* /*reason*/) {
      case_.gpu_slack = factor;
      return *this;
    }
    /// The op has a corner, or bends too fast, at these inputs.
    Added& not_smooth() {
      case_.smooth = false;
      return *this;
    }
    Added& forward_only() {
      case_.backward = false;
      return *this;
    }

   private:
    Case& case_;
  };
  /// The returned handle is used in the same statement.
  Added add(std::string name, const In& in, const typename Op::Attrs& attrs = {}) {
    Case& c = cases.emplace_back();
    c.name = std::move(name);
    c.in = ls::detail::spread_members<Tensor>(in);
    c.attrs = std::make_shared<const typename Op::Attrs>(attrs);
    return Added(c);
  }
  std::vector<Case> cases;
};

/// Cases by op name, made when asked for.
using OpCaseMaker = std::vector<OpCase> (*)();
Registry<OpCaseMaker>& op_cases();
/// Those of LS_OP_CASES, and those of LS_SCAN_CASES (tests/support/scan_laws.h).
std::vector<OpCase> cases_of(const std::string& op);

}  // namespace ls::test

#define LS_OP_CASES(Type, name)                                      \
  static void ls_op_cases_##Type(::ls::test::CaseList<Type>& cases); \
  [[maybe_unused]] static const bool ls_op_cases_added_##Type =      \
      ::ls::test::op_cases().add(name, [] {                          \
        ::ls::test::CaseList<Type> cases;                            \
        ls_op_cases_##Type(cases);                                   \
        return std::move(cases.cases);                               \
      });                                                            \
  static void ls_op_cases_##Type(::ls::test::CaseList<Type>& cases)
