// All laws on a communicator, its reverse and its parts.
#include <doctest/doctest.h>

#include <numeric>

#include "tests/laws/comm/samples.h"
#include "tests/support/comm_laws.h"
#include "tests/support/errors.h"

namespace ls::test {
namespace {

using namespace comm;

void check_basics(Communicator& comm) {
  check_reductions<float>(comm);
  check_movement(comm);
  check_lists(comm);
  check_messages(comm);
}

}  // namespace

void check_communicator(Communicator& comm) {
  const int ranks = comm.size(), me = comm.rank();
  REQUIRE(me >= 0);
  REQUIRE(me < ranks);
  check_reductions<double>(comm);
  check_reductions<bf16>(comm);
  check_reductions<f16>(comm);
  check_reductions<std::int64_t>(comm);
  check_reductions<std::int32_t>(comm);
  check_special_values(comm);
  check_arguments(comm);
  check_basics(comm);

  // Reversed: ranks and blocks are renamed, reductions keep their order. check_basics would expect
  // sums in the order of the view, so only movement and messages apply.
  const auto back = comm.reversed();
  CHECK(back->size() == ranks);
  CHECK(back->rank() == ranks - 1 - me);
  check_movement(*back);
  check_moved_lists(*back);
  check_messages(*back);
  std::vector<float> x = samples<float>(me, 1001);
  back->all_reduce(x.data(), 1001, DType::kF32);
  CHECK(same_bits(x, reduced<float>(ranks, 1001, ReduceOp::kSum)));
  std::vector<Index> blocks(as_size(ranks));
  std::iota(blocks.begin(), blocks.end(), 0);
  Index block = -1;
  back->reduce_scatter(blocks.data(), &block, 1, DType::kI64);
  CHECK(block == back->rank() * ranks);
  check_movement(*back->reversed());

  // Subgroups: odd and even ranks, in opposite order; then one that a rank stays out of.
  const auto half = comm.split(me % 2, -me);
  const int half_size = (ranks + (me % 2 == 0 ? 1 : 0)) / 2;
  REQUIRE(half != nullptr);
  CHECK(half->size() == half_size);
  CHECK(half->rank() == half_size - 1 - me / 2);
  check_basics(*half);
  const auto rest = comm.split(me == 0 ? kNoRank : 7);
  CHECK((rest == nullptr) == (me == 0));
  if (rest) {
    CHECK(rest->rank() == me - 1);
    CHECK(rest->size() == ranks - 1);
    check_basics(*rest);
    const auto pairs = rest->split(rest->rank() / 2);
    CHECK(pairs->reduce_value(Index{1}) == pairs->size());
  }
  // A grid, and one that does not fit.
  const int fast = ranks % 2 == 0 ? 2 : 1;
  const std::vector<int> extents{ranks / fast, fast};
  const auto grid = comm.split_axes(extents);
  REQUIRE(grid.size() == 2);
  CHECK(grid[0]->size() == ranks / fast);
  CHECK(grid[0]->rank() == me / fast);
  CHECK(grid[1]->size() == fast);
  CHECK(grid[1]->rank() == me % fast);
  CHECK(grid[0]->reduce_value(Index{me}, ReduceOp::kMin) == me % fast);
  CHECK(grid[1]->reduce_value(Index{me}, ReduceOp::kMax) == me - me % fast + fast - 1);
  CHECK(says(message([&] { comm.split_axes(std::vector<int>{ranks, 2}); }), "a grid of"));
  const auto back_half = back->split(0);
  CHECK(back_half->rank() == back->rank());
  check_basics(*back_half);
  comm.barrier();
}

}  // namespace ls::test
