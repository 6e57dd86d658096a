#include "parallel/rank_board.h"

#include <fmt/core.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>

namespace ls::parallel {
namespace {

static_assert(std::atomic<std::int64_t>::is_always_lock_free, "shared between processes");

/// The same clock in every process of the machine.
std::int64_t now_ns() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<std::int64_t>(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

}  // namespace

// Written by its rank, read by all. A reader may see the parts of two calls mixed; they only feed
// messages.
struct alignas(64) RankBoard::Slot {
  std::atomic<int> world_rank, phase;
  std::atomic<int> kind, dtype, op, to, from, tag;
  std::atomic<std::int64_t> n, since_ns;
};

struct alignas(64) RankBoard::Memory {
  std::atomic<int> claimed, ready;  // a rank is writing the failure; it is written
  int failed_rank;
  char why[2000];
};

Index RankBoard::bytes(int ranks) {
  return static_cast<Index>(sizeof(Memory) + static_cast<std::size_t>(ranks) * sizeof(Slot) + 64);
}

RankBoard::Memory* RankBoard::aligned(void* memory) {
  const auto address = (reinterpret_cast<std::uintptr_t>(memory) + 63) / 64 * 64;
  return reinterpret_cast<Memory*>(address);
}

void RankBoard::clear(void* memory, int ranks) {
  Memory* head = new (aligned(memory)) Memory{};
  for (int i = 0; i < ranks; ++i) {
    new (reinterpret_cast<Slot*>(head + 1) + i) Slot{};
  }
}

RankBoard::RankBoard(void* memory, int ranks, int slot, int world_rank)
    : memory_(aligned(memory)), ranks_(ranks), mine_(slot) {
  Slot& mine = this->slot(mine_);
  mine.world_rank = world_rank;
  mine.since_ns = now_ns();
}

RankBoard::Slot& RankBoard::slot(int i) const {
  return reinterpret_cast<Slot*>(memory_ + 1)[i];
}

void RankBoard::begin_wait(const CommCall& call) {
  Slot& s = slot(mine_);
  s.kind = static_cast<int>(call.kind);
  s.dtype = static_cast<int>(call.dtype);
  s.op = static_cast<int>(call.op);
  s.to = call.to;
  s.from = call.from;
  s.tag = call.tag;
  s.n = call.n;
  s.since_ns = now_ns();
  s.phase = static_cast<int>(Phase::kWaits);
}

void RankBoard::end_wait() {
  Slot& s = slot(mine_);
  s.since_ns = now_ns();
  s.phase = static_cast<int>(Phase::kWorks);
}

void RankBoard::leave(Phase phase) {
  Slot& s = slot(mine_);
  s.since_ns = now_ns();
  s.phase = static_cast<int>(phase);
}

bool RankBoard::fail(std::string_view why) {
  int nobody = 0;
  if (!memory_->claimed.compare_exchange_strong(nobody, 1)) {
    return false;
  }
  const std::size_t n = std::min(why.size(), sizeof memory_->why - 1);
  std::memcpy(memory_->why, why.data(), n);
  memory_->why[n] = '\0';
  memory_->failed_rank = slot(mine_).world_rank;
  memory_->ready = 1;
  return true;
}

std::optional<RankBoard::Failure> RankBoard::failure() const {
  if (memory_->ready.load(std::memory_order_acquire) == 0) {
    return std::nullopt;
  }
  return Failure{memory_->failed_rank, memory_->why};
}

bool RankBoard::has_returned(int world_rank) const {
  for (int i = 0; i < ranks_; ++i) {
    if (slot(i).world_rank == world_rank) {
      return slot(i).phase == static_cast<int>(Phase::kReturned);
    }
  }
  return false;
}

bool RankBoard::others_left() const {
  for (int i = 0; i < ranks_; ++i) {
    if (i != mine_ && slot(i).phase < static_cast<int>(Phase::kReturned)) {
      return false;
    }
  }
  return true;
}

std::string RankBoard::situation() const {
  std::string text;
  for (int i = 0; i < ranks_; ++i) {
    const Slot& s = slot(i);
    const double seconds = static_cast<double>(now_ns() - s.since_ns) * 1e-9;
    text += fmt::format("{}rank {} ", i == 0 ? "" : ", ", s.world_rank.load());
    switch (static_cast<Phase>(s.phase.load())) {
      case Phase::kWorks:
        text += fmt::format("has not communicated for {:.1f} s", seconds);
        break;
      case Phase::kWaits:
        text += fmt::format("waits in {} for {:.1f} s",
                            describe(CommCall{.kind = static_cast<CommCall::Kind>(s.kind.load()),
                                              .dtype = static_cast<DType>(s.dtype.load()),
                                              .op = static_cast<ReduceOp>(s.op.load()),
                                              .n = s.n,
                                              .to = s.to,
                                              .from = s.from,
                                              .tag = s.tag}),
                            seconds);
        break;
      case Phase::kReturned:
        text += "has returned";
        break;
      case Phase::kFailed:
        text += "has failed";
        break;
    }
  }
  return text;
}

}  // namespace ls::parallel
