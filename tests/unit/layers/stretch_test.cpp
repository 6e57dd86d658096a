// Stretches and their pieces; scans with several updates a token.
#include "layers/stretch.h"

#include <doctest/doctest.h>

#include "autograd/functional.h"
#include "autograd/tape.h"
#include "core/ops/delta_rule/delta_rule.h"
#include "layers/seq_context.h"
#include "tests/support/draw.h"
#include "tests/support/errors.h"

namespace ls::layers {
namespace {

std::vector<Index> starts(const Stretch& s, Index row) {
  return {s.starts(row).begin(), s.starts(row).end()};
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("a piece of a stretch knows what its rows have seen") {
    const Stretch whole(2, 10, {.documents = {{3, 7}, {}}, .seen = {5, 2}, .first = 20});
    CHECK(whole.seen_after() == std::vector<Index>{3, 12});
    const Stretch piece = whole.piece(4, 8);
    CHECK(piece.first() == 24);
    CHECK(piece.tokens() == 4);
    CHECK(starts(piece, 0) == std::vector<Index>{3});
    CHECK(starts(piece, 1).empty());
    CHECK(piece.seen(0) == 1);  // since the start at 3
    CHECK(piece.seen(1) == 6);
    CHECK(piece.seen_after() == std::vector<Index>{1, 6 + 4});
    CHECK(piece.positions().to_vector<Index>() == std::vector<Index>{1, 2, 3, 0, 6, 7, 8, 9});
    CHECK(whole.piece(7, 7).seen(0) == 4);  // the start at 7 is not inside
    CHECK(test::says(test::message([&] { whole.piece(8, 11); }), "[8, 11) of 10"));
    CHECK(test::says(test::message([] { Stretch(2, 3, {.documents = {{0}}}); }), "1 rows of 2"));
  }

  TEST_CASE("a stretch read backward: documents begin where they end") {
    // Row 0: documents [-5,3), [3,7), [7,10); the last of row 1 goes on with 4 tokens behind.
    const Stretch whole(
        2, 10,
        {.documents = {{3, 7}, {0, 4}}, .seen = {5, 2}, .left = {0, 4}, .first = 20, .after = 30});
    const Stretch back = whole.turned();
    CHECK(back.direction() == Direction::kBackward);
    CHECK(back.first() == 30);
    CHECK(starts(back, 0) == std::vector<Index>{0, 3, 7});
    CHECK(starts(back, 1) == std::vector<Index>{6});
    CHECK(back.seen(1) == 4);
    CHECK(back.left(0) == 5);
    CHECK(back.left(1) == 0);  // a document begins at its token 0
    CHECK(back.positions().to_vector<Index>() ==
          std::vector<Index>{0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3});
    CHECK(whole.turn().to_vector<Index>() ==
          std::vector<Index>{9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10});
    const Stretch again = back.turned();
    CHECK(again.direction() == Direction::kForward);
    CHECK(again.positions().to_vector<Index>() == whole.positions().to_vector<Index>());
    // Turned pieces are the pieces of the turned one, also where a document ends at a cut.
    for (const Index cut : {Index{0}, Index{3}, Index{5}, Index{7}, Index{10}}) {
      CAPTURE(cut);
      const Stretch early = whole.piece(0, cut).turned(), late = whole.piece(cut, 10).turned();
      const auto positions = [](const Stretch& s) { return s.positions().to_vector<Index>(); };
      CHECK(positions(late) == positions(back.piece(0, 10 - cut)));
      CHECK(positions(early) == positions(back.piece(10 - cut, 10)));
      for (Index r = 0; r < 2; ++r) {
        CHECK(starts(late, r) == starts(back.piece(0, 10 - cut), r));
        CHECK(starts(early, r) == starts(back.piece(10 - cut, 10), r));
      }
    }
    CHECK(Stretch(1, 4).turned().has_documents() == false);
    CHECK(test::says(test::message([] { Stretch(2, 3, {.left = {0}}); }), "1 rows of 2"));
  }

  TEST_CASE("two updates a token, in packed documents too") {
    test::Draw draw("two updates");
    constexpr Index kTokens = 7, kUpdates = 2, kStart = 3;  // of the second document
    const Index n = kTokens * kUpdates;
    const Tensor q = draw.normal({1, n, 1, 4}), k = draw.unit_rows({1, n, 1, 4}),
                 v = draw.normal({1, n, 1, 3}), beta = draw.uniform({1, n, 1}, 0, 1);
    const auto run = [&](Index from, Index to, const DocumentStarts* documents) {
      const ag::NoGrad no_grad;
      SeqContext seq(1, to - from, {.documents = documents});
      const auto cut = [&](const Tensor& x) {
        return ag::Var(x.slice(1, from * kUpdates, to * kUpdates).contiguous());
      };
      return seq
          .scan<ops::DeltaRule>("scan", {.q = cut(q), .k = cut(k), .v = cut(v), .beta = cut(beta)})
          .o.value();
    };
    const DocumentStarts documents = {{0, kStart}};
    const Tensor packed = run(0, kTokens, &documents);
    const std::vector<double> first = run(0, kStart, nullptr).to_vector<double>(),
                              second = run(kStart, kTokens, nullptr).to_vector<double>();
    const Index cut = kStart * kUpdates;
    const auto close = [](const Tensor& got, const std::vector<double>& want) {
      const std::vector<double> x = got.contiguous().to_vector<double>();
      REQUIRE(x.size() == want.size());
      for (std::size_t i = 0; i < x.size(); ++i) {
        CHECK(x[i] == doctest::Approx(want[i]).epsilon(1e-12));
      }
    };
    close(packed.slice(1, 0, cut), first);
    close(packed.slice(1, cut, n), second);

    SeqContext seq(1, kTokens - 1, {});  // 14 tokens are no whole number of updates for each of 6
    CHECK(test::says(
        test::message([&] {
          seq.scan<ops::DeltaRule>(
              "scan", {.q = ag::Var(q), .k = ag::Var(k), .v = ag::Var(v), .beta = ag::Var(beta)});
        }),
        "no whole number of updates"));
  }
}

}  // namespace ls::layers
