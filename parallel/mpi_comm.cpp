#include "parallel/mpi_comm.h"

#ifdef LS_HAVE_MPI
#define OMPI_SKIP_MPICXX 1  // the C interface only
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "parallel/rank_board.h"

namespace ls::parallel {
namespace {

using Clock = std::chrono::steady_clock;

/// Collectives use tags above those of messages, one per kind: different kinds never match.
constexpr int kCollectiveTag = kMaxTag + 1;
/// all_reduce works through longer data in pieces: bounds the workspace.
constexpr Index kSegmentBytes = Index{16} << 20;
/// Up to so many bytes in all, every rank gets everything and reduces alone: one step, not two.
constexpr Index kSmallBytes = Index{64} << 10;
/// A rank that returned may have sent before: wait this long for what is on the way.
constexpr double kStragglerSeconds = 1;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::size_t as_size(Index n) {
  return static_cast<std::size_t>(n);
}
std::byte* at(void* p, Index offset) {
  return static_cast<std::byte*>(p) + offset;
}
const std::byte* at(const void* p, Index offset) {
  return static_cast<const std::byte*>(p) + offset;
}

void copy(void* to, const void* from, Index bytes) {
  if (bytes > 0 && to != from) {
    std::memmove(to, from, as_size(bytes));
  }
}

/// Polls done() until it is true. Spins while an answer is likely to be near, then sleeps, so that
/// waiting ranks leave the cores to working ones. idle(seconds) may throw to give up.
template <class Done, class Idle>
void poll(const MpiContext& context, Done done, Idle idle) {
  if (done()) {
    return;
  }
  const double spin_s = context.crowded ? 50e-6 : 2e-3;
  const Clock::time_point start = Clock::now();
  while (!done()) {
    const double waited = seconds_since(start);
    idle(waited);
    if (waited < spin_s) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }
}

void throw_if_job_failed(const RankBoard& board, const std::string& where) {
  if (const auto failure = board.failure()) {
    LS_FAIL(kComm, "{}: rank {} failed: {}", where, failure->rank, failure->why);
  }
}

class MpiComm final : public Communicator {
 public:
  MpiComm(MpiContext& context, MPI_Comm comm, std::string name)
      : context_(context), comm_(comm), name_(std::move(name)) {
    LS_MPI(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN));
    LS_MPI(MPI_Comm_rank(comm_, &rank_));
    LS_MPI(MPI_Comm_size(comm_, &size_));
    MPI_Group mine = MPI_GROUP_NULL, world = MPI_GROUP_NULL;
    LS_MPI(MPI_Comm_group(comm_, &mine));
    LS_MPI(MPI_Comm_group(MPI_COMM_WORLD, &world));
    std::vector<int> ranks(as_size(size_));
    std::iota(ranks.begin(), ranks.end(), 0);
    world_ranks_.resize(ranks.size());
    LS_MPI(MPI_Group_translate_ranks(mine, size_, ranks.data(), world, world_ranks_.data()));
    LS_MPI(MPI_Group_free(&mine));
    LS_MPI(MPI_Group_free(&world));
  }
  ~MpiComm() override {
    // Freeing is collective in principle: not while this rank or another is failing.
    if (std::uncaught_exceptions() == 0 && !context_.board.failure()) {
      const std::lock_guard lock(context_.mutex);
      MPI_Comm_free(&comm_);
    }
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string name() const override { return name_; }

 protected:
  void do_all_reduce(const CommCall& call, void* data) override {
    const Index element = dtype_size(call.dtype);
    if (call.n * element * size_ <= kSmallBytes) {
      const Index bytes = call.n * element;
      std::byte* all = workspace(bytes * size_);
      const std::vector<Index> counts(as_size(size_), bytes);
      do_all_gather(call, data, all, counts);
      reduce_in_order(blocks(all, bytes, nullptr), {&data, 1}, call.n, call.dtype, call.op);
      return;
    }
    const Index segment = std::max<Index>(size_, kSegmentBytes / element);
    for (Index begin = 0; begin < call.n; begin += segment) {
      all_reduce_segment(call, at(data, begin * element), std::min(segment, call.n - begin));
    }
  }

  void do_reduce_scatter(const CommCall& call, const void* in, void* out) override {
    const Index element = dtype_size(call.dtype);
    const Index segment = std::max<Index>(1, kSegmentBytes / (element * size_));
    Index begin = 0;
    do {
      const Index n = std::min(segment, call.n - begin), bytes = n * element;
      std::byte* theirs = workspace(bytes * size_);
      Exchange exchange(*this, call, kCollectiveTag + static_cast<int>(call.kind));
      for (int r = 0; r < size_; ++r) {
        if (r != rank_) {
          exchange.receive(r, theirs + r * bytes, bytes);
          exchange.send(r, at(in, (r * call.n + begin) * element), bytes);
        }
      }
      exchange.finish();
      void* result = at(out, begin * element);
      reduce_in_order(blocks(theirs, bytes, at(in, (rank_ * call.n + begin) * element)),
                      {&result, 1}, n, call.dtype, call.op);
      begin += n;
    } while (begin < call.n);
  }

  void do_broadcast(const CommCall& call, void* data) override {
    const Index bytes = call.n * dtype_size(call.dtype);
    Exchange exchange(*this, call, 0);
    for (Index begin = 0; begin < bytes; begin += context_.message_bytes) {
      const Index n = std::min(context_.message_bytes, bytes - begin);
      exchange.post([&](MPI_Request* request) {
        LS_MPI(
            MPI_Ibcast(at(data, begin), static_cast<int>(n), MPI_BYTE, call.from, comm_, request));
      });
    }
    exchange.finish();
  }

  void do_all_gather(const CommCall& call, const void* in, void* out,
                     std::span<const Index> bytes) override {
    Exchange exchange(*this, call, kCollectiveTag + static_cast<int>(call.kind));
    Index offset = 0;
    for (int r = 0; r < size_; ++r) {
      if (r == rank_) {
        copy(at(out, offset), in, bytes[as_size(r)]);
      } else {
        exchange.receive(r, at(out, offset), bytes[as_size(r)]);
      }
      offset += bytes[as_size(r)];
    }
    for (int r = 0; r < size_; ++r) {
      if (r != rank_) {
        exchange.send(r, in, bytes[as_size(rank_)]);
      }
    }
    exchange.finish();
  }

  void do_all_to_all(const CommCall& call, const void* in, std::span<const Index> in_bytes,
                     void* out, std::span<const Index> out_bytes) override {
    Exchange exchange(*this, call, kCollectiveTag + static_cast<int>(call.kind));
    Index in_offset = 0, out_offset = 0;
    for (int r = 0; r < size_; ++r) {
      const Index sent = in_bytes[as_size(r)], received = out_bytes[as_size(r)];
      if (r == rank_) {
        check_own_length(call, sent, received);
        copy(at(out, out_offset), at(in, in_offset), sent);
      } else {
        exchange.receive(r, at(out, out_offset), received);
        exchange.send(r, at(in, in_offset), sent);
      }
      in_offset += sent;
      out_offset += received;
    }
    exchange.finish();
  }

  void do_send_recv(const CommCall& call, const void* out, Index out_bytes, void* in,
                    Index in_bytes) override {
    if (call.to == rank_) {
      check_own_length(call, out_bytes, in_bytes);
      copy(in, out, out_bytes);
      return;
    }
    Exchange exchange(*this, call, call.tag);
    if (call.from != kNoRank) {
      exchange.receive(call.from, in, in_bytes);
    }
    if (call.to != kNoRank) {
      exchange.send(call.to, out, out_bytes);
    }
    exchange.finish();
  }

  void do_barrier(const CommCall& call) override {
    Exchange exchange(*this, call, 0);
    exchange.post([&](MPI_Request* request) { LS_MPI(MPI_Ibarrier(comm_, request)); });
    exchange.finish();
  }

  std::unique_ptr<Communicator> do_split(std::span<const int> members) override {
    // split() has just gathered from every rank, so all are here: the blocking call is short.
    const int color = members.empty() ? MPI_UNDEFINED : members[0];
    const auto key = static_cast<int>(std::ranges::find(members, rank_) - members.begin());
    MPI_Comm group = MPI_COMM_NULL;
    {
      const std::lock_guard lock(context_.mutex);
      LS_MPI(MPI_Comm_split(comm_, color, key, &group));
    }
    if (group == MPI_COMM_NULL) {
      return nullptr;
    }
    return std::make_unique<MpiComm>(context_, group, name_ + "/split");
  }

 private:
  /// Messages of one step, all under way at once.
  class Exchange {
   public:
    Exchange(MpiComm& comm, const CommCall& call, int tag) : comm_(comm), call_(call), tag_(tag) {}

    template <class Start>
    void post(Start start) {
      requests_.push_back(MPI_REQUEST_NULL);
      expected_.push_back({});
      const std::lock_guard lock(comm_.context_.mutex);
      start(&requests_.back());
    }
    void receive(int from, void* data, Index bytes) {
      pieces(bytes, [&](Index begin, int n) {
        post([&](MPI_Request* request) {
          LS_MPI(MPI_Irecv(at(data, begin), n, MPI_BYTE, from, tag_, comm_.comm_, request));
        });
        expected_.back() = {.from = from, .bytes = n};
      });
    }
    void send(int to, const void* data, Index bytes) {
      pieces(bytes, [&](Index begin, int n) {
        post([&](MPI_Request* request) {
          LS_MPI(MPI_Isend(at(data, begin), n, MPI_BYTE, to, tag_, comm_.comm_, request));
        });
      });
    }
    void finish() {
      std::vector<MPI_Status> statuses(requests_.size());
      comm_.wait(call_, requests_, statuses);
      for (std::size_t i = 0; i < requests_.size(); ++i) {
        if (expected_[i].from != kNoRank) {
          int bytes = 0;
          LS_MPI(MPI_Get_count(&statuses[i], MPI_BYTE, &bytes));
          LS_CHECK(bytes == expected_[i].bytes, kComm,
                   "{} by rank {} of {} on '{}': rank {} sent {} bytes where {} were expected",
                   describe(call_), comm_.rank_, comm_.size_, comm_.name_, expected_[i].from, bytes,
                   expected_[i].bytes);
        }
      }
    }

   private:
    struct Expected {
      int from = kNoRank;
      int bytes = 0;
    };
    /// At least one piece: empty messages are messages.
    template <class F>
    void pieces(Index bytes, F f) {
      Index begin = 0;
      do {
        const Index n = std::min(comm_.context_.message_bytes, bytes - begin);
        f(begin, static_cast<int>(n));
        begin += n;
      } while (begin < bytes);
    }

    MpiComm& comm_;
    const CommCall& call_;
    int tag_;
    std::vector<MPI_Request> requests_;
    std::vector<Expected> expected_;  // by request; from is kNoRank for what receives no message
  };

  void all_reduce_segment(const CommCall& call, void* data, Index n) {
    const Index element = dtype_size(call.dtype);
    const auto begin_of = [&](int r) { return n * r / size_; };
    const Index begin = begin_of(rank_), mine = begin_of(rank_ + 1) - begin;
    const int tag = kCollectiveTag + static_cast<int>(call.kind);
    std::byte* theirs = workspace(mine * element * size_);
    Exchange scatter(*this, call, tag), gather(*this, call, tag);
    for (int r = 0; r < size_; ++r) {
      if (r != rank_) {
        scatter.receive(r, theirs + r * mine * element, mine * element);
        scatter.send(r, at(data, begin_of(r) * element), (begin_of(r + 1) - begin_of(r)) * element);
      }
    }
    scatter.finish();
    void* result = at(data, begin * element);
    reduce_in_order(blocks(theirs, mine * element, result), {&result, 1}, mine, call.dtype,
                    call.op);
    for (int r = 0; r < size_; ++r) {
      if (r != rank_) {
        gather.receive(r, at(data, begin_of(r) * element),
                       (begin_of(r + 1) - begin_of(r)) * element);
        gather.send(r, result, mine * element);
      }
    }
    gather.finish();
  }

  /// Block r of `all` per rank, with `own` in place of this rank's unless it is null.
  std::vector<const void*> blocks(const std::byte* all, Index bytes, const void* own) const {
    std::vector<const void*> parts;
    for (int r = 0; r < size_; ++r) {
      parts.push_back(r == rank_ && own != nullptr ? own : all + r * bytes);
    }
    return parts;
  }

  std::byte* workspace(Index bytes) {
    if (std::ssize(workspace_) < bytes) {
      workspace_.resize(as_size(bytes));
    }
    return workspace_.data();
  }

  void check_own_length(const CommCall& call, Index sent, Index received) const {
    LS_CHECK(sent == received, kComm, "{} on '{}': rank {} sends {} bytes to itself and expects {}",
             describe(call), name_, rank_, sent, received);
  }

  void wait(const CommCall& call, std::vector<MPI_Request>& requests,
            std::vector<MPI_Status>& statuses) {
    const auto where = [&] {
      return fmt::format("{} by rank {} of {} on '{}'", describe(call), rank_, size_, name_);
    };
    RankBoard& board = context_.board;
    board.begin_wait(call);
    double absent_since = -1;
    poll(
        context_,
        [&] {
          const std::lock_guard lock(context_.mutex);
          int done = 0;
          const int code = MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done,
                                       statuses.data());
          if (code == MPI_ERR_IN_STATUS) {
            for (const MPI_Status& s : statuses) {
              LS_CHECK(s.MPI_ERROR != MPI_ERR_TRUNCATE, kComm,
                       "{}: rank {} sent more than was expected: the ranks pass different lengths",
                       where(), s.MPI_SOURCE);
              if (s.MPI_ERROR != MPI_SUCCESS && s.MPI_ERROR != MPI_ERR_PENDING) {
                detail::check_mpi(s.MPI_ERROR, where().c_str());
              }
            }
          }
          LS_MPI(code);
          return done != 0;
        },
        [&](double waited) {
          throw_if_job_failed(board, where());
          LS_CHECK(waited < time_limit(), kComm,
                   "{}: no answer for {} s, the time limit (LONGSCAN_COMM_TIMEOUT): {}", where(),
                   time_limit(), board.situation());
          if (waited < kStragglerSeconds) {
            return;
          }
          if (const int rank = returned_partner(call); rank == kNoRank) {
            absent_since = -1;
          } else if (absent_since < 0) {
            absent_since = waited;
          } else {
            LS_CHECK(waited - absent_since < kStragglerSeconds, kComm,
                     "{}: rank {} has returned and will not come", where(), rank);
          }
        });
    board.end_wait();
  }

