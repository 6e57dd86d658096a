#include "core/comm/comm.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/base/error.h"

namespace ls {
namespace {

using Kind = CommCall::Kind;

std::byte* at(void* p, Index offset) {
  return static_cast<std::byte*>(p) + offset;
}
const std::byte* at(const void* p, Index offset) {
  return static_cast<const std::byte*>(p) + offset;
}

void copy_bytes(void* to, const void* from, Index bytes) {
  if (bytes > 0 && to != from) {
    std::memmove(to, from, static_cast<std::size_t>(bytes));
  }
}

void check_buffer(const Communicator& comm, const CommCall& call, const void* data, Index n) {
  LS_CHECK(n >= 0, kShape, "{} on '{}': the count is {}; expected 0 or more", describe(call),
           comm.name(), n);
  LS_CHECK(data != nullptr || n == 0, kShape, "{} on '{}': {} elements at a null pointer",
           describe(call), comm.name(), n);
}

void check_rank(const Communicator& comm, const CommCall& call, int rank) {
  LS_CHECK(rank >= 0 && rank < comm.size(), kConfig,
           "{} on '{}': there is no rank {}; expected 0 to {}", describe(call), comm.name(), rank,
           comm.size() - 1);
}

void check_reducible(const Communicator& comm, const CommCall& call) {
  LS_CHECK(is_float(call.dtype) || call.dtype == DType::kI64 || call.dtype == DType::kI32, kDType,
           "{} on '{}': {} cannot be reduced; expected f64, f32, bf16, f16, i64 or i32",
           describe(call), comm.name(), enum_name(call.dtype));
}

Index check_counts(const Communicator& comm, const CommCall& call, std::span<const Index> counts) {
  LS_CHECK(std::ssize(counts) == comm.size(), kShape,
           "{} on '{}': {} block lengths for {} ranks; expected one per rank", describe(call),
           comm.name(), counts.size(), comm.size());
  Index total = 0;
  for (const Index n : counts) {
    LS_CHECK(n >= 0, kShape, "{} on '{}': a block length is {}; expected 0 or more", describe(call),
             comm.name(), n);
    total += n;
  }
  return total;
}

std::vector<Index> bytes_of(std::span<const Index> counts, DType dtype) {
  std::vector<Index> bytes(counts.begin(), counts.end());
  for (Index& b : bytes) {
    b *= dtype_size(dtype);
  }
  return bytes;
}

/// Ranks of the colour of `rank` in the order of the new group.
std::vector<int> group_of(std::span<const Index> color_and_key, int rank) {
  const auto color = [&](int r) { return color_and_key[2 * static_cast<std::size_t>(r)]; };
  const auto key = [&](int r) { return color_and_key[2 * static_cast<std::size_t>(r) + 1]; };
  std::vector<int> members;
  if (color(rank) == kNoRank) {
    return members;
  }
  for (int r = 0; r < static_cast<int>(color_and_key.size() / 2); ++r) {
    if (color(r) == color(rank)) {
      members.push_back(r);
    }
  }
  std::stable_sort(members.begin(), members.end(), [&](int a, int b) { return key(a) < key(b); });
  return members;
}

template <class Acc>
Acc combine(ReduceOp op, Acc a, Acc x) {
  switch (op) {
    case ReduceOp::kSum:
      if constexpr (std::is_integral_v<Acc>) {
        using U = std::make_unsigned_t<Acc>;  // wraps instead of overflowing
        return static_cast<Acc>(static_cast<U>(a) + static_cast<U>(x));
      } else {
        return a + x;
      }
    case ReduceOp::kMax:
      return (a < x || x != x) ? x : a;
    case ReduceOp::kMin:
      return (x < a || x != x) ? x : a;
  }
  return a;
}

template <class T, class Acc, ReduceOp kOp>
void reduce_typed(std::span<const void* const> parts, std::span<void* const> results, Index n) {
  // A tile is read from every part before any result of it is written: parts may be results.
  constexpr Index kTile = 512;
  Acc acc[kTile];
  for (Index begin = 0; begin < n; begin += kTile) {
    const Index count = std::min(kTile, n - begin);
    const T* first = static_cast<const T*>(parts[0]) + begin;
    for (Index i = 0; i < count; ++i) {
      acc[i] = static_cast<Acc>(first[i]);
    }
    for (const void* part : parts.subspan(1)) {
      const T* x = static_cast<const T*>(part) + begin;
      for (Index i = 0; i < count; ++i) {
        acc[i] = combine(kOp, acc[i], static_cast<Acc>(x[i]));
      }
    }
    for (void* result : results) {
      T* y = static_cast<T*>(result) + begin;
      for (Index i = 0; i < count; ++i) {
        y[i] = static_cast<T>(acc[i]);
      }
    }
  }
}

template <class T, class Acc>
void reduce_with(std::span<const void* const> parts, std::span<void* const> results, Index n,
                 ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return reduce_typed<T, Acc, ReduceOp::kSum>(parts, results, n);
    case ReduceOp::kMax:
      return reduce_typed<T, Acc, ReduceOp::kMax>(parts, results, n);
    case ReduceOp::kMin:
      return reduce_typed<T, Acc, ReduceOp::kMin>(parts, results, n);
  }
}

class SoloComm final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::string name() const override { return "solo"; }

