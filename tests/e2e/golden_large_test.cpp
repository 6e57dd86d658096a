// longscan check on the large set of reference results. Skipped where it is not there.
#include <doctest/doctest.h>

#include "tests/e2e/program.h"
#include "tests/support/paths.h"
#include "tests/support/skip.h"

using namespace ls;

TEST_SUITE("e2e") {
  TEST_CASE("check: the reference files of every op that we have") {
    const std::string large = test::large_golden_dir();
    if (large.empty()) {
      test::skipped(
          "the large set of golden files is not beside the checkout (LONGSCAN_GOLDEN names it)");
      return;
    }
    const testing::Workplace w;
    std::vector<std::string> arguments = {"check", "--quiet"};
    for (const char* op :
         {"linear_attn", "retnet",         "simple_gla", "deltanet",   "gated_deltanet",
          "short_conv",  "token_shift",    "attention",  "lstm",       "rope",
          "rms_norm",    "layer_norm",     "group_norm", "l2_norm",    "activations",
          "softmax",     "cross_entropy",  "embedding",  "mamba_gate", "adamw",
          "sgd",         "clip_grad_norm", "lr_schedule"}) {
      arguments.push_back(large + "/ops/" + op + ".h5");
    }
    const testing::Outcome out = w.run(arguments);
    CHECK_MESSAGE(out.status == 0, out.text);
    CHECK(out.text.find(", 0 failed") != std::string::npos);
  }
}
