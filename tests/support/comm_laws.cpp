#include "tests/support/comm_laws.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "core/base/error.h"

namespace ls::test {
namespace {

std::size_t as_size(Index n) {
  return static_cast<std::size_t>(n);
}

/// The same value for (rank, i) everywhere; magnitudes spread so that another order of summation
/// gives other bits.
double sample(int rank, Index i) {
  std::uint64_t h = static_cast<std::uint64_t>(rank + 1) * 0x9e3779b97f4a7c15ull +
                    static_cast<std::uint64_t>(i + 1) * 0xbf58476d1ce4e5b9ull;
  h ^= h >> 29;
  h *= 0x94d049bb133111ebull;
  h ^= h >> 32;
  const double unit = static_cast<double>(h >> 11) * 0x1p-53 - 0.5;
  return unit * std::exp2(static_cast<int>(h % 9) - 4);
}

template <class T>
T typed_sample(int rank, Index i) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(sample(rank, i) * 1e6);
  } else if constexpr (sizeof(T) == 2) {
    return T(static_cast<float>(sample(rank, i)));
  } else {
    return static_cast<T>(sample(rank, i));
  }
}

template <class T>
std::vector<T> samples(int rank, Index n) {
  std::vector<T> x(as_size(n));
  for (Index i = 0; i < n; ++i) {
    x[as_size(i)] = typed_sample<T>(rank, i);
  }
  return x;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

template <class T>
struct Wide {
  using type = acc_t<T>;
};
template <>
struct Wide<std::int64_t> {
  using type = std::int64_t;
};
template <>
struct Wide<std::int32_t> {
  using type = std::int32_t;
};

/// The definition, one element at a time: rank 0 first, one rounding at the end.
template <class T>
std::vector<T> reduced(int ranks, Index n, ReduceOp op) {
  using W = typename Wide<T>::type;
  std::vector<T> result(as_size(n));
  for (Index i = 0; i < n; ++i) {
    W acc = static_cast<W>(typed_sample<T>(0, i));
    for (int r = 1; r < ranks; ++r) {
      const W x = static_cast<W>(typed_sample<T>(r, i));
      acc = op == ReduceOp::kSum   ? static_cast<W>(acc + x)
            : op == ReduceOp::kMax ? std::max(acc, x)
                                   : std::min(acc, x);
    }
    result[as_size(i)] = static_cast<T>(acc);
  }
  return result;
}

template <class T>
void check_reductions(Communicator& comm) {
  const int ranks = comm.size();
  for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin}) {
    CAPTURE(enum_name(dtype_of_v<T>));
    CAPTURE(reduce_op_name(op));
    // Below, at and above the number of ranks; one tile; several tiles and message sizes.
    for (const Index n : {Index{0}, Index{1}, Index{2}, Index{5}, Index{512}, Index{70001}}) {
      CAPTURE(n);
      std::vector<T> x = samples<T>(comm.rank(), n);
      comm.all_reduce(x.data(), n, dtype_of_v<T>, op);
      CHECK(same_bits(x, reduced<T>(ranks, n, op)));
    }
    for (const Index n : {Index{0}, Index{1}, Index{513}, Index{9001}}) {
      CAPTURE(n);
      const std::vector<T> whole = reduced<T>(ranks, n * ranks, op);
      const std::vector<T> expected(whole.begin() + comm.rank() * n,
                                    whole.begin() + (comm.rank() + 1) * n);
      const std::vector<T> in = samples<T>(comm.rank(), n * ranks);
      std::vector<T> out(as_size(n)), kept = in;
      comm.reduce_scatter(kept.data(), out.data(), n, dtype_of_v<T>, op);
      CHECK(same_bits(out, expected));
      CHECK(same_bits(kept, in));
      T* own_block = kept.data() + comm.rank() * n;
      comm.reduce_scatter(kept.data(), own_block, n, dtype_of_v<T>, op);
      CHECK(same_bits(std::vector<T>(own_block, own_block + n), expected));
    }
  }
}

void check_special_values(Communicator& comm) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (int holder = 0; holder < comm.size(); ++holder) {
    for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin}) {
      float x[2] = {comm.rank() == holder ? nan : 1.0f, 2.0f};
      comm.all_reduce(x, 2, DType::kF32, op);
      CHECK(std::isnan(x[0]));
      CHECK(x[1] == (op == ReduceOp::kSum ? 2.0f * static_cast<float>(comm.size()) : 2.0f));
    }
  }
  const std::int32_t wrapped = comm.reduce_value(std::numeric_limits<std::int32_t>::max());
  CHECK(wrapped ==
        static_cast<std::int32_t>(static_cast<std::uint32_t>(comm.size()) * 0x7fffffffu));
  CHECK(comm.reduce_value(static_cast<double>(comm.rank()), ReduceOp::kMax) == comm.size() - 1);
}

