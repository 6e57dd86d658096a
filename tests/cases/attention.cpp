// What the scan cases (attention_scan.cpp) leave out: everything that is not one causal stretch.
#include "core/ops/attention/attention.h"

#include <cmath>

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

const char* const kRounded = "o, from which its gradient is corrected, is rounded";

/// Heads as wide as those that GPUs have kernels for, across tiles of queries and of keys.
void wide_heads(auto& cases, Draw& draw) {
  Attention::Attrs attrs;
  for (const Index d : {16, 32, 64, 128}) {
    attrs.scale = 1 / std::sqrt(static_cast<double>(d));
    const auto inputs = [&](Index b, Index t, Index hq, Index h) {
      return Attention::In<Tensor>{.q = draw.normal({b, t, hq, d}),
                                   .k = draw.normal({b, t, h, d}),
                                   .v = draw.normal({b, t, h, d})};
    };
    cases.add(fmt::format("heads of {}", d), inputs(1, 150, 2, 2), attrs).slack(2, kRounded);
    auto window = attrs;
    window.window = 50;
    cases.add(fmt::format("heads of {}, grouped, window", d), inputs(1, 130, 4, 2), window)
        .slack(2, kRounded);
  }
  Attention::In<Tensor> in{.q = draw.normal({2, 140, 6, 64}),
                           .k = draw.normal({2, 140, 2, 64}),
                           .v = draw.normal({2, 140, 2, 96})};
  attrs.scale = 0.125;
  in.k0 = draw.normal({2, 33, 2, 64});
  in.v0 = draw.normal({2, 33, 2, 96});
  in.sink = draw.normal({6});
  in.slopes = draw.uniform({6}, 0.01, 0.1);
  auto options = attrs;
  options.softcap = 3;
  options.window = 75;
  options.prefix = 20;
  cases.add("wide heads, options", in, options);
  options.causal = false;
  cases.add("wide heads, options, not causal", in, options);
  Attention::In<Tensor> documents{.q = draw.normal({1, 300, 2, 128}),
                                  .k = draw.normal({1, 300, 1, 128}),
                                  .v = draw.normal({1, 300, 1, 64})};
  documents.offsets = Tensor::from<std::int64_t>({0, 1, 70, 71, 71, 230, 300});
  attrs.scale = 0.09;
  cases.add("wide heads, packed", documents, attrs).slack(3, kRounded);
  // Few queries against many keys: parts of them, whose sums are joined.
  Attention::In<Tensor> decode{.q = draw.normal({2, 1, 8, 64}),
                               .k = draw.normal({2, 1, 2, 64}),
                               .v = draw.normal({2, 1, 2, 64})};
  decode.k0 = draw.normal({2, 700, 2, 64});
  decode.v0 = draw.normal({2, 700, 2, 64});
  attrs.scale = 0.125;
  cases.add("one token, a long cache", decode, attrs).slack(3, kRounded);
  decode.sink = draw.normal({8});
  auto near = attrs;
  near.window = 90;
  cases.add("one token, a long cache, window and sink", decode, near).slack(4, kRounded);
}

Attention::In<Tensor> drawn(Draw& draw, Index b, Index tq, Index tk, Index hq, Index h, Index dk,
                            Index dv) {
  return {.q = draw.normal({b, tq, hq, dk}),
          .k = draw.normal({b, tk, h, dk}),
          .v = draw.normal({b, tk, h, dv})};
}

/// A cache that is a buffer with room: for one block of queries, and for several.
void add_used_caches(CaseList<Attention>& cases, const Attention::Attrs& attrs) {
  Draw draw("attention, caches with room");
  auto appended = drawn(draw, 2, 3, 3, 4, 2, 5, 3);
  appended.k0 = draw.normal({2, 12, 2, 5});
  appended.v0 = draw.normal({2, 12, 2, 3});
  appended.used = Tensor::from<std::int64_t>({7}, {});
  cases.add("used cache", appended, attrs);
  appended.start = Tensor::from<std::int64_t>({-7, -1, 0, -2, -2, 1}, {2, 3});
  cases.add("used cache and starts", appended, attrs)
      .slack(2, "o, from which its gradient is corrected, is rounded");
  appended.used = Tensor::from<std::int64_t>({9}, {});
  appended.start = Tensor();
  auto last = attrs;
  last.window = 4;
  cases.add("used cache, full, window", appended, last);
  auto long_cache = drawn(draw, 1, 70, 70, 2, 1, 9, 17);
  long_cache.k0 = draw.normal({1, 200, 1, 9});
  long_cache.v0 = draw.normal({1, 200, 1, 17});
  long_cache.used = Tensor::from<std::int64_t>({90}, {});
  cases.add("large, used cache", long_cache, attrs);
}

