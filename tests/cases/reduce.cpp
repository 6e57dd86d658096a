#include "core/ops/reduce/reduce.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(Reduce, "reduce") {
  Draw draw("reduce");
  using Kind = Reduce::Kind;
  for (const Kind kind : {Kind::kSum, Kind::kMean, Kind::kMax}) {
    const std::string name = fmt::format("kind {}, ", static_cast<int>(kind));
    const std::vector<std::vector<int>> axes = {{},     {0},    {1},    {-1},
                                                {0, 2}, {0, 1}, {1, 2}, {0, 1, 2}};
    for (std::size_t i = 0; i < axes.size(); ++i) {
      cases.add(fmt::format("{}axes #{}", name, i), {.x = draw.distinct({3, 4, 5})},
                {kind, axes[i], i % 2 == 0});
    }
    cases.add(name + "rank 0", {.x = draw.normal({})}, {.kind = kind});
    cases.add(name + "axes of 1", {.x = draw.normal({1, 3, 1})}, {.kind = kind, .axes = {0, 2}});
    cases.add(name + "no rows", {.x = draw.normal({0, 3})}, {.kind = kind, .axes = {1}});
    cases.add(name + "large, rows", {.x = draw.normal({300, 193})}, {.kind = kind, .axes = {1}})
        .slack(3, "sums that cancel")
        .not_smooth();
    cases.add(name + "large, columns", {.x = draw.normal({300, 193})}, {.kind = kind, .axes = {0}})
        .slack(3, "sums that cancel")
        .not_smooth();
    cases
        .add(name + "large, wide columns", {.x = draw.normal({40, 2100})},
             {.kind = kind, .axes = {0}})
        .slack(3, "sums that cancel")
        .not_smooth();
    cases
        .add(name + "large, outer and inner axes", {.x = draw.normal({33, 41, 37})},
             {.kind = kind, .axes = {0, 2}})
        .slack(3, "sums that cancel")
        .not_smooth();
    cases.add(name + "large, all", {.x = draw.normal({70001})}, {.kind = kind})
        .slack(30, "a sum that cancels")
        .not_smooth();
  }
  cases
      .add("equal maxima", {.x = Tensor::from<double>({1, 3, 3, 2, 2, 2}, {2, 3})},
           {.kind = Kind::kMax, .axes = {1}})
      .not_smooth();
  cases.add("a sum of nothing", {.x = draw.normal({3, 0})}, {.axes = {1}});
}

}  // namespace
}  // namespace ls::test
