// What is sent to all arrives everywhere: broadcast, gathers, all to all.
#include <doctest/doctest.h>

#include <numeric>

#include "tests/laws/comm/samples.h"

namespace ls::test::comm {
namespace {

/// Lengths 3, 0, 1003, 2003, ...: none of them like its neighbour, one empty.
std::vector<Index> uneven(int ranks) {
  std::vector<Index> counts;
  for (int r = 0; r < ranks; ++r) {
    counts.push_back(r == 1 ? 0 : 3 + 1000 * r);
  }
  return counts;
}

}  // namespace

void check_movement(Communicator& comm) {
  const int ranks = comm.size(), me = comm.rank();
  const Index n = 4099;
  for (int root = 0; root < ranks; ++root) {
    std::vector<float> x = samples<float>(me, n);
    comm.broadcast(x.data(), n, DType::kF32, root);
    CHECK(same_bits(x, samples<float>(root, n)));
  }

  std::vector<double> expected;
  for (int r = 0; r < ranks; ++r) {
    const std::vector<double> block = samples<double>(r, n);
    expected.insert(expected.end(), block.begin(), block.end());
  }
  std::vector<double> out(as_size(n * ranks), -1.0);
  comm.all_gather(samples<double>(me, n).data(), out.data(), n, DType::kF64);
  CHECK(same_bits(out, expected));
  std::fill(out.begin(), out.end(), -1.0);
  const std::vector<double> mine = samples<double>(me, n);
  std::copy(mine.begin(), mine.end(), out.begin() + me * n);
  comm.all_gather(out.data() + me * n, out.data(), n, DType::kF64);
  CHECK(same_bits(out, expected));

  const std::vector<Index> counts = uneven(ranks);
  const Index total = std::accumulate(counts.begin(), counts.end(), Index{0});
  std::vector<float> gathered(as_size(total)), gathered_expected;
  for (int r = 0; r < ranks; ++r) {
    const std::vector<float> block = samples<float>(r, counts[as_size(r)]);
    gathered_expected.insert(gathered_expected.end(), block.begin(), block.end());
  }
  comm.all_gather(samples<float>(me, counts[as_size(me)]).data(), gathered.data(), counts,
                  DType::kF32);
  CHECK(same_bits(gathered, gathered_expected));

  // Rank r sends to rank j the numbers 1000r + j, (r + 2j) mod 4 of them.
  const auto pair_count = [](int from, int to) { return static_cast<Index>((from + 2 * to) % 4); };
  std::vector<Index> in_counts, out_counts;
  std::vector<std::int64_t> to_send, expected_received;
  for (int r = 0; r < ranks; ++r) {
    in_counts.push_back(pair_count(me, r));
    out_counts.push_back(pair_count(r, me));
    to_send.insert(to_send.end(), as_size(in_counts.back()), 1000 * me + r);
    expected_received.insert(expected_received.end(), as_size(out_counts.back()), 1000 * r + me);
  }
  std::vector<std::int64_t> received(expected_received.size(), -1);
  comm.all_to_all(to_send.data(), in_counts, received.data(), out_counts, DType::kI64);
  CHECK(received == expected_received);
  std::vector<std::int32_t> even_in(as_size(ranks)), even_out(as_size(ranks));
  std::iota(even_in.begin(), even_in.end(), 10 * me);
  comm.all_to_all(even_in.data(), even_out.data(), 1, DType::kI32);
  for (int r = 0; r < ranks; ++r) {
    CHECK(even_out[as_size(r)] == 10 * r + me);
  }
}

}  // namespace ls::test::comm
