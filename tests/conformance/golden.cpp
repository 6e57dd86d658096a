// Our ops against results of independent implementations: the small set in tests/golden.
#include <doctest/doctest.h>

#include "tests/support/golden_laws.h"
#include "tests/support/paths.h"

using namespace ls;
using namespace ls::test;

namespace {
std::string folder() {
  return source_dir() + "/tests/golden";
}
}  // namespace

TEST_SUITE("conformance") {
  TEST_CASE("golden files") {
    check_golden_files(known_golden_files(folder()));
  }

  TEST_CASE("golden files: a wrong number in any output or gradient is noticed") {
    check_spoiled_golden_files(known_golden_files(folder()));
  }

  TEST_CASE("golden files: every adapter has its file, every promised op its adapter") {
    check_golden_adapters(folder());
    for (const char* op :
         {"linear_attn", "retnet",        "simple_gla",     "deltanet",   "gated_deltanet",
          "short_conv",  "token_shift",   "attention",      "lstm",       "rope",
          "rms_norm",    "layer_norm",    "group_norm",     "l2_norm",    "softmax",
          "activations", "cross_entropy", "embedding",      "mamba_gate", "feature_map",
          "adamw",       "sgd",           "clip_grad_norm", "lr_schedule"}) {
      CHECK_MESSAGE(golden::golden_registry().find(op), "no adapter for " << op);
    }
  }
}
