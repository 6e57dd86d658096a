// The same bits from a state that was written and read, and from blocks that run again.
#include "tests/laws/mixers/checker.h"

#include <unistd.h>

#include <filesystem>

#include "autograd/remake.h"
#include "autograd/tape.h"
#include "experiments/checkpoint.h"

namespace ls::test::mixers {

void Checker::save() {
  const ag::NoGrad no_grad;
  static int count = 0;
  const auto path = std::filesystem::temp_directory_path() /
                    fmt::format("longscan_state_{}_{}.h5", getpid(), count++);
  experiments::CheckpointData data;
  data.interface = model_->interface();
  data.carried = history_;
  experiments::save_checkpoint(path.string(), model_->parameters(), data);
  const ModelState back = experiments::load_checkpoint(path.string()).data.carried.value();
  std::filesystem::remove(path);
  same_states("save", back, history_, 0);
  SeqContext seq(kRows, kTokens, {.incoming = &back});
  same("save", "output", model_->logits(model_->hidden({main_ids(), {}}, seq)).value(), whole_.out,
       0);
}

void Checker::recompute() {
  const auto again = build(case_.config, dtype_, true);
  for (const bool keep : {true, false}) {
    // Gradients do not flow through carried states there.
    const Way way{.state_leaves = false, .state_cotangents = false, .keep_states = keep};
    same_runs("recompute", pass(*again, main_ids(), &history_, way),
              pass(*model_, main_ids(), &history_, way), 0);
  }
}

void Checker::remake() {
  // Bytes given back between the passes, with products no fewer. What reads turned tokens alone
  // keeps no outputs that could be made again.
  Index least = traits_of(case_).causal ? 1 : 0;
  for (const Remake level : {Remake::kOutputs, Remake::kProducts}) {
    layers::ModelConfig config = case_.config;
    config.remake = level;
    const auto again = build(config, dtype_);
    for (const bool keep : {true, false}) {
      const Way way{.keep_states = keep};
      const Index before = ag::Remaking::given_back();
      const Run run = pass(*again, main_ids(), &history_, way);
      const Index bytes = ag::Remaking::given_back() - before;
      if (bytes < least) {
        fault("remake", fmt::format("{}: {} bytes were given back, at least {} are expected",
                                    enum_name(level), bytes, least));
      }
      least = level == Remake::kOutputs ? bytes : least;
      same_runs("remake", run, pass(*model_, main_ids(), &history_, way), 0);
    }
  }
}

}  // namespace ls::test::mixers
