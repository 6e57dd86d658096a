#include "core/ops/rms_norm/rms_norm.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(RmsNorm, "rms_norm") {
  Draw draw("rms_norm");
  const auto add = [&](const std::string& name, const RmsNorm::In<Tensor>& in,
                       const RmsNorm::Attrs& attrs = {}) { cases.add(name, in, attrs); };
  // dx of one channel is the small difference eps / (x^2 + eps) of two large numbers.
  add("1 channel", {.x = draw.uniform({2, 3, 1}, 0.5, 2), .weight = draw.normal({1})}, {.eps = 1});
  for (const Index d : {2, 7, 8, 9, 33, 64}) {
    add(fmt::format("{} channels", d), {.x = draw.normal({2, 3, d}), .weight = draw.normal({d})});
  }
  // Rows that threads of a GPU hold, by the teams that do.
  for (const Index d : {72, 128, 384, 512, 1024, 2048, 4096}) {
    add(fmt::format("{} channels", d), {.x = draw.normal({9, d}), .weight = draw.normal({d})});
    add(fmt::format("{} channels, gated", d),
        {.x = draw.normal({3, 3, d}), .weight = draw.normal({d}), .z = draw.normal({3, 3, d})},
        {.norm_before_gate = true});
  }
  add("many rows", {.x = draw.normal({4300, 128}), .weight = draw.normal({128})});
  add("no weight", {.x = draw.normal({4, 9})});
  add("weight around 1", {.x = draw.normal({4, 9}), .weight = draw.normal({9})},
      {.weight_offset = 1});
  for (const bool before : {true, false}) {
    for (const bool sigmoid : {true, false}) {
      for (const Index group : {0, 4}) {
        const std::string kind =
            fmt::format("gate {} the norm, {}, groups of {}", before ? "after" : "before",
                        sigmoid ? "sigmoid" : "silu", group);
        const RmsNorm::Attrs attrs{.eps = 1e-3,
                                   .weight_offset = 0.5,
                                   .group_size = group,
                                   .norm_before_gate = before,
                                   .gate_sigmoid = sigmoid};
        add(kind,
            {.x = draw.normal({3, 12}), .weight = draw.normal({12}), .z = draw.normal({3, 12})},
            attrs);
        add(kind + ", no weight", {.x = draw.normal({3, 12}), .z = draw.normal({3, 12})}, attrs);
      }
    }
  }
  add("groups of 1", {.x = draw.normal({3, 5}), .weight = draw.normal({5})},
      {.eps = 0.1, .group_size = 1});
  add("tiny rows", {.x = draw.normal({3, 8}, 1e-3), .weight = draw.normal({8})}, {.eps = 1e-2});
  add("one row", {.x = draw.normal({6}), .weight = draw.normal({6})});
  add("no rows", {.x = draw.normal({0, 6}), .weight = draw.normal({6})});
  add("large", {.x = draw.normal({331, 193}), .weight = draw.normal({193})});
  add("large, gated",
      {.x = draw.normal({5, 61, 192}),
       .weight = draw.normal({192}),
       .z = draw.normal({5, 61, 192})},
      {.group_size = 64});
}

}  // namespace
}  // namespace ls::test
