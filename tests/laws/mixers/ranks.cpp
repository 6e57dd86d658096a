// A sequence split over ranks gives what one rank gives.
#include "core/comm/thread_comm.h"
#include "parallel/sequence/runner.h"
#include "tests/laws/mixers/checker.h"

namespace ls::test::mixers {
namespace {

constexpr std::array<Index, 4> kOneEmpty = {0, 9, 9, kTokens}, kUneven = {0, 9, 17, kTokens};
constexpr int kRanks = 3;

DocumentStarts starts_of(const layers::Stretch& stretch) {
  DocumentStarts out;
  for (Index r = 0; r < stretch.rows(); ++r) {
    out.emplace_back(stretch.starts(r).begin(), stretch.starts(r).end());
  }
  return out;
}

Tensor cotangent(DType type) {
  return normal({kRows, kTokens, kVocab}, type, "outputs");
}

/// Adds what another rank has of the same tensors; undefined is zero.
void add(Tensor& to, const Tensor& more) {
  if (!to.defined()) {
    to = more;
  } else if (more.defined()) {
    to = to.clone();
    to.add_(more);
  }
}

}  // namespace

void Checker::ranks() {
  ranks("ranks", {}, false, {kOneEmpty});
  ranks("ranks (blocks run again)", {}, true, {kOneEmpty});
  // One row continues a document, the other begins two.
  ranks("ranks (documents)", {{4, 9}, {0, 12}}, false, {kOneEmpty});
}

std::vector<std::string> Checker::run_ranks_by(const std::string& strategy) {
  if (prepare()) {
    law("ranks", [&] {
      ranks("ranks", {}, false, {kUneven, strategy});
      ranks("ranks (documents)", {{8, 17}, {0, 10, 11}}, false, {kUneven, strategy});
    });
  }
  return faults_;
}

void Checker::ranks(const std::string& law, const DocumentStarts& documents, bool recompute,
                    const Split& split) {
  const auto& cuts = split.cuts;
  const Run want = pass(*model_, main_ids(), &history_,
                        {.state_leaves = !recompute,
                         .state_cotangents = !recompute,
                         .documents = documents.empty() ? nullptr : &documents});
  const layers::Stretch all(kRows, kTokens, {documents, history_.position});
  std::vector<Run> runs(kRanks);
  run_ranks(kRanks, [&](Communicator& comm) {
    const auto r = static_cast<std::size_t>(comm.rank());
    const Index a = cuts[r], b = cuts[r + 1];
    const layers::Stretch mine = all.piece(a, b);
    const DocumentStarts starts = starts_of(mine);
    std::vector<Index> seen, left;
    for (Index row = 0; row < kRows; ++row) {
      seen.push_back(mine.seen(row));
      left.push_back(mine.left(row));
    }
    layers::LocalRunner local;
    parallel::SplitRunner runner(comm, local, split.strategy);
    const auto model = build(case_.config, dtype_, recompute);
    runs[r] = pass(
        *model, main_ids().slice(1, a, b).contiguous(), &history_,
        {.state_leaves = !recompute,
         .state_cotangents = r == 0 && !recompute,
         .documents = documents.empty() ? nullptr : &starts,
         .seen = &seen,
         .left = &left,
         .runner = &runner},
        [&](const Tensor& like) { return cotangent(like.dtype()).slice(1, a, b).contiguous(); });
    runner.check_taken();
  });
  Run got = runs.back();
  got.out = Tensor::empty(want.out.shape(), want.out.dtype());
  for (std::size_t r = 0; r < runs.size(); ++r) {
    got.out.slice(1, cuts[r], cuts[r + 1]).copy_(runs[r].out);
    for (std::size_t i = 0; r + 1 < runs.size() && i < got.gradients.size(); ++i) {
      add(got.gradients[i], runs[r].gradients[i]);
    }
    for (auto& [name, d] : got.into) {
      if (r + 1 < runs.size()) {
        add(d, runs[r].into.at(name));
      }
    }
  }
  same_runs(law, got, want);
}

}  // namespace ls::test::mixers
