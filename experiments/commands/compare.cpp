#include "experiments/compare.h"

#include <fmt/core.h>

#include "experiments/commands/command.h"
#include "experiments/progress.h"

namespace ls::experiments {
namespace {

class Compare final : public Command {
 public:
  static constexpr int kPlace = 25;
  void options(Options& o) override {
    o("a", a_,
      {.help = "folder of a run: one model and seed, of train or of a sweep", .required = true});
    o("b", b_, {.help = "folder of another", .required = true});
    o("--figure", figure_, {.help = "draw the curves of both into this file (.svg)"});
  }
  int run(parallel::RankEnv& env) override {
    if (env.world().rank() != 0) {
      return 0;
    }
    const ComparedRun a = load_compared(a_), b = load_compared(b_);
    fmt::print("{}", comparison(a, b, terminal_columns()));
    if (!figure_.empty()) {
      const bool suffix = figure_.ends_with(".svg");
      const std::string drawn =
          comparison_figure(a, b, suffix ? figure_.substr(0, figure_.size() - 4) : figure_);
      fmt::print("{}{}\n", drawn.empty() ? "" : "\nfigure      ", drawn);
    }
    return 0;
  }

 private:
  std::string a_, b_, figure_;
};

LS_COMMAND(Compare, "compare", "print what two runs differ in, and their curves");

}  // namespace
}  // namespace ls::experiments
