#include "core/ops/add_rms_norm/add_rms_norm.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(AddRmsNorm, "add_rms_norm") {
  Draw draw("add_rms_norm");
  const auto add = [&](const std::string& name, const Shape& shape, double scale = 1) {
    cases.add(name, {.x = draw.normal(shape, scale),
                     .residual = draw.normal(shape, scale),
                     .weight = draw.normal({shape.back()})});
  };
  for (const Index d : {1, 2, 7, 8, 9, 33, 64}) {
    add(fmt::format("{} channels", d), {2, 3, d});
  }
  // Rows that threads of a GPU hold, by the teams that do.
  for (const Index d : {72, 128, 384, 512, 1024, 2048, 4096}) {
    add(fmt::format("{} channels", d), {9, d});
  }
  add("many rows", {4300, 64});
  add("small", {3, 8}, 0.05);
  add("one row", {6});
  add("no rows", {0, 6});
  add("large", {331, 193});
}

}  // namespace
}  // namespace ls::test