 protected:
  void do_all_reduce(const CommCall&, void*) override {}
  void do_reduce_scatter(const CommCall& call, const void* in, void* out) override {
    copy_bytes(out, in, call.n * dtype_size(call.dtype));
  }
  void do_broadcast(const CommCall&, void*) override {}
  void do_all_gather(const CommCall&, const void* in, void* out,
                     std::span<const Index> bytes) override {
    copy_bytes(out, in, bytes[0]);
  }
  void do_all_to_all(const CommCall& call, const void* in, std::span<const Index> in_bytes,
                     void* out, std::span<const Index> out_bytes) override {
    LS_CHECK(in_bytes[0] == out_bytes[0], kComm,
             "{} on 'solo': rank 0 sends {} bytes to itself and expects {}", describe(call),
             in_bytes[0], out_bytes[0]);
    copy_bytes(out, in, in_bytes[0]);
  }
  void do_send_recv(const CommCall& call, const void* out, Index out_bytes, void* in,
                    Index in_bytes) override {
    LS_CHECK(out_bytes == in_bytes, kComm,
             "{} on 'solo': rank 0 sends {} bytes to itself and expects {}", describe(call),
             out_bytes, in_bytes);
    copy_bytes(in, out, out_bytes);
  }
  void do_barrier(const CommCall&) override {}
  std::unique_ptr<Communicator> do_split(std::span<const int> members) override {
    return members.empty() ? nullptr : std::make_unique<SoloComm>();
  }
};

}  // namespace

/// Renames ranks and blocks; the base does the rest.
class ReversedComm final : public Communicator {
 public:
  explicit ReversedComm(Communicator& base) : base_(base) {}
  int rank() const override { return flip(base_.rank()); }
  int size() const override { return base_.size(); }
  std::string name() const override { return base_.name() + "/reversed"; }
  double time_limit() const override { return base_.time_limit(); }
  void set_time_limit(double seconds) override { base_.set_time_limit(seconds); }
  CommQueue& queue() override { return base_.queue(); }
  Communicator& on_streams() override {
    if (!streams_) {
      streams_ = base_.on_streams().reversed();
    }
    return *streams_;
  }

