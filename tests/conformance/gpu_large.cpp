// Kernels of a GPU that only calls larger than the cases of their ops reach.
#include <doctest/doctest.h>

#include "core/ops/decayed_linear/decayed_linear.h"
#include "core/ops/gru/gru.h"
#include "core/ops/mlstm/mlstm.h"
#include "core/ops/short_conv/short_conv.h"
#include "tests/support/gpu.h"
#include "tests/support/op_checks.h"
#include "tests/support/skip.h"

using namespace ls;
using namespace ls::test;

namespace {

template <class Op>
void check(Device& device, const CaseList<Op>& list) {
  for (const OpCase& c : list.cases) {
    for (const std::string& fault : check_op_on(device, op_info<Op>(), c)) {
      FAIL_CHECK(fault);
    }
  }
}

/// Segments whose states are summed in two pieces: half as many heads as processors.
void add_pieces(CaseList<DecayedLinear>& cases) {
  Draw draw("decayed_linear, large");
  DecayedLinear::In<Tensor> in{.q = draw.normal({1, 1024, 1, 8}),
                               .k = draw.normal({1, 1024, 1, 8}, 0.1),
                               .v = draw.normal({1, 1024, 60, 8}),
                               .g = draw.uniform({1, 1024, 60}, -0.02, 0),
                               .s0 = draw.normal({1, 60, 8, 8}, 0.1)};
  cases.add("segments of two pieces", in, {{}, 0.3});
  in.g = Tensor();
  in.decay = draw.uniform({60}, -0.02, 0);
  cases.add("segments of two pieces, constant decay", in, {{}, 0.3});
}

/// Documents of many chunks in rows of several.
const Tensor long_documents = Tensor::from<std::int64_t>({0, 700, 705, 1000, 1000, 1900, 2000});
void add_documents(CaseList<DecayedLinear>& cases) {
  Draw draw("decayed_linear, documents");
  DecayedLinear::In<Tensor> in{.q = draw.normal({2, 1000, 2, 24}),
                               .k = draw.normal({2, 1000, 1, 24}, 0.1),
                               .v = draw.normal({2, 1000, 2, 72}),
                               .g = draw.uniform({2, 1000, 2}, -0.02, 0),
                               .s0 = draw.normal({2, 2, 24, 72}, 0.1),
                               .offsets = long_documents};
  cases.add("long documents, gate by head", in, {{}, 0.3});
  in.g = Tensor();
  in.gk = draw.uniform({2, 1000, 2, 24}, -0.02, 0);
  cases.add("long documents, gates by channel", in, {{}, 0.3})
      .slack(2, "gradients of gates are differences of sums that cancel");
}
void add_documents(CaseList<Mlstm>& cases) {
  Draw draw("mlstm, documents");
  cases.add("long documents", {.q = draw.uniform({2, 1000, 1, 24}, 0.1, 1),
                               .k = draw.uniform({2, 1000, 1, 24}, 0.1, 1),
                               .v = draw.normal({2, 1000, 1, 40}),
                               .i = draw.normal({2, 1000, 1}),
                               .f = draw.uniform({2, 1000, 1}, -0.02, 0),
                               .offsets = long_documents});
}

/// Chains so few and long that backward's states are made in segments.
void add_segments(CaseList<DecayedLinear>& cases) {
  Draw draw("decayed_linear, segments");
  DecayedLinear::In<Tensor> in{.q = draw.normal({1, 1700, 2, 24}),
                               .k = draw.normal({1, 1700, 1, 24}, 0.1),
                               .v = draw.normal({1, 1700, 2, 72}),
                               .g = draw.uniform({1, 1700, 2}, -0.02, 0),
                               .s0 = draw.normal({1, 2, 24, 72}, 0.1)};
  cases.add("segments backward, gate by head", in, {{}, 0.3});
  in.g = Tensor();
  in.gk = draw.uniform({1, 1700, 2, 24}, -0.02, 0);
  cases.add("segments backward, gates by channel", in, {{}, 0.3})
      .slack(2, "gradients of gates are differences of sums that cancel");
}
void add_segments(CaseList<Mlstm>& cases) {
  Draw draw("mlstm, segments");
  cases.add("segments backward", {.q = draw.uniform({1, 1700, 1, 24}, 0.1, 1),
                                  .k = draw.uniform({1, 1700, 1, 24}, 0.1, 1),
                                  .v = draw.normal({1, 1700, 1, 40}),
                                  .i = draw.normal({1, 1700, 1}),
                                  .f = draw.uniform({1, 1700, 1}, -0.02, 0),
                                  .c0 = draw.normal({1, 1, 24, 40}),
                                  .n0 = draw.uniform({1, 1, 24}, 0, 1),
                                  .m0 = draw.normal({1, 1})});
}

/// More units than two a processor.
void add_units(CaseList<Gru>& cases) {
  Draw draw("gru, large");
  for (const auto& [d, reset] :
       {std::pair(Index{268}, Reset::kAfter), std::pair(Index{268}, Reset::kBefore),
        std::pair(Index{536}, Reset::kAfter), std::pair(Index{800}, Reset::kBefore)}) {
    Gru::Attrs attrs;
    attrs.reset = reset;
    cases.add(fmt::format("{} units, reset {}", d, enum_name(reset)),
              {.gx = draw.normal({2, 3, 3 * d}),
               .r = draw.normal({1, 3 * d, d}, 0.04),
               .bias = draw.normal({3 * d}),
               .h0 = draw.uniform({2, d}, -1, 1)},
              attrs);
  }
}

/// Strips of more than eight tokens.
void add_strips(CaseList<ShortConv>& cases) {
  Draw draw("short_conv, large");
  ShortConv::In<Tensor> in{.x = draw.normal({1, 9400, 512}),
                           .weight = draw.normal({512, 4}),
                           .bias = draw.normal({512}),
                           .s0 = draw.normal({1, 512, 3})};
  ShortConv::Attrs attrs;
  attrs.silu = true;
  in.offsets = Tensor::from<std::int64_t>({0, 1, 8, 9, 17, 18, 4000, 4009, 9399, 9400});
  cases.add("long strips, packed", in, attrs);
}

}  // namespace

TEST_SUITE("conformance") {
  TEST_CASE("large calls on a GPU") {
    Device* const device = gpu();
    if (!device) {
      skipped("large calls on a GPU: there is none that this program can use");
      return;
    }
    SUBCASE("decayed_linear") {
      CaseList<DecayedLinear> cases;
      add_pieces(cases);
      add_documents(cases);
      add_segments(cases);
      check(*device, cases);
    }
    SUBCASE("gru") {
      CaseList<Gru> cases;
      add_units(cases);
      check(*device, cases);
    }
    SUBCASE("mlstm") {
      CaseList<Mlstm> cases;
      add_documents(cases);
      add_segments(cases);
      check(*device, cases);
    }
    SUBCASE("short_conv") {
      CaseList<ShortConv> cases;
      add_strips(cases);
      check(*device, cases);
    }
  }
}
