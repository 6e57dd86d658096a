// Pieces with carried states, and every form, give what the whole gives.
#include "tests/laws/mixers/checker.h"

namespace ls::test::mixers {

void Checker::split(const std::string& law, const std::vector<Index>& cuts) {
  same_runs(law, pass(*model_, main_ids(), &history_, {.cuts = cuts}), whole_);
  if (law == "split") {
    same_runs("split (from zero)", pass(*model_, main_ids(), nullptr, {.cuts = cuts}), from_zero_);
  }
}

void Checker::forms() {
  for (const Form form : {Form::kRecurrent, Form::kChunk, Form::kParallel}) {
    for (const Index chunk : {Index{0}, Index{1}, Index{5}, Index{16}, kTokens, Index{64}}) {
      if (chunk == 0 || form == Form::kChunk) {
        same_runs("forms", pass(*model_, main_ids(), &history_, {.form = form, .chunk = chunk}),
                  whole_);
      }
    }
  }
}

}  // namespace ls::test::mixers
