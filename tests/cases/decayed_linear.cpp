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
  auto packed = inputs(2, 45, 3);
  packed.offsets = Tensor::from<std::int64_t>({0, 20, 20, 21, 45, 70, 90, 90});
  auto constant = packed;
  constant.g = Tensor();
  constant.decay = draw.uniform({2}, -0.3, 0);
  auto rows = packed;  // nothing but zeros to start from inside a row
  rows.s0 = rows.s0.slice(0, 0, 2).contiguous();
  auto without = packed;
  without.s0 = Tensor();
  auto channels = packed;
  channels.g = Tensor();
  channels.gk = draw.uniform({2, 45, 2, 5}, -0.5, 0);
  channels.gv = draw.uniform({2, 45, 2, 7}, -0.5, 0);
  auto bonus = channels;
  bonus.gv = Tensor();
  bonus.k = draw.normal({2, 45, 1, 5}, 0.5);
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
    cases.add(kind + "packed, states of rows", rows, attrs);
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
  for (const Index bonuses : {1, 2}) {
    DecayedLinear::In<Tensor> in{.q = draw.normal({2, 128, 2, 64}),
                                 .k = draw.normal({2, 128, 2, 64}, 0.1),
                                 .v = draw.normal({2, 128, 2, 40}),
                                 .gk = draw.uniform({2, 128, 2, 64}, -0.5, 0),
                                 .u = draw.normal({bonuses, 64}),
                                 .s0 = draw.normal({2, 2, 64, 40}, 0.1)};
    cases.add(fmt::format("64, gates by channel, {} bonuses", bonuses), in, attrs)
        .slack(2, "gradients of gates are differences of sums that cancel");
  }
  // Other sizes that they serve: narrow and wide values, shared keys and queries, documents.
  struct Sizes {
    Index b, t, query_heads, key_heads, heads, dk, dv;
  };
  const auto other = [&](const Sizes& z) {
    return DecayedLinear::In<Tensor>{.q = draw.normal({z.b, z.t, z.query_heads, z.dk}),
                                     .k = draw.normal({z.b, z.t, z.key_heads, z.dk}, 0.1),
                                     .v = draw.normal({z.b, z.t, z.heads, z.dv})};
  };
  const auto gates = [&](const Sizes& z, bool channels) {
    return channels ? draw.uniform({z.b, z.t, z.heads, z.dk}, -0.5, 0)
                    : draw.uniform({z.b, z.t, z.heads}, -0.5, 0);
  };
  const Tensor documents = Tensor::from<std::int64_t>({0, 70, 70, 71, 150});
  for (const bool channels : {false, true}) {
    const std::string kind = channels ? "gates by channel, " : "gate by head, ";
    const auto add = [&](const char* name, const Sizes& z, bool carried, bool packed) {
      DecayedLinear::In<Tensor> in = other(z);
      (channels ? in.gk : in.g) = gates(z, channels);
      if (carried) {
        in.s0 = draw.normal({z.b, z.heads, z.dk, z.dv}, 0.1);
      }
      if (packed) {
        in.offsets = documents;
      }
      cases.add(kind + name, in, attrs)
          .slack(channels ? 2 : 1, "gradients of gates are differences of sums that cancel");
    };
    add("keys and values of 64", {2, 70, 2, 2, 2, 64, 64}, true, false);
    add("keys of 128, shared, values of 40", {1, 130, 1, 1, 4, 128, 40}, true, false);
    add("keys of 24, values of 256", {1, 70, 2, 2, 2, 24, 256}, true, false);
    add("long, values of 64", {1, 600, 1, 1, 1, 64, 64}, true, false);
    add("packed, 128", {1, 150, 1, 1, 1, 128, 128}, false, true);
    add("packed, shared keys", {1, 150, 2, 1, 4, 32, 72}, false, true);
  }
}

}  // namespace
}  // namespace ls::test
