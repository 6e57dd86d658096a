// What the scan cases (delta_scan.cpp) leave out: packed documents, every form, no tokens.
#include "core/ops/delta_rule/delta_rule.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(DeltaRule, "delta_rule") {
  Draw draw("delta_rule, options");
  const auto inputs = [&](Index b, Index t, Index n) {
    return DeltaRule::In<Tensor>{.q = draw.normal({b, t, 2, 5}),
                                 .k = draw.unit_rows({b, t, 2, 5}),
                                 .v = draw.normal({b, t, 4, 7}),
                                 .beta = draw.uniform({b, t, 4}, 0, 1),
                                 .g = draw.uniform({b, t, 4}, -0.5, 0),
                                 .s0 = draw.normal({n, 4, 5, 7})};
  };
  // Columns of the state: whole tiles, vectors and a rest.
  DeltaRule::In<Tensor> wide{.q = draw.normal({2, 37, 1, 19}),
                             .k = draw.unit_rows({2, 37, 1, 19}),
                             .v = draw.normal({2, 37, 2, 85}),
                             .beta = draw.uniform({2, 37, 2}, 0, 1),
                             .g = draw.uniform({2, 37, 2}, -0.5, 0),
                             .s0 = draw.normal({2, 2, 19, 85})};
  auto packed = inputs(2, 45, 3);
  packed.offsets = Tensor::from<std::int64_t>({0, 20, 20, 21, 45, 70, 90, 90});
  const auto by_channel = [&](DeltaRule::In<Tensor> in) {  // gates by channel, with and without g
    const Index b = in.v.size(0), t = in.v.size(1), heads = in.v.size(2);
    in.gk = draw.uniform({b, t, heads, in.k.size(3)}, -0.5, 0);
    return in;
  };
  const auto low_rank = [&](DeltaRule::In<Tensor> in) {
    in.beta = Tensor();
    in.a = draw.normal(in.k.shape(), 0.4);
    in.b = draw.normal(in.k.shape(), 0.4);
    return in;
  };
  auto rows = packed;  // nothing but zeros to start from inside a row
  rows.s0 = rows.s0.slice(0, 0, 2).contiguous();
  auto without = packed;
  without.s0 = without.g = Tensor();
  for (const Form form : {Form::kAuto, Form::kRecurrent, Form::kChunk, Form::kParallel}) {
    DeltaRule::Attrs attrs;
    attrs.scale = 0.3;
    attrs.form = form;
    attrs.chunk = form == Form::kChunk ? 8 : 0;
    const std::string kind = fmt::format("form {}, ", static_cast<int>(form));
    cases.add(kind + "one row", inputs(1, 41, 1), attrs);
    cases.add(kind + "wide", wide, attrs);
    cases.add(kind + "packed", packed, attrs);
    cases.add(kind + "packed, states of rows", rows, attrs);
    cases.add(kind + "gates by channel, packed, states of rows", by_channel(rows), attrs);
    cases.add(kind + "gates by channel, wide", by_channel(wide), attrs);
    cases.add(kind + "gates by channel, packed", by_channel(packed), attrs);
    cases.add(kind + "gates by channel, no state, no gate by head", by_channel(without), attrs);
    cases.add(kind + "gates by channel, no tokens", by_channel(inputs(2, 0, 2)), attrs);
    cases.add(kind + "low rank, wide", low_rank(by_channel(wide)), attrs);
    cases.add(kind + "low rank, packed", low_rank(by_channel(packed)), attrs);
    cases.add(kind + "low rank, no state, no gate", low_rank(without), attrs);
    cases.add(kind + "low rank, gate by head", low_rank(inputs(1, 33, 1)), attrs);
    cases.add(kind + "packed, no state, no gate", without, attrs);
    cases.add(kind + "no tokens", inputs(2, 0, 2), attrs);
    cases.add(kind + "many rows", inputs(6, 70, 6), attrs);
    attrs.qk_l2norm = true;
    cases.add(kind + "normalised", inputs(2, 20, 2), attrs);
    cases.add(kind + "gates by channel, normalised", by_channel(inputs(2, 20, 2)), attrs);
    cases.add(kind + "low rank, normalised", low_rank(by_channel(inputs(2, 20, 2))), attrs);
  }

  // Sizes that GPUs have kernels of their own for.
  const auto sized = [&](Index b, Index t, Index h, Index hv, Index dk, Index dv) {
    return DeltaRule::In<Tensor>{.q = draw.normal({b, t, h, dk}),
                                 .k = draw.unit_rows({b, t, h, dk}),
                                 .v = draw.normal({b, t, hv, dv}),
                                 .beta = draw.uniform({b, t, hv}, 0, 1),
                                 .g = draw.uniform({b, t, hv}, -0.5, 0),
                                 .s0 = draw.normal({b, hv, dk, dv}, 0.1)};
  };
  // Of some ten thousand elements the worst is several roundings off; relative RMS is .003 to .005.
  constexpr const char* rounded = "kernels for sm_90a keep states, scores and X of chunks in bf16";
  DeltaRule::Attrs attrs;
  attrs.scale = 0.1;
  auto documents = sized(1, 150, 1, 2, 64, 64);
  documents.offsets = Tensor::from<std::int64_t>({0, 70, 150});
  documents.s0 = Tensor();
  cases.add("Dk 32, Dv 40", sized(2, 65, 1, 2, 32, 40), attrs);
  cases.add("Dk 128, Dv 128", sized(1, 130, 1, 1, 128, 128), attrs);
  cases.add("Dk 256, Dv 128", sized(1, 70, 1, 1, 256, 128), attrs).gpu_slack(2, rounded);
  cases.add("Dk 64, packed", documents, attrs);
  cases.add("gates by channel, 128", by_channel(sized(1, 130, 1, 1, 128, 128)), attrs);
  auto channels = by_channel(sized(1, 66, 1, 1, 128, 128));
  channels.g = Tensor();
  cases.add("gates by channel alone, 128", channels, attrs).gpu_slack(2, rounded);
  auto shared = by_channel(sized(2, 133, 1, 2, 128, 128));
  shared.g = Tensor();
  cases.add("gates by channel alone, 128, shared keys", shared, attrs).gpu_slack(2, rounded);
  shared.offsets = Tensor::from<std::int64_t>({0, 64, 132, 133, 133, 201, 266});
  cases.add("gates by channel alone, 128, shared keys, packed", shared, attrs)
      .gpu_slack(3, rounded);
  auto many = by_channel(sized(1, 200, 2, 2, 128, 128));
  many.g = many.s0 = Tensor();
  many.offsets = Tensor::from<std::int64_t>({0, 3, 64, 128, 128, 130, 200});
  cases.add("gates by channel alone, 128, packed, no state", many, attrs).gpu_slack(2, rounded);
  attrs.qk_l2norm = true;
  auto raw = sized(2, 66, 1, 2, 64, 64);
  raw.k = draw.normal(raw.k.shape());
  cases.add("Dk 64, normalised", raw, attrs).gpu_slack(3, rounded);
}

}  // namespace
}  // namespace ls::test
