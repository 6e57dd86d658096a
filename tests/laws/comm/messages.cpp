// From one rank to another; wrong arguments are refused before anything is sent.
#include <doctest/doctest.h>

#include "core/base/error.h"
#include "tests/laws/comm/samples.h"

namespace ls::test::comm {

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

}  // namespace ls::test::comm