LS_OP_CASES(Attention, "attention") {
  Draw draw("attention, options");
  const auto inputs = [&](Index b, Index tq, Index tk, Index hq, Index h, Index dk, Index dv) {
    return drawn(draw, b, tq, tk, hq, h, dk, dv);
  };
  Attention::Attrs attrs;
  attrs.scale = 0.5;
  auto all = attrs;
  all.causal = false;
  cases.add("not causal", inputs(2, 9, 9, 2, 1, 5, 3), all);
  for (const Index t : {1, 63, 64, 65}) {
    cases.add(fmt::format("{} tokens", t), inputs(1, t, t, 2, 2, 4, 4), attrs);
    cases.add(fmt::format("{} tokens, not causal", t), inputs(1, t, t, 2, 2, 4, 4), all);
  }
  auto near = all;
  near.window = 3;
  cases.add("window, not causal", inputs(1, 11, 11, 2, 2, 4, 4), near);

  auto capped = attrs;
  capped.softcap = 2;
  cases.add("capped", inputs(2, 7, 7, 2, 1, 5, 3), capped);
  auto prefix = attrs;
  prefix.prefix = 4;
  cases.add("prefix", inputs(2, 9, 9, 2, 1, 5, 3), prefix);
  auto windowed_prefix = prefix;
  windowed_prefix.window = 2;
  cases.add("prefix and window", inputs(2, 9, 9, 2, 1, 5, 3), windowed_prefix);

  auto everything = inputs(2, 6, 6, 4, 2, 3, 5);
  everything.sink = draw.normal({4});
  everything.slopes = draw.uniform({4}, 0.1, 1);
  everything.bias = draw.normal({4, 6, 6});
  cases.add("sink, slopes, bias", everything, attrs);
  cases.add("sink, slopes, bias, capped, not causal", everything, [&] {
    auto a = capped;
    a.causal = false;
    return a;
  }());

  auto started = inputs(2, 8, 8, 2, 1, 3, 3);
  started.start =
      Tensor::from<std::int64_t>({0, 0, 2, 2, 2, 5, 5, 7, 0, 1, 1, 1, 1, 5, 6, 6}, {2, 8});
  cases.add("starts", started, attrs);
  auto cached = inputs(2, 5, 5, 2, 1, 3, 3);
  cached.k0 = draw.normal({2, 4, 1, 3});
  cached.v0 = draw.normal({2, 4, 1, 3});
  cached.start = Tensor::from<std::int64_t>({-4, -1, 0, 1, 4, -2, -2, -2, 3, 3}, {2, 5});
  cases.add("cache and starts", cached, attrs);
  add_used_caches(cases, attrs);

  auto packed = inputs(1, 12, 12, 2, 2, 3, 3);
  packed.offsets = Tensor::from<std::int64_t>({0, 5, 5, 6, 12});
  cases.add("packed", packed, attrs);
  cases.add("packed, not causal", packed, all);

  // The prefix ends within the second document, and neither reaches into the other.
  packed.offsets = Tensor::from<std::int64_t>({0, 2, 6, 12});
  cases.add("prefix, packed", packed, windowed_prefix);
  windowed_prefix.causal = false;
  cases.add("prefix, packed, not causal", packed, windowed_prefix);
  started.start =
      Tensor::from<std::int64_t>({0, 0, 2, 2, 2, 5, 5, 7, 0, 3, 3, 3, 3, 4, 4, 4}, {2, 8});
  cases.add("prefix and starts", started, prefix);

  // Fewer queries than keys: the last ones see everything.
  auto later = attrs;
  later.q_offset = 5;
  cases.add("queries of the end", inputs(1, 4, 9, 2, 1, 3, 3), later);
  auto earlier = attrs;
  earlier.q_offset = -2;
  cases.add("queries that see nothing", inputs(1, 5, 5, 2, 1, 3, 3), earlier).kept({"lse"});
  cases.add("other keys", inputs(2, 3, 10, 2, 2, 4, 5), all);
  cases
      .add("large logits", inputs(1, 20, 20, 1, 1, 8, 4),
           [&] {
             auto a = attrs;
             a.scale = 10;
             return a;
           }())
      .slack(20, "logits of size 80");
  cases.add("no tokens", inputs(2, 0, 0, 2, 1, 4, 4), attrs);
  cases.add("large", inputs(2, 200, 200, 4, 2, 16, 16), attrs);

  // Every option across several blocks of queries and keys.
  auto many = inputs(2, 150, 150, 4, 2, 33, 70);
  many.sink = draw.normal({4});
  many.slopes = draw.uniform({4}, 0.01, 0.1);
  many.bias = draw.normal({4, 150, 180});
  many.k0 = draw.normal({2, 30, 2, 33});
  many.v0 = draw.normal({2, 30, 2, 70});
  auto options = prefix;
  options.scale = 0.2;
  options.softcap = 3;
  options.window = 75;
  cases.add("large, every option", many, options).slack(2, kRounded);
  options.causal = false;
  cases.add("large, every option, not causal", many, options).slack(2, kRounded);
  auto documents = inputs(1, 200, 200, 2, 1, 9, 17);
  documents.offsets = Tensor::from<std::int64_t>({0, 70, 71, 71, 130, 200});
  cases.add("large, packed", documents, attrs);
  cases.add("large, packed, not causal", documents, all);
  wide_heads(cases, draw);
}

}  // namespace
}  // namespace ls::test