/// Lengths 3, 0, 1003, 2003, ...: none of them like its neighbour, one empty.
std::vector<Index> uneven(int ranks) {
  std::vector<Index> counts;
  for (int r = 0; r < ranks; ++r) {
    counts.push_back(r == 1 ? 0 : 3 + 1000 * r);
  }
  return counts;
}

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

void check_messages(Communicator& comm) {
  const int ranks = comm.size(), me = comm.rank();
  const Index n = 100003;
  // Round the ring, oneself included when alone.
  std::vector<float> x = samples<float>(me, n), y(as_size(n), -1.0f);
  comm.send_recv(x.data(), n, (me + 1) % ranks, y.data(), n, (me + ranks - 1) % ranks, DType::kF32);
  CHECK(same_bits(y, samples<float>((me + ranks - 1) % ranks, n)));
  // Down the chain: no wrap; the first rank receives nothing, the last sends nothing.
  std::int64_t value = 5, from_left = -1;
  comm.send_recv(&value, 1, me + 1 < ranks ? me + 1 : kNoRank, &from_left, 1,
                 me > 0 ? me - 1 : kNoRank, DType::kI64, 3);
  CHECK(from_left == (me > 0 ? 5 : -1));
  // Relay: each adds its rank. Two tags, and an empty message between two full ones.
  Index sum = 0, again = 0;
  if (me > 0) {
    comm.recv(&sum, 1, DType::kI64, me - 1, 1);
    comm.recv(nullptr, 0, DType::kI64, me - 1, kMaxTag);
    comm.recv(&again, 1, DType::kI64, me - 1, 1);
  }
  sum += me;
  again += 2 * me;
  if (me + 1 < ranks) {
    comm.send(&sum, 1, DType::kI64, me + 1, 1);
    comm.send(nullptr, 0, DType::kI64, me + 1, kMaxTag);
    comm.send(&again, 1, DType::kI64, me + 1, 1);
  }
  CHECK(sum == me * (me + 1) / 2);
  CHECK(again == me * (me + 1));
  comm.barrier();
}

void check_arguments(Communicator& comm) {
  float x[4] = {};
  const auto kind_of = [](auto&& call) {
    try {
      call();
    } catch (const Error& e) {
      return e.kind();
    }
    return ErrorKind::kInternal;
  };
  CHECK(kind_of([&] { comm.all_reduce(x, -1, DType::kF32); }) == ErrorKind::kShape);
  CHECK(kind_of([&] { comm.all_reduce(nullptr, 1, DType::kF32); }) == ErrorKind::kShape);
  CHECK(kind_of([&] { comm.all_reduce(x, 1, DType::kU8); }) == ErrorKind::kDType);
  CHECK(kind_of([&] { comm.broadcast(x, 1, DType::kF32, comm.size()); }) == ErrorKind::kConfig);
  CHECK(kind_of([&] { comm.send(x, 1, DType::kF32, comm.rank()); }) == ErrorKind::kConfig);
  CHECK(kind_of([&] { comm.recv(x, 1, DType::kF32, -2); }) == ErrorKind::kConfig);
  CHECK(kind_of([&] { comm.send_recv(x, 1, 0, x, 1, 0, DType::kF32, kMaxTag + 1); }) ==
        ErrorKind::kConfig);
  const std::vector<Index> too_many(static_cast<std::size_t>(comm.size()) + 1, 0);
  CHECK(kind_of([&] { comm.all_gather(x, x, too_many, DType::kF32); }) == ErrorKind::kShape);
  CHECK(kind_of([&] { comm.split(-2); }) == ErrorKind::kConfig);
  CHECK(kind_of([&] { comm.set_time_limit(0); }) == ErrorKind::kConfig);
}

void check_basics(Communicator& comm) {
  check_reductions<float>(comm);
  check_movement(comm);
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
  const auto back_half = back->split(0);
  CHECK(back_half->rank() == back->rank());
  check_basics(*back_half);
  comm.barrier();
}

}  // namespace ls::test
