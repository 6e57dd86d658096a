#pragma once
// One family on one case: what the laws of scans (tests/support/scan_laws.h) share. Each group of
// laws is a file beside this one.
#include <string>
#include <vector>

#include "core/base/rng.h"
#include "tests/support/scan_laws.h"

namespace ls::test::scans {

using layers::is_sequence;
using layers::ScanInfo;
using layers::Tensors;

Tensor concat(const Tensors& parts, int axis);
Tensor random(Rng& rng, const Shape& shape, DType t);

/// One call, and the gradients of its inputs once they are asked for.
struct Run {
  Tensors in, out, din;
  const void* attrs = nullptr;
};

class Checker {
 public:
  Checker(const ScanInfo& family, const ScanCase& c, DType t);
  std::vector<std::string> run();

 private:
  // ---- running
  const void* attrs() const { return case_.attrs.get(); }
  Run apply(const Tensors& x, const Tensors& states, const void* attrs = nullptr);
  void derive(Run& r, const Tensors& dout) const;
  Tensors piece(const Tensors& x, Index a, Index b) const;
  Tensors joined(const Tensors& x, const Tensors& y) const;
  Tensors states_of(const Tensors& out) const;
  /// Cotangents of tokens [a, b) and of the outgoing states (absent: zero).
  Tensors cotangents(Index a, Index b, const Tensors& dstates) const;
  Tensors summarize(const Tensors& x) const { return family_.summarize(x, attrs()); }
  Tensors compose(const Tensors& a, const Tensors& b) const;
  /// The gradient of states shaped like `like`; growing families leave out old rows that no longer
  /// matter.
  Tensors act_adjoint(const Tensors& summary, const Tensors& states, const Tensors& dstates) const;
  /// The outputs of neighbouring pieces as one call would give them.
  Tensors assemble_outputs(const std::vector<Run>& runs) const;
  /// Sequence gradients end to end, the others summed; those of states from the first piece.
  Tensors assemble_gradients(const std::vector<Run>& runs) const;

  // ---- comparing
  void fault(const std::string& line) { faults_.push_back(line + " [" + case_.name + "]"); }
  void same(const std::string& what, const Tensor& got, const Tensor& want);
  void same(const std::string& what, const Tensors& got, const Tensors& want);
  void same_call(const std::string& what, const Tensors& out, const Tensors& din);
  void same_gradients(const std::string& what, const Tensors& din, const Tensors& want);

  // ---- summaries.cpp
  void summaries();
  void adjoint();
  void products();
  void devices();
  void adjoint_of_derivative(const Tensors& summary, const Tensors& s, const Tensors& d,
                             const Tensors& back, Index from);

  // ---- forms.cpp
  void reference();
  void derivative();
  void forms();

  // ---- split.cpp
  std::vector<std::vector<Index>> cut_lists();
  std::vector<Run> run_pieces(const std::vector<Index>& cuts);
  void split(const std::string& law, const std::vector<Index>& cuts);
  void fold(const std::vector<Index>& cuts);

  // ---- traits.cpp
  void traits();
  /// Half of these axes gives half of the outputs.
  void independent(const std::string& trait, const std::vector<std::string>& axes);
  void merged();

  // ---- documents.cpp
  void mask(Index a, Index b);
  /// Cuts of row 0 into documents, one of them empty and one of one token.
  std::vector<Index> documents();
  Tensors first_row(const Tensors& x) const;
  Tensors first_row_cotangents(Index a, Index b) const;
  void packed();
  void forget();
  /// Documents of families whose state keeps every token: `start` hides the earlier ones.
  void started();

  const ScanInfo& family_;
  const OpInfo& op_;
  const ScanCase& case_;
  DType type_;
  Rng rng_;
  bool rows_;  ///< states have a row for each token, none at first
  Index batch_ = 0, tokens_ = 0;
  double tolerance_ = 0;
  Tensors x_;  // without states
  std::vector<std::size_t> port_in_, port_out_;
  Tensors given_, zero_, start_, cotangent_;
  Run whole_;
  std::vector<std::string> faults_;
};

}  // namespace ls::test::scans
