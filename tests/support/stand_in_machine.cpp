#include "tests/support/stand_in_machine.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "core/base/error.h"

namespace ls::test {
namespace {

constexpr Index kMostWaiting = 64;  // items in all queues before the host has to wait
thread_local bool on_queue = false;

}  // namespace

TwiceMapped::TwiceMapped() {
  const auto bytes = static_cast<std::size_t>(kBytes);
  file_ = memfd_create("stand-in", MFD_CLOEXEC);
  LS_CHECK(file_ >= 0 && ftruncate(file_, kBytes) == 0, kDevice, "no memory for a stand-in device");
  void* const host = mmap(nullptr, bytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE, file_, 0);
  void* const kernels =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file_, 0);
  LS_CHECK(host != MAP_FAILED && kernels != MAP_FAILED, kDevice,
           "memory of a stand-in device cannot be mapped twice");
  host_ = static_cast<char*>(host);
  kernels_ = static_cast<char*>(kernels);
}

TwiceMapped::~TwiceMapped() {
  munmap(host_, static_cast<std::size_t>(kBytes));
  munmap(kernels_, static_cast<std::size_t>(kBytes));
  close(file_);
}

void* TwiceMapped::take(Index bytes) {
  constexpr Index kPage = 4096;
  const Index whole = (bytes + kPage - 1) / kPage * kPage;
  if (whole > kBytes - taken_) {
    return nullptr;
  }
  void* const data = host_ + taken_;
  taken_ += whole;
  return data;
}

// Its pages go; its addresses are not given out again, so that late work on them is seen.
void TwiceMapped::give_back(void* data, Index bytes) {
  fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<char*>(data) - host_,
            bytes);
}

bool TwiceMapped::holds(const void* data) const {
  const auto* p = static_cast<const char*>(data);
  return p >= host_ && p < host_ + kBytes;
}

void* TwiceMapped::for_kernels(void* data) const {
  return holds(data) ? kernels_ + (static_cast<char*>(data) - host_) : data;
}

bool StandInEvent::happened() const {
  return machine.look(*this);
}
void StandInEvent::wait_on_host() {
  machine.wait_for(*this);
}

StandInMachine::StandInMachine(std::uint64_t seed) : rng_(seed, "stand-in") {
  log.watch(memory.begin(), TwiceMapped::kBytes);
}
StandInMachine::~StandInMachine() {
  come_to_rest();
}

