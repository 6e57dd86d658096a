#pragma once
// The laws of layers/scan/scan.h, checked for any family on any case.
//
//   // tests/cases/delta_scan.cpp
//   LS_SCAN_CASES(DeltaRule, "delta_rule") {
//     cases.add("plain", {.q = normal({2, 70, 2, 8}), ...}, attrs)
//         .mask([](ops::DeltaRule::In<Tensor>& in, Index a, Index b) {
//           in.beta.slice(1, a, b).zero_();
//         });
//   }
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "layers/scan/scan.h"
#include "tests/support/op_case.h"

namespace ls::test {

/// One stretch of tokens, [B,T,...] in the sequence inputs; incoming states where the case has some
/// (absent: zero), no document boundaries.
struct ScanCase : OpCase {
  /// Makes tokens [from, to) of `in` padding: no decay and no write. Null where no input can say
  /// so.
  std::function<void(std::vector<Tensor>& in, Index from, Index to)> mask;
};

template <class Op>
using ScanCaseList = CaseList<Op, ScanCase>;

/// Cases by the name of the scan, made when asked for.
using ScanCaseMaker = std::vector<ScanCase> (*)();
Registry<ScanCaseMaker>& scan_cases();

/// What is wrong with the family on this case in type `t` (f64 or f32), one line a fault starting
/// with the law's name; empty when nothing is. Laws:
///   reference   the op's reference gives the same outputs and gradients
///   derivative  gradients agree with finite differences (f64)
///   zero-state  an absent state and a zero state are the same
///   identity    compose and act with identity change nothing; an empty stretch has that summary
///   associative compose(compose(a, b), c) = compose(a, compose(b, c))
///   summarize   summarize(x ++ y) = compose(summarize(x), summarize(y))
///   state       outgoing state = act(summarize(x), s)
///   adjoint     act_adjoint is the transpose of act, or of its derivative (by differences, f64)
///   reads       outputs are those from no state plus the product with the state; local, finish
///   devices     summaries are the same bits on another device
///   forms       recurrent, chunk (1, 16, 37, 64, T tokens), parallel, auto: with gradients
///   heads, columns, merged   what strategies may do: half of the heads or value columns gives half
///               of the outputs; outputs over parts of the keys merge by their log-sums
///   split       apply and its derivative piece by piece, empty and one-token pieces included
///   decode      token by token
///   fold        the derivative over ranks: g_r, the fold of act_adjoint, then the pieces
///   mask        a padded token changes nothing
///   reset       packed documents = separate documents: outputs, states, gradients
///   forget      act(forget(f), s) = f; rows with boundaries, cut anywhere, each at places of its
///               own: act(summarize(x, starts), s) is the state that the local runner leaves
/// Relay families have no summaries and skip identity .. devices and fold.
std::vector<std::string> check_scan(const layers::ScanInfo& family, const ScanCase& scan_case,
                                    DType t);

}  // namespace ls::test

#define LS_SCAN_CASES(Type, name)                                          \
  static void ls_scan_cases_##Type(::ls::test::ScanCaseList<Type>& cases); \
  [[maybe_unused]] static const bool ls_scan_cases_added_##Type =          \
      ::ls::test::scan_cases().add(name, [] {                              \
        ::ls::test::ScanCaseList<Type> cases;                              \
        ls_scan_cases_##Type(cases);                                       \
        return std::move(cases.cases);                                     \
      });                                                                  \
  static void ls_scan_cases_##Type(::ls::test::ScanCaseList<Type>& cases)
