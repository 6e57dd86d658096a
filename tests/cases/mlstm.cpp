// What the scan cases (mlstm_scan.cpp) leave out: packed documents, every form, no tokens.
#include "core/ops/mlstm/mlstm.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(Mlstm, "mlstm") {
  Draw draw("mlstm, options");
  // Queries and keys of one sign, so that strong gates do not divide by what cancels.
  const auto inputs = [&](Index b, Index t, Index n, Index dk, Index dv) {
    return Mlstm::In<Tensor>{.q = draw.uniform({b, t, 2, dk}, 0.1, 1),
                             .k = draw.uniform({b, t, 2, dk}, 0.1, 1),
                             .v = draw.normal({b, t, 2, dv}),
                             .i = draw.normal({b, t, 2}, 2),
                             .f = draw.uniform({b, t, 2}, -0.5, 0),
                             .c0 = draw.normal({n, 2, dk, dv}),
                             .n0 = draw.uniform({n, 2, dk}, 0, 1),
                             .m0 = draw.normal({n, 2})};
  };
  const auto wide = inputs(2, 37, 2, 19, 85);
  auto packed = inputs(2, 45, 3, 5, 7);
  packed.offsets = Tensor::from<std::int64_t>({0, 20, 20, 21, 45, 70, 90, 90});
  auto rows = packed;  // nothing but zeros to start from inside a row
  for (Tensor* const s : {&rows.c0, &rows.n0, &rows.m0}) {
    *s = s->slice(0, 0, 2).contiguous();
  }
  auto without = packed;
  without.c0 = without.n0 = without.m0 = Tensor();
  auto closed = packed;  // below and above 1
  closed.q = draw.normal({2, 45, 2, 5});
  closed.k = draw.normal({2, 45, 2, 5});
  closed.i = draw.uniform({2, 45, 2}, -4, -1);
  closed.n0 = draw.normal({3, 2, 5});
  closed.m0 = draw.uniform({3, 2}, -3, 0);
  auto sigmoid = closed;
  sigmoid.i = draw.uniform({2, 45, 2}, -3, 0);
  sigmoid.m0 = Tensor();
  for (const Form form : {Form::kAuto, Form::kRecurrent, Form::kChunk, Form::kParallel}) {
    Mlstm::Attrs attrs;
    attrs.scale = 0.5;
    attrs.form = form;
    attrs.chunk = form == Form::kChunk ? 8 : 0;
    const std::string kind = fmt::format("form {}, ", static_cast<int>(form));
    cases.add(kind + "one row", inputs(1, 41, 1, 5, 7), attrs);
    cases.add(kind + "wide", wide, attrs);
    cases.add(kind + "packed", packed, attrs);
    cases.add(kind + "packed, no state", without, attrs);
    cases.add(kind + "packed, states of rows", rows, attrs);
    cases.add(kind + "weak gates", closed, attrs);
    cases.add(kind + "no tokens", inputs(2, 0, 2, 5, 7), attrs);
    cases.add(kind + "many rows", inputs(6, 70, 6, 5, 7), attrs);
    attrs.eps = 0.1;
    cases.add(kind + "eps", packed, attrs);
    cases.add(kind + "eps, weak gates", closed, attrs);
    attrs.stabilize = false;
    cases.add(kind + "sigmoid gate", sigmoid, attrs);
    attrs.normalize = false;
    cases.add(kind + "sigmoid gate, not normalised", sigmoid, attrs);
  }
  // Sizes of kernels in chunks of 64, gates of three strengths.
  Mlstm::Attrs attrs;
  attrs.scale = 0.1;
  const auto sized = [&](Index b, Index t, Index dk, Index dv, double least) {
    auto in = inputs(b, t, b, dk, dv);
    in.f = draw.uniform({b, t, 2}, least, 0);
    return in;
  };
  const auto fresh = [](Mlstm::In<Tensor> in) {
    in.c0 = in.n0 = in.m0 = Tensor();
    return in;
  };
  for (const double least : {-0.02, -0.5, -6.0}) {
    const std::string gates = fmt::format(", gates to {}", least);
    cases.add("128" + gates, sized(1, 193, 128, 128, least), attrs);
    cases.add("128, no state" + gates, fresh(sized(1, 150, 128, 128, least)), attrs);
    cases.add("64" + gates, sized(2, 130, 64, 64, least), attrs);
    auto documents = sized(2, 133, 72, 40, least);
    documents.offsets = Tensor::from<std::int64_t>({0, 70, 70, 71, 133, 197, 266, 266});
    cases.add("72 by 40, packed" + gates, documents, attrs);
    cases.add("72 by 40, packed, no state" + gates, fresh(documents), attrs);
  }
  auto signs = sized(2, 140, 32, 64, -0.5);
  signs.q = draw.normal({2, 140, 2, 32});
  signs.k = draw.normal({2, 140, 2, 32});
  signs.i = draw.uniform({2, 140, 2}, -4, -1);
  signs.m0 = draw.uniform({2, 2}, -3, 0);
  cases.add("32 by 64, weak gates", signs, attrs);
  attrs.eps = 0.1;
  cases.add("32 by 64, weak gates, eps", signs, attrs);
  attrs.stabilize = false;
  signs.m0 = Tensor();
  cases.add("32 by 64, sigmoid gate", signs, attrs);
  attrs.normalize = false;
  cases.add("32 by 64, sigmoid gate, not normalised", signs, attrs);
  attrs = {};
  attrs.scale = 0.1;
  cases.add("64, long", sized(1, 1030, 64, 64, -0.02), attrs);  // in segments
}

}  // namespace
}  // namespace ls::test
