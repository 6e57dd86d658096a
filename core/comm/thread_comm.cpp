#include "core/comm/thread_comm.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <list>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/error.h"

namespace ls {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::size_t as_size(Index n) {
  return static_cast<std::size_t>(n);
}

/// What all ranks of one run_ranks share. One lock guards everything here and in the groups; data
/// is copied outside it.
struct World {
  struct Rank {
    std::thread::id thread;
    bool finished = false;
    std::optional<CommCall> waits_in;  // set by the rank's own thread only
  };
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Rank> ranks;
  double stall_limit_s = 0;
  std::uint64_t progress = 0;    // operations begun or ended
  std::string failure;           // why nothing more is possible; "" while all is well
  std::exception_ptr exception;  // the first that left a rank

  void fail(std::string why) {
    if (failure.empty()) {
      failure = std::move(why);
      changed.notify_all();
    }
  }

  /// "rank 0 waits in barrier, rank 1 works, rank 2 has returned".
  std::string situation() const {
    std::string text;
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      text += fmt::format("{}rank {} ", r == 0 ? "" : ", ", r);
      text += ranks[r].finished   ? "has returned"
              : ranks[r].waits_in ? "waits in " + describe(*ranks[r].waits_in)
                                  : "works";
    }
    return text;
  }

  bool all_wait() const {
    return std::ranges::all_of(ranks, [](const Rank& r) { return r.finished || r.waits_in; });
  }
};

/// A message whose sender waits for its receiver.
struct Message {
  int from, to;
  CommCall call;
  const void* data;
  Index bytes;
  bool taken = false, done = false;
};

/// The shared side of one communicator.
struct Group {
  struct Slot {
    CommCall call;
    const void* in = nullptr;
    void* out = nullptr;
    std::span<const Index> in_bytes, out_bytes;
  };
  std::shared_ptr<World> world;
  std::vector<int> members;  // ranks in the world
  std::string name;
  std::vector<Slot> slots;  // of the collective under way, by rank
  std::vector<char> here;   // has the rank entered it?
  int arrived = 0, left = 0;
  std::uint64_t round = 0, rounds_left = 0;
  std::list<Message*> messages;  // in order of sending
  // Groups that a split is making, by (count of splits, first member), and who has yet to join.
  std::map<std::pair<std::uint64_t, int>, std::pair<std::shared_ptr<Group>, int>> children;

  Group(std::shared_ptr<World> w, std::vector<int> m, std::string n)
      : world(std::move(w)),
        members(std::move(m)),
        name(std::move(n)),
        slots(members.size()),
        here(members.size()) {}
};