 protected:
  void do_all_reduce(const CommCall& call, void* data) override { base_.do_all_reduce(call, data); }
  void do_reduce_scatter(const CommCall& call, const void* in, void* out) override {
    const Index block = call.n * dtype_size(call.dtype);
    std::vector<std::byte> flipped(static_cast<std::size_t>(block * size()));
    for (int r = 0; r < size(); ++r) {
      copy_bytes(flipped.data() + flip(r) * block, at(in, r * block), block);
    }
    base_.do_reduce_scatter(call, flipped.data(), out);
  }
  void do_broadcast(const CommCall& call, void* data) override {
    base_.do_broadcast(renamed(call), data);
  }
  void do_all_gather(const CommCall& call, const void* in, void* out,
                     std::span<const Index> bytes) override {
    const std::vector<Index> base_bytes(bytes.rbegin(), bytes.rend());
    std::vector<std::byte> gathered(total(bytes));
    base_.do_all_gather(call, in, gathered.data(), base_bytes);
    flip_blocks(gathered.data(), base_bytes, out);
  }
  void do_all_to_all(const CommCall& call, const void* in, std::span<const Index> in_bytes,
                     void* out, std::span<const Index> out_bytes) override {
    const std::vector<Index> base_in(in_bytes.rbegin(), in_bytes.rend());
    const std::vector<Index> base_out(out_bytes.rbegin(), out_bytes.rend());
    std::vector<std::byte> sent(total(in_bytes)), received(total(out_bytes));
    flip_blocks(in, in_bytes, sent.data());
    base_.do_all_to_all(call, sent.data(), base_in, received.data(), base_out);
    flip_blocks(received.data(), base_out, out);
  }
  void do_send_recv(const CommCall& call, const void* out, Index out_bytes, void* in,
                    Index in_bytes) override {
    base_.do_send_recv(renamed(call), out, out_bytes, in, in_bytes);
  }
  void do_barrier(const CommCall& call) override { base_.do_barrier(call); }
  std::unique_ptr<Communicator> do_split(std::span<const int> members) override {
    std::vector<int> base_members;
    for (const int r : members) {
      base_members.push_back(flip(r));
    }
    return base_.do_split(base_members);
  }

 private:
  int flip(int rank) const { return rank == kNoRank ? kNoRank : base_.size() - 1 - rank; }
  CommCall renamed(CommCall call) const {
    call.to = flip(call.to);
    call.from = flip(call.from);
    return call;
  }
  static std::size_t total(std::span<const Index> bytes) {
    return static_cast<std::size_t>(std::accumulate(bytes.begin(), bytes.end(), Index{0}));
  }
  /// Copies blocks, lying in the order of `bytes`, so that the last comes first.
  static void flip_blocks(const void* from, std::span<const Index> bytes, void* to) {
    Index source = 0, target = static_cast<Index>(total(bytes));
    for (const Index b : bytes) {
      target -= b;
      copy_bytes(at(to, target), at(from, source), b);
      source += b;
    }
  }

  Communicator& base_;
  std::unique_ptr<Communicator> streams_;
};

std::string_view reduce_op_name(ReduceOp op) {
  constexpr std::string_view kNames[] = {"sum", "max", "min"};
  return kNames[static_cast<int>(op)];
}

std::string_view comm_kind_name(Kind kind) {
  constexpr std::string_view kNames[] = {"all_reduce", "reduce_scatter", "broadcast", "all_gather",
                                         "all_to_all", "send_recv",      "barrier"};
  return kNames[static_cast<int>(kind)];
}

std::string describe(const CommCall& call) {
  const std::string_view name = comm_kind_name(call.kind);
  const std::string_view dtype = enum_name(call.dtype);
  switch (call.kind) {
    case Kind::kAllReduce:
    case Kind::kReduceScatter:
      return fmt::format("{}({} of {} {})", name, reduce_op_name(call.op), call.n, dtype);
    case Kind::kBroadcast:
      return fmt::format("{}({} {} from rank {})", name, call.n, dtype, call.from);
    case Kind::kAllGather:
      return fmt::format("{}({} {})", name, call.n, dtype);
    case Kind::kAllToAll:
      return fmt::format("{}({})", name, dtype);
    case Kind::kSendRecv:
      if (call.from == kNoRank) {
        return fmt::format("send({} to rank {}, tag {})", dtype, call.to, call.tag);
      }
      if (call.to == kNoRank) {
        return fmt::format("recv({} from rank {}, tag {})", dtype, call.from, call.tag);
      }
      return fmt::format("send_recv({} to rank {}, from rank {}, tag {})", dtype, call.to,
                         call.from, call.tag);
    case Kind::kBarrier:
      break;
  }
  return std::string(name);
}

Communicator::Communicator() : time_limit_(default_comm_time_limit()) {}

void Communicator::set_time_limit(double seconds) {
  LS_CHECK(seconds > 0, kConfig, "time limit of '{}' is {} s; expected more than 0", name(),
           seconds);
  time_limit_ = seconds;
}

