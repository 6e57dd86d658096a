// Sums, maxima and minima are the definition bit for bit.
#include <doctest/doctest.h>

#include <limits>

#include "tests/laws/comm/samples.h"

namespace ls::test::comm {

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

template void check_reductions<float>(Communicator&);
template void check_reductions<double>(Communicator&);
template void check_reductions<bf16>(Communicator&);
template void check_reductions<f16>(Communicator&);
template void check_reductions<std::int64_t>(Communicator&);
template void check_reductions<std::int32_t>(Communicator&);

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

}  // namespace ls::test::comm