class ThreadComm final : public Communicator {
 public:
  ThreadComm(std::shared_ptr<Group> group, int rank)
      : group_(std::move(group)), world_(*group_->world), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(group_->members.size()); }
  std::string name() const override { return group_->name; }

 protected:
  void do_all_reduce(const CommCall& call, void* data) override {
    collective({.call = call, .out = data}, [&](std::span<const Group::Slot> slots) {
      // This rank reduces its slice of every buffer and writes the result to all of them.
      const Index begin = call.n * rank_ / size(), end = call.n * (rank_ + 1) / size();
      const Index offset = begin * dtype_size(call.dtype);
      std::vector<void*> parts;
      for (const Group::Slot& s : slots) {
        parts.push_back(static_cast<std::byte*>(s.out) + offset);
      }
      const std::vector<const void*> inputs(parts.begin(), parts.end());
      reduce_in_order(inputs, parts, end - begin, call.dtype, call.op);
    });
  }
  void do_reduce_scatter(const CommCall& call, const void* in, void* out) override {
    collective({.call = call, .in = in}, [&](std::span<const Group::Slot> slots) {
      const Index offset = call.n * dtype_size(call.dtype) * rank_;
      std::vector<const void*> parts;
      for (const Group::Slot& s : slots) {
        parts.push_back(static_cast<const std::byte*>(s.in) + offset);
      }
      reduce_in_order(parts, {&out, 1}, call.n, call.dtype, call.op);
    });
  }
  void do_broadcast(const CommCall& call, void* data) override {
    collective({.call = call, .out = data}, [&](std::span<const Group::Slot> slots) {
      copy(data, slots[as_size(call.from)].out, call.n * dtype_size(call.dtype));
    });
  }
  void do_all_gather(const CommCall& call, const void* in, void* out,
                     std::span<const Index> bytes) override {
    collective({.call = call, .in = in, .in_bytes = bytes},
               [&](std::span<const Group::Slot> slots) {
                 std::byte* to = static_cast<std::byte*>(out);
                 for (std::size_t r = 0; r < slots.size(); ++r) {
                   copy(to, slots[r].in, bytes[r]);
                   to += bytes[r];
                 }
               });
  }
  void do_all_to_all(const CommCall& call, const void* in, std::span<const Index> in_bytes,
                     void* out, std::span<const Index> out_bytes) override {
    collective({.call = call, .in = in, .in_bytes = in_bytes, .out_bytes = out_bytes},
               [&](std::span<const Group::Slot> slots) {
                 std::byte* to = static_cast<std::byte*>(out);
                 for (std::size_t r = 0; r < slots.size(); ++r) {
                   const std::span<const Index> theirs = slots[r].in_bytes;
                   const Index offset =
                       std::accumulate(theirs.begin(), theirs.begin() + rank_, Index{0});
                   copy(to, static_cast<const std::byte*>(slots[r].in) + offset, out_bytes[r]);
                   to += out_bytes[r];
                 }
               });
  }
  void do_barrier(const CommCall& call) override {
    collective({.call = call}, [](std::span<const Group::Slot>) {});
  }

  void do_send_recv(const CommCall& call, const void* out, Index out_bytes, void* in,
                    Index in_bytes) override {
    std::unique_lock lock(world_.mutex);
    throw_if_failed(call);
    Message sent{.from = rank_, .to = call.to, .call = call, .data = out, .bytes = out_bytes};
    if (call.to != kNoRank) {
      group_->messages.push_back(&sent);
      ++world_.progress;
      world_.changed.notify_all();
    }
    try {
      if (call.from != kNoRank) {
        receive(lock, call, in, in_bytes);
      }
      if (call.to != kNoRank) {
        wait(
            lock, call, [&] { return sent.done; }, [&] { return finished(call.to); });
      }
    } catch (...) {
      // The receiver may be reading: only a message that nobody took can be withdrawn.
      if (sent.taken) {
        world_.changed.wait(lock, [&] { return sent.done; });
      } else {
        group_->messages.remove(&sent);
      }
      throw;
    }
  }

  std::unique_ptr<Communicator> do_split(std::span<const int> members) override {
    const std::uint64_t count = splits_++;
    if (members.empty()) {
      return nullptr;
    }
    std::vector<int> world_ranks;
    for (const int r : members) {
      world_ranks.push_back(group_->members[as_size(r)]);
    }
    const auto me = std::ranges::find(members, rank_) - members.begin();
    const std::lock_guard lock(world_.mutex);
    auto [child, fresh] = group_->children.try_emplace({count, members[0]});
    if (fresh) {
      child->second = {
          std::make_shared<Group>(group_->world, std::move(world_ranks), group_->name + "/split"),
          static_cast<int>(members.size())};
    }
    std::shared_ptr<Group> group = child->second.first;
    if (--child->second.second == 0) {
      group_->children.erase(child);
    }
    return std::make_unique<ThreadComm>(std::move(group), static_cast<int>(me));
  }

 private:
  static void copy(void* to, const void* from, Index bytes) {
    if (bytes > 0 && to != from) {
      std::memmove(to, from, as_size(bytes));
    }
  }

  /// Shows this rank's buffers to the group, runs `work` on everybody's once all have come, and
  /// returns when all have done so. `work` does not wait or throw: a rank that has begun it is
  /// waited for even if the world fails, because it reads the buffers of the others.
  template <class Work>
  void collective(Group::Slot slot, Work work) {
    Group& g = *group_;
    const CommCall call = slot.call;
    std::unique_lock lock(world_.mutex);
    throw_if_failed(call);
    const std::uint64_t round = g.round;
    g.slots[as_size(rank_)] = std::move(slot);
    g.here[as_size(rank_)] = 1;
    ++world_.progress;
    if (++g.arrived == size()) {
      check_same_call();
      g.arrived = 0;
      std::ranges::fill(g.here, 0);
      ++g.round;
      world_.changed.notify_all();
    } else {
      wait(
          lock, call, [&] { return g.round != round; }, [&] { return finished_absentee(); });
    }
    lock.unlock();
    [&]() noexcept { work(std::span<const Group::Slot>(g.slots)); }();
    lock.lock();
    if (++g.left == size()) {
      g.left = 0;
      ++g.rounds_left;
      world_.changed.notify_all();
    } else {
      world_.changed.wait(lock, [&] { return g.rounds_left > round; });
    }
  }

  void receive(std::unique_lock<std::mutex>& lock, const CommCall& call, void* in, Index in_bytes) {
    std::list<Message*>& messages = group_->messages;
    auto found = messages.end();
    wait(
        lock, call,
        [&] {
          found = std::ranges::find_if(messages, [&](const Message* m) {
            return m->from == call.from && m->to == rank_ && m->call.tag == call.tag;
          });
          return found != messages.end();
        },
        [&] { return finished(call.from); });
    Message& message = **found;
    if (message.bytes != in_bytes || message.call.dtype != call.dtype) {
      fail(call, fmt::format("rank {} sends {} bytes of {} where rank {} expects {} bytes of {}",
                             call.from, message.bytes, enum_name(message.call.dtype), rank_,
                             in_bytes, enum_name(call.dtype)));
    }
    messages.erase(found);
    message.taken = true;
    lock.unlock();
    copy(in, message.data, in_bytes);
    lock.lock();
    message.done = true;
    world_.changed.notify_all();
  }

  /// Called with the lock by the last to arrive.
  void check_same_call() {
    const Group& g = *group_;
    const Group::Slot& mine = g.slots[as_size(rank_)];
    for (int r = 0; r < size(); ++r) {
      const Group::Slot& other = g.slots[as_size(r)];
      const CommCall &a = mine.call, &b = other.call;
      if (a.kind != b.kind || a.dtype != b.dtype || a.op != b.op || a.n != b.n ||
          a.from != b.from) {
        fail(a, fmt::format("rank {} called {} while rank {} called {}", r, describe(b), rank_,
                            describe(a)));
      }
      if (a.kind == CommCall::Kind::kAllGather &&
          !std::ranges::equal(mine.in_bytes, other.in_bytes)) {
        fail(a, fmt::format("ranks {} and {} gather blocks of different lengths", r, rank_));
      }
      if (a.kind == CommCall::Kind::kAllToAll) {
        for (int to = 0; to < size(); ++to) {
          const Index sent = other.in_bytes[as_size(to)];
          const Index expected = g.slots[as_size(to)].out_bytes[as_size(r)];
          if (sent != expected) {
            fail(a, fmt::format("rank {} sends {} bytes to rank {}, which expects {}", r, sent, to,
                                expected));
          }
        }
      }
    }
  }

  /// Waits until ready(). absent() is a rank that is needed and will never come, or kNoRank.
  template <class Ready, class Absent>
  void wait(std::unique_lock<std::mutex>& lock, const CommCall& call, Ready ready, Absent absent) {
    World::Rank& me = world_.ranks[as_size(group_->members[as_size(rank_)])];
    const bool own_thread = me.thread == std::this_thread::get_id();
    const Clock::time_point start = Clock::now();
    Clock::time_point quiet_since = start;
    std::uint64_t seen = world_.progress;
    const double poll_s = std::min(world_.stall_limit_s, time_limit()) / 4;
    struct Unmark {
      World::Rank* rank;
      ~Unmark() {
        if (rank != nullptr) {
          rank->waits_in.reset();
        }
      }
    } unmark{own_thread ? &me : nullptr};
    if (own_thread) {
      me.waits_in = call;
    }
    while (!ready()) {
      throw_if_failed(call);
      if (const int rank = absent(); rank != kNoRank) {
        fail(call, fmt::format("rank {} has returned and will not come", rank));
      }
      if (world_.progress != seen || !world_.all_wait()) {
        seen = world_.progress;
        quiet_since = Clock::now();
      } else if (seconds_since(quiet_since) >= world_.stall_limit_s) {
        fail(call, "deadlock: " + world_.situation());
      }
      if (seconds_since(start) >= time_limit()) {
        fail(call, fmt::format("no answer for {} s: {}", time_limit(), world_.situation()));
      }
      world_.changed.wait_for(lock, std::chrono::duration<double>(poll_s));
    }
    ++world_.progress;
  }

  /// Breaks the world and throws, with the lock held.
  [[noreturn]] void fail(const CommCall& call, const std::string& why) {
    world_.fail(why);
    throw_failed(call);
  }
  void throw_if_failed(const CommCall& call) const {
    if (!world_.failure.empty()) {
      throw_failed(call);
    }
  }
  [[noreturn]] void throw_failed(const CommCall& call) const {
    LS_FAIL(kComm, "{} by rank {} of {} on '{}': {}", describe(call), rank_, size(), group_->name,
            world_.failure);
  }

  int finished(int rank) const {
    return world_.ranks[as_size(group_->members[as_size(rank)])].finished ? rank : kNoRank;
  }
  int finished_absentee() const {
    for (int r = 0; r < size(); ++r) {
      if (!group_->here[as_size(r)] && finished(r) != kNoRank) {
        return r;
      }
    }
    return kNoRank;
  }

  std::shared_ptr<Group> group_;
  World& world_;
  int rank_;
  std::uint64_t splits_ = 0;
};

}  // namespace

