#include "core/ops/matmul/matmul.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(Matmul, "matmul") {
  Draw draw("matmul");
  const auto add = [&](const std::string& name, const std::vector<Index>& lead, Index m, Index n,
                       Index k, const Matmul::Attrs& attrs) {
    const auto shape = [&](Index rows, Index cols, bool transposed) {
      Shape s{std::span<const Index>(lead)};
      s.push_back(transposed ? cols : rows);
      s.push_back(transposed ? rows : cols);
      return s;
    };
    cases.add(name,
              {.a = draw.normal(shape(m, k, attrs.trans_a)),
               .b = draw.normal(shape(k, n, attrs.trans_b))},
              attrs);
  };
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      const Matmul::Attrs attrs{ta, tb, ta == tb ? 1.0 : -0.5};
      const std::string kind = fmt::format("{}{}, ", ta ? "T" : "N", tb ? "T" : "N");
      add(kind + "1 1 1", {}, 1, 1, 1, attrs);
      add(kind + "3 4 5", {}, 3, 4, 5, attrs);
      add(kind + "row by matrix", {2}, 1, 9, 7, attrs);
      add(kind + "matrix by column", {2}, 9, 1, 7, attrs);
      add(kind + "outer", {2}, 9, 8, 1, attrs);
      add(kind + "stack", {2, 3}, 8, 17, 16, attrs);
      add(kind + "large", {3}, 65, 70, 129, attrs);
    }
  }
  add("no matrices", {0}, 3, 4, 5, {});
  add("no rows", {2}, 0, 4, 5, {});
  add("nothing to sum", {2}, 3, 4, 0, {});
}

}  // namespace
}  // namespace ls::test
