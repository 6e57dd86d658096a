#pragma once
// Communicator: what a program that runs as several ranks may ask of the others. Transports: one
// process alone (here), threads (core/comm/thread_comm.h), MPI (parallel/mpi_env.h); NCCL will be
// one more.
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/types.h"
#include "core/comm/pending.h"

namespace ls {

enum class ReduceOp : std::uint8_t { kSum, kMax, kMin };
std::string_view reduce_op_name(ReduceOp op);

/// "No partner" in send_recv; "no group" in split.
inline constexpr int kNoRank = -1;
/// Largest tag of send, recv and send_recv; tags start at 0.
inline constexpr int kMaxTag = 16383;

/// One operation as its caller asked for it. Transports compare it across ranks and print it.
struct CommCall {
  enum class Kind : std::uint8_t {
    kAllReduce,
    kReduceScatter,
    kBroadcast,
    kAllGather,
    kAllToAll,
    kSendRecv,
    kBarrier,
  };
  Kind kind = Kind::kBarrier;
  DType dtype = DType::kU8;
  ReduceOp op = ReduceOp::kSum;
  Index n = 0;         // elements, as the operation counts them; 0 where ranks may differ
  int to = kNoRank;    // receiver of a message
  int from = kNoRank;  // sender of a message, root of a broadcast
  int tag = 0;
};
std::string_view comm_kind_name(CommCall::Kind kind);
/// "all_reduce(sum of 1024 f32)".
std::string describe(const CommCall& call);

/// A group of ranks, numbered 0 to size()-1.
///
/// - Every rank of the group makes the same calls in the same order; counts are elements, 64-bit.
/// - Results are the same bits on every rank, in every run and over every transport: element by
///   element, contributions are taken in rank order, whoever arrives first. bf16 and f16 are
///   summed in f32 and rounded once; integer sums wrap; a NaN anywhere makes max and min NaN.
/// - A call returns when its buffers may be used again. A transport bound to a device stream may
///   order its work on that stream instead. core/comm/lists.h has the same operations on lists of
///   tensors, under way while the caller works; a call waits for those that were begun before it.
/// - One thread at a time per communicator; different communicators may be used at the same time.
///   What was begun is waited for before the communicator goes.
/// - @throws Error(Comm) if another rank failed, ended, called something else, or stayed away
///   longer than time_limit(); the group is then broken for good. Error(Shape|DType|Config) for a
///   wrong argument, before anything is sent.
class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// For messages: "solo", "threads", "mpi", "mpi/split".
  virtual std::string name() const = 0;

  /// Seconds that one operation may wait for the other ranks. Starts as default_comm_time_limit();
  /// a split inherits it. Set the same on every rank.
  virtual double time_limit() const { return time_limit_; }
  virtual void set_time_limit(double seconds);

  /// data[n] of every rank becomes the reduction over ranks. @dtype f64 f32 bf16 f16 i64 i32
  void all_reduce(void* data, Index n, DType dtype, ReduceOp op = ReduceOp::kSum);
  /// Reduction of one number per rank.
  template <class T>
  T reduce_value(T value, ReduceOp op = ReduceOp::kSum) {
    all_reduce(&value, 1, dtype_of_v<T>, op);
    return value;
  }
  /// Block r of the reduction, of n elements, ends in `out` of rank r.
  /// @shape in [R*n] -> out [n]; out may be in + rank*n, else they do not overlap
  void reduce_scatter(const void* in, void* out, Index n, DType dtype,
                      ReduceOp op = ReduceOp::kSum);
  /// data[n] becomes the sum over the ranks before this one, in their order; zeros on the first.
  void exclusive_scan(void* data, Index n, DType dtype);
  /// data[n] of `root` is copied to every rank.
  void broadcast(void* data, Index n, DType dtype, int root = 0);
  /// @shape in [n] -> out [R*n]; in may be out + rank*n, else they do not overlap
  void all_gather(const void* in, void* out, Index n, DType dtype);
  /// Blocks of different lengths: counts[r] elements come from rank r and lie one after the other
  /// in `out`. Every rank passes the same counts. @shape in [counts[rank]] -> out [sum of counts]
  void all_gather(const void* in, void* out, std::span<const Index> counts, DType dtype);
  /// Block j of `in` goes to rank j; block j of `out` came from rank j. @shape in, out [R*n]
  void all_to_all(const void* in, void* out, Index n, DType dtype);
  /// Blocks of different lengths, one after the other: in_counts[j] elements go to rank j and
  /// out_counts[j] come from it, so in_counts[j] here is out_counts[rank] there.
  void all_to_all(const void* in, std::span<const Index> in_counts, void* out,
                  std::span<const Index> out_counts, DType dtype);

