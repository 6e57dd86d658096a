#include <doctest/doctest.h>

#include "core/op/op.h"
#include "core/op/report.h"
#include "core/ops/attention/attention.h"
#include "core/ops/decayed_linear/decayed_linear.h"
#include "core/ops/delta_rule/delta_rule.h"

namespace ls::ops {
namespace {

Tensor ones(const Shape& shape) {
  return Tensor::full(shape, DType::kF32, 1);
}

/// The form that a call of `tokens` tokens reports.
std::string linear_form(Index tokens, Form form, Index chunk = 0, const Tensor& offsets = {}) {
  DecayedLinear::Attrs attrs;
  attrs.form = form;
  attrs.chunk = chunk;
  const Tensor x = ones({1, tokens, 1, 4});
  const OpReports reports;
  call_op<DecayedLinear>({.q = x, .k = x, .v = x, .offsets = offsets}, attrs);
  CHECK(reports.forms().size() == 1);
  return reports.forms().at("decayed_linear");
}

TEST_SUITE("unit") {
  TEST_CASE("op forms: the kernel says which it took") {
    CHECK(linear_form(1, Form::kAuto) == "recurrent");
    CHECK(linear_form(70, Form::kRecurrent) == "recurrent");
    CHECK(linear_form(70, Form::kAuto) == "chunk of 32");
    CHECK(linear_form(70, Form::kChunk, 16) == "chunk of 16");
    CHECK(linear_form(70, Form::kParallel) == "parallel");
    // Documents are sequences of their own.
    const Tensor lines = Tensor::from(std::vector<std::int64_t>{0, 1, 2, 3});
    CHECK(linear_form(3, Form::kAuto, 0, lines) == "recurrent");
    const Tensor parts = Tensor::from(std::vector<std::int64_t>{0, 20, 70});
    CHECK(linear_form(70, Form::kChunk, 64, parts) == "chunk of 50");
  }

  TEST_CASE("op forms: the inner listener hears, each op by its name") {
    const Tensor x = ones({1, 5, 1, 4});
    const OpReports outer;
    {
      const OpReports inner;
      call_op<DeltaRule>({.q = x, .k = x, .v = x, .beta = ones({1, 5, 1})});
      call_op<Attention>({.q = x, .k = x, .v = x});
      CHECK(inner.forms() == std::map<std::string, std::string>{{"delta_rule", "chunk of 5"},
                                                                {"attention", "blocks"}});
    }
    CHECK(outer.forms().empty());
  }
}

}  // namespace
}  // namespace ls::ops
