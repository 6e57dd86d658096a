// Lists of tensors: one message, under way while the caller works.
#include <doctest/doctest.h>

#include "core/comm/lists.h"
#include "tests/laws/comm/samples.h"
#include "tests/support/errors.h"

namespace ls::test::comm {
namespace {

Tensor tensor(int rank, const Shape& shape, DType t) {
  return Tensor::from(samples<double>(rank, shape.numel()), shape).to(t);
}
bool equal(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.to_vector<double>() == b.to_vector<double>();
}
/// Every other column of a wider tensor: not contiguous.
Tensor strided(const Tensor& x) {
  Shape wide = x.shape();
  wide[x.rank() - 1] *= 2;
  Tensor out = Tensor::zeros(wide, x.dtype()).slice(-1, 0, x.size(-1));
  out.copy_(x);
  return out;
}

}  // namespace

void check_moved_lists(Communicator& comm) {
  const int ranks = comm.size(), me = comm.rank();
  const Shape small{2, 3}, large{2 * ranks, 3};
  const auto whole = [&](DType t) {
    Tensor all = Tensor::empty(large, t);
    for (int r = 0; r < ranks; ++r) {
      all.slice(0, 2 * r, 2 * r + 2).copy_(tensor(r, small, t));
    }
    return all;
  };
  TensorList gathered{Tensor::zeros(large, DType::kF32),
                      strided(Tensor::zeros(large, DType::kF64))};
  begin_all_gather(comm, {tensor(me, small, DType::kF32), strided(tensor(me, small, DType::kF64))},
                   gathered)
      .wait();
  CHECK(equal(gathered[0], whole(DType::kF32)));
  CHECK(equal(gathered[1], whole(DType::kF64)));

  TensorList turned{Tensor::zeros(large, DType::kF32), Tensor::zeros({ranks}, DType::kI64)};
  std::vector<std::int64_t> to_each, from_each;
  for (int r = 0; r < ranks; ++r) {
    to_each.push_back(100 * me + r);
    from_each.push_back(100 * r + me);
  }
  begin_all_to_all(comm, {whole(DType::kF32), Tensor::from(to_each)}, turned).wait();
  CHECK(turned[1].to_vector<std::int64_t>() == from_each);
  for (int r = 0; r < ranks; ++r) {
    CHECK(equal(turned[0].slice(0, 2 * r, 2 * r + 2), tensor(me, small, DType::kF32)));
  }

  TensorList from_last{tensor(me, small, DType::kF32), tensor(me, {5}, DType::kBF16)};
  begin_broadcast(comm, from_last, ranks - 1).wait();
  CHECK(equal(from_last[0], tensor(ranks - 1, small, DType::kF32)));
  CHECK(equal(from_last[1], tensor(ranks - 1, {5}, DType::kBF16)));

  TensorList before{Tensor::zeros(small, DType::kF64), Tensor::zeros({7}, DType::kF32)};
  const int next = me + 1 < ranks ? me + 1 : kNoRank, last = me > 0 ? me - 1 : kNoRank;
  begin_send_recv(comm, {tensor(me, small, DType::kF64), tensor(me, {7}, DType::kF32)}, next,
                  before, last)
      .wait();
  if (last != kNoRank) {
    CHECK(equal(before[0], tensor(last, small, DType::kF64)));
    CHECK(equal(before[1], tensor(last, {7}, DType::kF32)));
  }
}

namespace {

void check_sums(Communicator& comm) {
  const int ranks = comm.size(), me = comm.rank();
  const auto sum = [](int from, int to, const Shape& shape) {
    Tensor all = Tensor::zeros(shape, DType::kF64);
    for (int r = from; r < to; ++r) {
      all.add_(tensor(r, shape, DType::kF64));
    }
    return all;
  };
  // Several under way at once, in order, and a call between them.
  TensorList a{tensor(me, {4, 5}, DType::kF64), strided(tensor(me, {3}, DType::kF64))};
  TensorList b{tensor(me, {6}, DType::kF64)};
  Pending first = begin_all_reduce(comm, a), second = begin_exclusive_scan(comm, b);
  CHECK(comm.reduce_value(Index{1}) == ranks);
  CHECK(first.done());
  first.wait();
  second.wait();
  CHECK(equal(a[0], sum(0, ranks, {4, 5})));
  CHECK(equal(a[1], sum(0, ranks, {3})));
  CHECK(equal(b[0], sum(0, me, {6})));

  TensorList mine{Tensor::zeros({2, 3}, DType::kF64), Tensor::zeros({1}, DType::kF64)};
  begin_reduce_scatter(
      comm, {tensor(me, {2 * ranks, 3}, DType::kF64), tensor(me, {ranks}, DType::kF64)}, mine)
      .wait();
  CHECK(equal(mine[0], sum(0, ranks, {2 * ranks, 3}).slice(0, 2 * me, 2 * me + 2)));
  CHECK(equal(mine[1], sum(0, ranks, {ranks}).slice(0, me, me + 1)));

  // The last rank is the first.
  const std::unique_ptr<Communicator> back = comm.reversed();
  TensorList c{tensor(me, {6}, DType::kF64)};
  begin_exclusive_scan(*back, c).wait();
  Tensor later = Tensor::zeros({6}, DType::kF64);
  for (int r = ranks - 1; r > me; --r) {
    later.add_(tensor(r, {6}, DType::kF64));
  }
  CHECK(equal(c[0], later));
}

}  // namespace

void check_lists(Communicator& comm) {
  check_moved_lists(comm);
  check_sums(comm);
  CHECK(says(
      message([&] {
        begin_all_reduce(comm, {Tensor::zeros({1}, DType::kF32), Tensor::zeros({1}, DType::kF64)});
      }),
      "all_reduce of a list with f32 and f64: expected one type"));
  TensorList none;
  begin_all_reduce(comm, none).wait();
}

}  // namespace ls::test::comm