void StandInMachine::run_by_itself() {
  if (drives_.exchange(true)) {
    return;
  }
  driver_ = std::thread([this] {
    while (drives_) {
      bool went_on = false;
      {
        const std::lock_guard lock(host);
        went_on = step();
      }
      if (!went_on) {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
    }
  });
}

void StandInMachine::come_to_rest() {
  drives_ = false;
  if (driver_.joinable()) {
    driver_.join();
  }
}

int StandInMachine::add(StandInStream& stream) {
  const std::lock_guard lock(host);
  streams_.push_back(&stream);
  stream.thread_ = std::thread([this, &stream] { serve(stream); });
  return static_cast<int>(streams_.size()) - 1;
}

void StandInMachine::remove(StandInStream& stream) {
  const std::lock_guard lock(host);
  drain();
  {
    const std::lock_guard turn(turn_mutex_);
    ending_.insert(&stream);
  }
  turn_changed_.notify_all();
  stream.thread_.join();
  {
    const std::lock_guard turn(turn_mutex_);
    ending_.erase(&stream);
  }
  std::replace(streams_.begin(), streams_.end(), &stream, static_cast<StandInStream*>(nullptr));
}

/// What the thread of a queue does.
void StandInMachine::serve(StandInStream& stream) {
  on_queue = true;
  std::unique_lock turn(turn_mutex_);
  while (true) {
    turn_changed_.wait(turn, [&] { return turn_ == &stream || ending_.contains(&stream); });
    if (turn_ != &stream) {
      return;
    }
    turn.unlock();
    try {
      const ErrorContext context(item_.name + " was done on " + stream.describe());
      item_.run();
    } catch (...) {
      fault_ = fault_ ? fault_ : std::current_exception();
    }
    item_ = {};
    turn.lock();
    turn_ = nullptr;
    turn_changed_.notify_all();
  }
}

bool StandInMachine::ready(const StandInStream& stream) {
  if (stream.queue_.empty()) {
    return false;
  }
  const Item& next = stream.queue_.front();
  return next.kind != Item::Kind::kWait || next.event->done;
}

/// Does the next item of one of the queues that can go on. False where none can.
bool StandInMachine::step() {
  std::vector<StandInStream*> can;
  std::copy_if(streams_.begin(), streams_.end(), std::back_inserter(can),
               [](const StandInStream* s) { return s && ready(*s); });
  if (can.empty()) {
    return false;
  }
  StandInStream& s = *can[static_cast<std::size_t>(rng_.below(std::ssize(can)))];
  Item item = std::move(s.queue_.front());
  s.queue_.pop_front();
  if (item.kind == Item::Kind::kRecord) {
    item.event->done = true;
  }
  if (item.kind == Item::Kind::kWork) {
    std::unique_lock turn(turn_mutex_);
    item_ = std::move(item);
    turn_ = &s;
    turn_changed_.notify_all();
    turn_changed_.wait(turn, [&] { return turn_ == nullptr; });
  }
  return true;
}

void StandInMachine::some_steps(Index at_most) {
  for (Index n = rng_.below(at_most + 1); n > 0 && step(); --n) {
  }
}

void StandInMachine::drain() {
  const std::lock_guard lock(host);
  while (step()) {
  }
}

void StandInMachine::throw_fault() {
  if (fault_) {
    std::rethrow_exception(std::exchange(fault_, nullptr));
  }
}

void StandInMachine::check_buffers(StandInStream& stream, Item& item) {
  const std::lock_guard lock(host);
  LS_CHECK(!on_queue, kDevice, "{} is put in by work that is being done, not by the host",
           item.name);
  const Work work{stream.id_, {}, item.name, stream.recording_ != nullptr, false};
  for (const Access& use : item.uses) {
    log.check_buffer(work, use);
    item.buffers.push_back(log.number_at(use.data));
  }
}

void StandInMachine::put(StandInStream& stream, Item item, bool replayed) {
  const std::lock_guard lock(host);
  throw_fault();
  Clock& clock = stream.clock_;
  clock.join(host_clock_);
  if (item.kind == Item::Kind::kRecord) {
    item.event->clock = clock;
  } else if (item.kind == Item::Kind::kWait) {
    clock.join(item.event->clock);
  } else {
    clock.set(stream.id_, clock[stream.id_] + 1);
    const Work work{stream.id_, clock, item.name, false, replayed};
    for (std::size_t i = 0; i < item.uses.size(); ++i) {
      const Index number = item.buffers[i];
      LS_CHECK(!replayed || number == 0 || log.number_at(item.uses[i].data) == number, kDevice,
               "{}, replayed, uses a buffer that the graph took from outside after it was freed",
               item.name);
      if (replayed) {
        log.check_buffer(work, item.uses[i]);
      }
      log.check_order(work, item.uses[i]);
    }
  }
  stream.queue_.push_back(std::move(item));
  constexpr double kAtOnce = 0.25;
  if (rng_.bernoulli(kAtOnce)) {
    some_steps(3);
  }
  Index waiting = 0;
  for (const StandInStream* s : streams_) {
    waiting += s ? std::ssize(s->queue_) : 0;
  }
  while (waiting > kMostWaiting && step()) {
    --waiting;
  }
}

void StandInMachine::wait_for(StandInStream& stream) {
  const std::lock_guard lock(host);
  while (!stream.queue_.empty()) {
    LS_CHECK(step(), kDevice, "{} waits for an event that nobody records", stream.describe());
  }
  host_clock_.join(stream.clock_);
  throw_fault();
}

void StandInMachine::wait_for(const StandInEvent& event) {
  const std::lock_guard lock(host);
  while (!event.done) {
    LS_CHECK(step(), kDevice, "the host waits for an event that nobody records");
  }
  host_clock_.join(event.clock);
  throw_fault();
}

bool StandInMachine::look(const StandInEvent& event) {
  const std::lock_guard lock(host);
  if (!event.done) {
    some_steps(2);
  }
  if (event.done) {
    host_clock_.join(event.clock);
  }
  return event.done;
}

}  // namespace ls::test