void Communicator::all_reduce(void* data, Index n, DType dtype, ReduceOp op) {
  const CommCall call{.kind = Kind::kAllReduce, .dtype = dtype, .op = op, .n = n};
  check_buffer(*this, call, data, n);
  check_reducible(*this, call);
  queue().settle();
  do_all_reduce(call, data);
}

void Communicator::reduce_scatter(const void* in, void* out, Index n, DType dtype, ReduceOp op) {
  const CommCall call{.kind = Kind::kReduceScatter, .dtype = dtype, .op = op, .n = n};
  check_buffer(*this, call, in, n);
  check_buffer(*this, call, out, n);
  check_reducible(*this, call);
  queue().settle();
  do_reduce_scatter(call, in, out);
}

void Communicator::exclusive_scan(void* data, Index n, DType dtype) {
  const CommCall call{.kind = Kind::kAllGather, .dtype = dtype, .n = n};
  check_buffer(*this, call, data, n);
  check_reducible(*this, call);
  std::vector<std::byte> all(static_cast<std::size_t>(n * dtype_size(dtype) * size()));
  all_gather(data, all.data(), n, dtype);
  std::vector<const void*> earlier;
  for (int r = 0; r < rank(); ++r) {
    earlier.push_back(at(all.data(), r * n * dtype_size(dtype)));
  }
  if (earlier.empty()) {
    std::fill_n(static_cast<std::byte*>(data), n * dtype_size(dtype), std::byte{0});
  } else {
    reduce_in_order(earlier, {&data, 1}, n, dtype, ReduceOp::kSum);
  }
}

void Communicator::broadcast(void* data, Index n, DType dtype, int root) {
  const CommCall call{.kind = Kind::kBroadcast, .dtype = dtype, .n = n, .from = root};
  check_buffer(*this, call, data, n);
  check_rank(*this, call, root);
  queue().settle();
  do_broadcast(call, data);
}

void Communicator::all_gather(const void* in, void* out, Index n, DType dtype) {
  const std::vector<Index> counts(static_cast<std::size_t>(size()), n);
  all_gather(in, out, counts, dtype);
}

void Communicator::all_gather(const void* in, void* out, std::span<const Index> counts,
                              DType dtype) {
  CommCall call{.kind = Kind::kAllGather, .dtype = dtype};
  call.n = check_counts(*this, call, counts);
  check_buffer(*this, call, in, counts[rank()]);
  check_buffer(*this, call, out, call.n);
  queue().settle();
  do_all_gather(call, in, out, bytes_of(counts, dtype));
}

void Communicator::all_to_all(const void* in, void* out, Index n, DType dtype) {
  const std::vector<Index> counts(static_cast<std::size_t>(size()), n);
  all_to_all(in, counts, out, counts, dtype);
}

void Communicator::all_to_all(const void* in, std::span<const Index> in_counts, void* out,
                              std::span<const Index> out_counts, DType dtype) {
  const CommCall call{.kind = Kind::kAllToAll, .dtype = dtype};
  check_buffer(*this, call, in, check_counts(*this, call, in_counts));
  check_buffer(*this, call, out, check_counts(*this, call, out_counts));
  queue().settle();
  do_all_to_all(call, in, bytes_of(in_counts, dtype), out, bytes_of(out_counts, dtype));
}

void Communicator::send(const void* data, Index n, DType dtype, int to, int tag) {
  LS_CHECK(to != kNoRank && to != rank(), kConfig,
           "send on '{}' to rank {} by rank {}: expected another rank", name(), to, rank());
  send_recv(data, n, to, nullptr, 0, kNoRank, dtype, tag);
}

void Communicator::recv(void* data, Index n, DType dtype, int from, int tag) {
  LS_CHECK(from != kNoRank && from != rank(), kConfig,
           "recv on '{}' from rank {} by rank {}: expected another rank", name(), from, rank());
  send_recv(nullptr, 0, kNoRank, data, n, from, dtype, tag);
}

