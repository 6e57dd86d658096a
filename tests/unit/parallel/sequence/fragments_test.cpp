// Who has which tokens, and how they change hands.
#include <doctest/doctest.h>

#include <algorithm>

#include "core/comm/thread_comm.h"
#include "parallel/sequence/fragments.h"
#include "tests/support/draw.h"

namespace ls::parallel {

TEST_SUITE("unit") {
  TEST_CASE("fragments in a zig-zag have every token once, and queries see as many keys") {
    for (const Index total : {Index{0}, Index{3}, Index{48}, Index{50}}) {
      for (const int ranks : {1, 2, 3, 4}) {
        std::vector<int> owners(static_cast<std::size_t>(total), 0);
        std::vector<Index> seen;
        for (const std::vector<Fragment>& own : zig_zag(total, ranks)) {
          Index keys = 0;
          for (const Fragment& f : own) {
            for (Index t = f.from; t < f.to; ++t) {
              ++owners[static_cast<std::size_t>(t)];
              keys += t + 1;
            }
          }
          seen.push_back(keys);
        }
        CHECK(std::ranges::count(owners, 1) == total);
        if (total == 48) {  // what 2 R divides
          CHECK(std::ranges::count(seen, total * (total + 1) / 2 / ranks) == ranks);
        }
      }
    }
  }

  TEST_CASE("tokens change hands and come back, between any fragments") {
    constexpr int kRanks = 3;
    const std::vector<Index> tokens{5, 0, 8};
    const Ownership home = contiguous(tokens), owned = zig_zag(13, kRanks);
    CHECK(tokens_sent(home, home) == std::vector<Index>{0, 0, 0});
    test::Draw draw("fragments");
    const Tensor all = draw.normal({2, 13, 3});
    run_ranks(kRanks, [&](Communicator& comm) {
      const auto r = static_cast<std::size_t>(comm.rank());
      const Fragment mine = home[r][0];
      const Tensor x = all.slice(1, mine.from, mine.to).contiguous();
      // The second tensor is rank 0's alone: zeros for others' tokens.
      const std::vector<Tensors> there =
          exchange_tokens(comm, home, owned, {{x, r == 0 ? x : Tensor()}}, cpu());
      REQUIRE(there.size() == 2);
      for (std::size_t f = 0; f < 2; ++f) {
        const Fragment own = owned[r][f];
        CHECK(there[f][0].to_vector<double>() ==
              all.slice(1, own.from, own.to).contiguous().to_vector<double>());
        const bool some = own.from < tokens[0];
        CHECK(there[f][1].defined() == some);
        for (Index t = own.from; some && t < own.to; ++t) {
          const Tensor one = there[f][1].slice(1, t - own.from, t - own.from + 1).contiguous();
          const auto values = one.to_vector<double>();
          CHECK((std::ranges::count(values, 0.0) == std::ssize(values)) == (t >= tokens[0]));
        }
      }
      const Tensors back =
          exchange_tokens(comm, owned, home, {{there[0][0]}, {there[1][0]}}, cpu()).front();
      CHECK(back[0].defined() == (mine.tokens() > 0));
      if (back[0].defined()) {
        CHECK(back[0].to_vector<double>() == x.to_vector<double>());
      }
    });
  }
}

}  // namespace ls::parallel