  /// A rank (of this communicator) that the call needs and that has left the program's body.
  int returned_partner(const CommCall& call) const {
    for (int r = 0; r < size_; ++r) {
      const bool needed = call.kind != CommCall::Kind::kSendRecv || r == call.to || r == call.from;
      if (needed && r != rank_ && context_.board.has_returned(world_ranks_[as_size(r)])) {
        return r;
      }
    }
    return kNoRank;
  }

  MpiContext& context_;
  MPI_Comm comm_;
  std::string name_;
  int rank_ = 0, size_ = 1;
  std::vector<int> world_ranks_;
  std::vector<std::byte> workspace_;
};

}  // namespace

std::unique_ptr<Communicator> mpi_world(MpiContext& context) {
  MPI_Comm world = MPI_COMM_NULL;
  LS_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &world));
  return std::make_unique<MpiComm>(context, world, "mpi");
}

void mpi_meet_at_end(MpiContext& context, double time_limit_s) {
  MPI_Request request = MPI_REQUEST_NULL;
  LS_MPI(MPI_Ibarrier(MPI_COMM_WORLD, &request));
  poll(
      context,
      [&] {
        int done = 0;
        LS_MPI(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
        return done != 0;
      },
      [&](double waited) {
        throw_if_job_failed(context.board, "end of the run");
        LS_CHECK(waited < time_limit_s, kComm,
                 "end of the run: other ranks still busy after {} s, the time limit "
                 "(LONGSCAN_COMM_TIMEOUT): {}",
                 time_limit_s, context.board.situation());
      });
}

namespace detail {
void check_mpi(int code, const char* expression, std::source_location where) {
  if (code == MPI_SUCCESS) {
    return;
  }
  char text[MPI_MAX_ERROR_STRING + 1] = "unknown error";
  int length = 0;
  MPI_Error_string(code, text, &length);
  const std::string_view path = where.file_name();
  throw Error(ErrorKind::kComm,
              fmt::format("{} failed with MPI error {} ({}) at {}:{}", expression, code, text,
                          path.substr(path.rfind('/') + 1), where.line()),
              where);
}
}  // namespace detail

}  // namespace ls::parallel
#endif
