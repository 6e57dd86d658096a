// Pieces with carried states, and every form, give what the whole gives.
#include "tests/laws/mixers/checker.h"

#include "autograd/tape.h"

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

void Checker::taken() {
  const ag::NoGrad no_grad;
  // Longer than the room that a cache is given at first.
  constexpr Index kSteps = 3 * kTokens;
  const Tensor ids = main_ids();
  ModelState shared = history_.mapped([](const Tensor& t) { return t.clone(); });
  ModelState alone = history_.mapped([](const Tensor& t) { return t.clone(); });
  const ModelState kept = alone;  // its tensors are held twice at first
  for (Index i = 0; i < kSteps; ++i) {
    const Index t = i % kTokens;
    const Tensor token = ids.slice(1, t, t + 1).contiguous();
    SeqContext first(kRows, 1, {.incoming = &shared, .keep_states = true});
    SeqContext second(kRows, 1, {.taken = &alone, .keep_states = true});
    same("taken", "output", model_->hidden({token, {}}, second).value(),
         model_->hidden({token, {}}, first).value(), 0);
    shared = std::move(first.outgoing());
    alone = std::move(second.outgoing());
    if (i % 10 == 0 || i + 1 == kSteps) {
      same_states("taken", alone, shared, 0);
    }
  }
  same_states("taken (what others hold)", kept, history_, 0);
}

}  // namespace ls::test::mixers