  /// May wait for the matching recv. Messages of one sender and tag arrive in order; n must agree.
  /// Not to oneself.
  void send(const void* data, Index n, DType dtype, int to, int tag = 0);
  void recv(void* data, Index n, DType dtype, int from, int tag = 0);
  /// Both at once, so that rings and exchanges cannot lock up. `to` or `from` may be kNoRank (the
  /// end of a chain) or one's own rank (both then).
  void send_recv(const void* out, Index n_out, int to, void* in, Index n_in, int from, DType dtype,
                 int tag = 0);

  void barrier();

  /// Ranks of one colour become a group of their own, ordered by (key, rank here). With colour
  /// kNoRank a rank joins none and gets nullptr. Called by every rank.
  std::unique_ptr<Communicator> split(int color, Index key = 0);
  /// The ranks as a grid of these extents, the last axis running fastest: for each axis the group
  /// of those that differ from this rank there alone, in its order. Called by every rank.
  /// @throws Error(Config) where the grid has another number of ranks
  std::vector<std::unique_ptr<Communicator>> split_axes(std::span<const int> extents);
  /// The same group with rank r renamed size()-1-r, so that a strategy written for the forward
  /// direction serves the backward one. Reductions keep the order, and so the bits, of this group.
  /// A view: this communicator must outlive it.
  std::unique_ptr<Communicator> reversed();

  /// The same group for what is put on streams of devices, which goes on beside what the host asks
  /// for. Made when first asked for, by every rank.
  virtual Communicator& on_streams();

  /// Where operations under way run, in the order in which they were begun.
  virtual CommQueue& queue() { return queue_; }

 protected:
  Communicator();

  // Transport. Arguments are checked; block sizes are in bytes and there is one per rank.
  virtual void do_all_reduce(const CommCall& call, void* data) = 0;
  virtual void do_reduce_scatter(const CommCall& call, const void* in, void* out) = 0;
  virtual void do_broadcast(const CommCall& call, void* data) = 0;
  virtual void do_all_gather(const CommCall& call, const void* in, void* out,
                             std::span<const Index> bytes) = 0;
  virtual void do_all_to_all(const CommCall& call, const void* in, std::span<const Index> in_bytes,
                             void* out, std::span<const Index> out_bytes) = 0;
  /// call.to or call.from, not both, may be kNoRank; both may be this rank.
  virtual void do_send_recv(const CommCall& call, const void* out, Index out_bytes, void* in,
                            Index in_bytes) = 0;
  virtual void do_barrier(const CommCall& call) = 0;
  /// members: ranks here of the new group of this rank in their new order; empty for none.
  virtual std::unique_ptr<Communicator> do_split(std::span<const int> members) = 0;

 private:
  friend class ReversedComm;
  double time_limit_;
  CommQueue queue_;
  std::unique_ptr<Communicator> streams_;
};

/// The group of one: everything is a copy or nothing.
std::unique_ptr<Communicator> solo_communicator();

/// 600 s, or LONGSCAN_COMM_TIMEOUT (seconds).
/// @throws Error(Config) if that is not a positive number
double default_comm_time_limit();

/// Reduces n elements of parts[0], parts[1], ... in that order and writes the result to every one
/// of `results`, which may be the parts themselves. For transports; see Communicator for the
/// arithmetic.
void reduce_in_order(std::span<const void* const> parts, std::span<void* const> results, Index n,
                     DType dtype, ReduceOp op);

}  // namespace ls