void Communicator::send_recv(const void* out, Index n_out, int to, void* in, Index n_in, int from,
                             DType dtype, int tag) {
  const CommCall call{.kind = Kind::kSendRecv, .dtype = dtype, .to = to, .from = from, .tag = tag};
  LS_CHECK(tag >= 0 && tag <= kMaxTag, kConfig, "{} on '{}': expected a tag of 0 to {}",
           describe(call), name(), kMaxTag);
  LS_CHECK((to == rank()) == (from == rank()), kConfig,
           "{} on '{}' by rank {}: a message to oneself needs both ends", describe(call), name(),
           rank());
  if (to != kNoRank) {
    check_rank(*this, call, to);
    check_buffer(*this, call, out, n_out);
  }
  if (from != kNoRank) {
    check_rank(*this, call, from);
    check_buffer(*this, call, in, n_in);
  }
  if (to != kNoRank || from != kNoRank) {
    queue().settle();
    do_send_recv(call, out, n_out * dtype_size(dtype), in, n_in * dtype_size(dtype));
  }
}

void Communicator::barrier() {
  queue().settle();
  do_barrier({.kind = Kind::kBarrier});
}

std::unique_ptr<Communicator> Communicator::split(int color, Index key) {
  LS_CHECK(color >= kNoRank, kConfig, "split of '{}': colour {}; expected 0 or more, or kNoRank",
           name(), color);
  const Index mine[2] = {color, key};
  std::vector<Index> all(2 * static_cast<std::size_t>(size()));
  all_gather(mine, all.data(), 2, DType::kI64);
  std::unique_ptr<Communicator> group = do_split(group_of(all, rank()));
  if (group) {
    group->set_time_limit(time_limit());
  }
  return group;
}

std::vector<std::unique_ptr<Communicator>> Communicator::split_axes(std::span<const int> extents) {
  Index ranks = 1;
  for (const int n : extents) {
    LS_CHECK(n > 0, kConfig, "split_axes of '{}': an extent is {}; expected 1 or more", name(), n);
    ranks *= n;
  }
  LS_CHECK(ranks == size(), kConfig, "split_axes of '{}': a grid of {} ranks for {}", name(), ranks,
           size());
  std::vector<std::unique_ptr<Communicator>> groups;
  int behind = size();  // ranks that one step along the axis passes
  for (const int n : extents) {
    behind /= n;
    const int along = rank() / behind % n;
    groups.push_back(split(rank() - along * behind, along));
  }
  return groups;
}

Communicator& Communicator::on_streams() {
  if (!streams_) {
    streams_ = split(0, rank());
  }
  return *streams_;
}

std::unique_ptr<Communicator> Communicator::reversed() {
  return std::make_unique<ReversedComm>(*this);
}

std::unique_ptr<Communicator> solo_communicator() {
  return std::make_unique<SoloComm>();
}

double default_comm_time_limit() {
  const char* text = std::getenv("LONGSCAN_COMM_TIMEOUT");
  if (text == nullptr || *text == '\0') {
    return 600;
  }
  char* end = nullptr;
  const double seconds = std::strtod(text, &end);
  LS_CHECK(*end == '\0' && std::isfinite(seconds) && seconds > 0, kConfig,
           "LONGSCAN_COMM_TIMEOUT is '{}'; expected a number of seconds above 0", text);
  return seconds;
}

void reduce_in_order(std::span<const void* const> parts, std::span<void* const> results, Index n,
                     DType dtype, ReduceOp op) {
  switch (dtype) {
    case DType::kF64:
      return reduce_with<double, double>(parts, results, n, op);
    case DType::kF32:
      return reduce_with<float, float>(parts, results, n, op);
    case DType::kBF16:
      return reduce_with<bf16, float>(parts, results, n, op);
    case DType::kF16:
      return reduce_with<f16, float>(parts, results, n, op);
    case DType::kI64:
      return reduce_with<std::int64_t, std::int64_t>(parts, results, n, op);
    case DType::kI32:
      return reduce_with<std::int32_t, std::int32_t>(parts, results, n, op);
    case DType::kU8:
    case DType::kBool:
      break;
  }
  LS_FAIL(kDType, "{} cannot be reduced; expected f64, f32, bf16, f16, i64 or i32",
          enum_name(dtype));
}

}  // namespace ls
