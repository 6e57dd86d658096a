// What the scan cases (decayed_linear_scan.cpp) leave out: packed documents, every form, no tokens.
#include "core/ops/decayed_linear/decayed_linear.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(DecayedLinear, "decayed_linear") {
  Draw draw("decayed_linear, options");
  const auto inputs = [&](Index b, Index t, Index n) {
    return DecayedLinear::In<Tensor>{.q = draw.normal({b, t, 4, 5}),
                                     .k = draw.normal({b, t, 2, 5}, 0.5),
                                     .v = draw.normal({b, t, 2, 7}),
                                     .g = draw.uniform({b, t, 2}, -0.5, 0),
                                     .s0 = draw.normal({n, 2, 5, 7})};
  };
  // Columns of the state: whole tiles, vectors and a rest.
  DecayedLinear::In<Tensor> wide{.q = draw.normal({2, 37, 2, 19}),
                                 .k = draw.normal({2, 37, 1, 19}, 0.5),
                                 .v = draw.normal({2, 37, 1, 85}),
                                 .g = draw.uniform({2, 37, 1}, -0.5, 0),
                                 .s0 = draw.normal({2, 1, 19, 85})};
  auto packed = inputs(1, 45, 4);
  packed.offsets = Tensor::from<std::int64_t>({0, 20, 20, 21, 45});
  auto constant = packed;
  constant.g = Tensor();
  constant.decay = draw.uniform({2}, -0.3, 0);
  auto without = packed;
  without.s0 = Tensor();
  auto channels = packed;
  channels.g = Tensor();
  channels.gk = draw.uniform({1, 45, 2, 5}, -0.5, 0);
  channels.gv = draw.uniform({1, 45, 2, 7}, -0.5, 0);
  auto bonus = channels;
  bonus.gv = Tensor();
  bonus.k = draw.normal({1, 45, 1, 5}, 0.5);
  bonus.u = draw.normal({2, 5});
  auto empty = inputs(2, 0, 2);
  empty.gk = Tensor::zeros({2, 0, 2, 5}, DType::kF64);
  empty.k = Tensor::zeros({2, 0, 1, 5}, DType::kF64);
  empty.u = draw.normal({1, 5});
  // Eight sequences and eight heads: teams of heads add their gradients up as they go.
  DecayedLinear::In<Tensor> teams{.q = draw.normal({8, 19, 2, 5}),
                                  .k = draw.normal({8, 19, 1, 5}, 0.5),
                                  .v = draw.normal({8, 19, 8, 3}),
                                  .g = draw.uniform({8, 19, 8}, -0.5, 0)};
  DecayedLinear::In<Tensor> team = teams;
  team.q = draw.normal({8, 19, 1, 5});
  team.gk = draw.uniform({8, 19, 8, 5}, -0.5, 0);
  DecayedLinear::In<Tensor> wide_channels = wide;
  wide_channels.gk = draw.uniform({2, 37, 1, 19}, -0.5, 0);
  wide_channels.gv = draw.uniform({2, 37, 1, 85}, -0.5, 0);
  for (const Form form : {Form::kAuto, Form::kRecurrent, Form::kChunk, Form::kParallel}) {
    DecayedLinear::Attrs attrs;
    attrs.scale = 0.3;
    attrs.form = form;
    attrs.chunk = form == Form::kChunk ? 8 : 0;
    const std::string kind = fmt::format("form {}, ", static_cast<int>(form));
    cases.add(kind + "one row", inputs(1, 41, 1), attrs);
    cases.add(kind + "wide", wide, attrs);
    cases.add(kind + "packed", packed, attrs);
    cases.add(kind + "packed, constant decay", constant, attrs);
    cases.add(kind + "packed, no state", without, attrs);
    cases.add(kind + "no tokens", inputs(2, 0, 2), attrs);
    cases.add(kind + "many rows", inputs(6, 70, 6), attrs);
    cases.add(kind + "packed, decays per channel", channels, attrs);
    cases.add(kind + "packed, bonus, shared keys", bonus, attrs);
    cases.add(kind + "no tokens, bonus, shared keys", empty, attrs);
    cases.add(kind + "wide, decays per channel", wide_channels, attrs);
    cases.add(kind + "teams of heads", teams, attrs);
    cases.add(kind + "teams of heads, decays per channel", team, attrs);
  }

  // The size that GPUs have kernels of their own for.
  const auto sized = [&](Index b, Index t, Index h) {
    return DecayedLinear::In<Tensor>{.q = draw.normal({b, t, h, 128}),
                                     .k = draw.normal({b, t, h, 128}, 0.1),
                                     .v = draw.normal({b, t, h, 128}),
                                     .s0 = draw.normal({b, h, 128, 128}, 0.1)};
  };
  // The gradient of the last state is of size 1, and so are those that queries add.
  DecayedLinear::Attrs attrs;
  attrs.scale = 0.7;
  auto by_head = sized(1, 130, 1), fixed = sized(1, 70, 2), by_channel = sized(1, 130, 1);
  by_head.g = draw.uniform({1, 130, 1}, -0.5, 0);
  fixed.decay = draw.uniform({2}, -0.3, 0);
  by_channel.gk = draw.uniform({1, 130, 1, 128}, -0.5, 0);
  cases.add("128, gate by head", by_head, attrs);
  cases.add("128, constant decay", fixed, attrs);
  cases.add("128, gates by channel", by_channel, attrs);
}

}  // namespace
}  // namespace ls::test