void run_ranks(int n, const std::function<void(Communicator&)>& body,
               const ThreadRanksOptions& options) {
  LS_CHECK(n >= 1, kConfig, "run_ranks on {} ranks; expected 1 or more", n);
  LS_CHECK(options.stall_limit_s > 0, kConfig, "stall limit is {} s; expected more than 0",
           options.stall_limit_s);
  const double limit = options.time_limit_s > 0 ? options.time_limit_s : default_comm_time_limit();
  const auto world = std::make_shared<World>();
  world->ranks.resize(as_size(n));
  world->stall_limit_s = options.stall_limit_s;
  std::vector<int> all(as_size(n));
  std::iota(all.begin(), all.end(), 0);
  const auto group = std::make_shared<Group>(world, std::move(all), "threads");

  const auto run = [&](int rank) {
    World::Rank& me = world->ranks[as_size(rank)];
    {
      const std::lock_guard lock(world->mutex);
      me.thread = std::this_thread::get_id();
    }
    const auto record = [&](std::string_view what) {
      const std::lock_guard lock(world->mutex);
      if (!world->exception) {
        world->exception = std::current_exception();
      }
      world->fail(fmt::format("rank {} failed: {}", rank, what));
    };
    try {
      ThreadComm comm(group, rank);
      comm.set_time_limit(limit);
      body(comm);
    } catch (const std::exception& e) {
      record(e.what());
    } catch (...) {
      record("unknown exception");
    }
    const std::lock_guard lock(world->mutex);
    me.finished = true;
    world->changed.notify_all();
  };
  std::vector<std::jthread> threads;
  try {
    for (int r = 0; r < n; ++r) {
      threads.emplace_back(run, r);
    }
  } catch (const std::exception& e) {
    const std::lock_guard lock(world->mutex);
    world->fail(
        fmt::format("only {} of {} threads could be started: {}", threads.size(), n, e.what()));
    world->exception = std::current_exception();
  }
  threads.clear();  // joins
  if (world->exception) {
    std::rethrow_exception(world->exception);
  }
}

}  // namespace ls
