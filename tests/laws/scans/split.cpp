// Pieces with the state carried are the whole, token by token too, and so are their gradients,
// passed back from piece to piece or folded over ranks.
#include "tests/laws/scans/checker.h"

#include <algorithm>

namespace ls::test::scans {

std::vector<std::vector<Index>> Checker::cut_lists() {
  std::vector<std::vector<Index>> lists;
  const Index t = tokens_;
  lists.push_back({0, 0, std::min<Index>(1, t), t / 2, t / 2, t, t});
  lists.push_back({0, t});
  for (int i = 0; i < 4; ++i) {
    lists.back().push_back(rng_.below(t + 1));
  }
  for (std::vector<Index>& cuts : lists) {
    std::sort(cuts.begin(), cuts.end());
  }
  return lists;
}

std::vector<Run> Checker::run_pieces(const std::vector<Index>& cuts) {
  std::vector<Run> runs;
  Tensors states = start_;
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    runs.push_back(apply(piece(x_, cuts[i], cuts[i + 1]), states));
    states = states_of(runs.back().out);
  }
  return runs;
}

void Checker::split(const std::string& law, const std::vector<Index>& cuts) {
  std::vector<Run> runs = run_pieces(cuts);
  Tensors dstates = states_of(cotangent_);
  for (std::size_t i = runs.size(); i-- > 0;) {
    derive(runs[i], cotangents(cuts[i], cuts[i + 1], dstates));
    dstates.clear();
    for (const std::size_t p : port_in_) {
      dstates.push_back(runs[i].din[p]);
    }
  }
  same_call(law, assemble_outputs(runs), assemble_gradients(runs));
}

void Checker::fold(const std::vector<Index>& cuts) {
  std::vector<Run> runs;
  std::vector<Tensors> summaries;
  Tensors states = start_;
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    const Tensors x = piece(x_, cuts[i], cuts[i + 1]);
    summaries.push_back(summarize(x));
    runs.push_back(apply(x, states));
    states = family_.act(summaries.back(), states, attrs());
  }
  std::vector<Tensors> lambda(runs.size() + 1);
  lambda.back() = states_of(cotangent_);
  for (std::size_t i = runs.size(); i-- > 0;) {
    derive(runs[i], cotangents(cuts[i], cuts[i + 1], {}));
    Tensors in;
    for (const std::size_t p : port_in_) {
      in.push_back(runs[i].in[p]);
    }
    lambda[i] = act_adjoint(summaries[i], in, lambda[i + 1]);
    for (std::size_t p = 0; p < port_in_.size(); ++p) {
      lambda[i][p].add_(runs[i].din[port_in_[p]]);
    }
  }
  for (std::size_t i = 0; i < runs.size(); ++i) {
    derive(runs[i], cotangents(cuts[i], cuts[i + 1], lambda[i + 1]));
    for (std::size_t p = 0; p < port_in_.size(); ++p) {
      same(fmt::format("fold (piece {})", i), lambda[i][p], runs[i].din[port_in_[p]]);
    }
  }
  same_call("fold", assemble_outputs(runs), assemble_gradients(runs));
}

}  // namespace ls::test::scans
