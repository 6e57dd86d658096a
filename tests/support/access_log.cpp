#include "tests/support/access_log.h"

#include <algorithm>

#include "core/base/error.h"

namespace ls::test {

void Clock::set(int stream, Index tick) {
  if (stream >= std::ssize(ticks_)) {
    ticks_.resize(static_cast<std::size_t>(stream) + 1, 0);
  }
  ticks_[static_cast<std::size_t>(stream)] = tick;
}

void Clock::join(const Clock& other) {
  for (int s = 0; s < static_cast<int>(other.ticks_.size()); ++s) {
    set(s, std::max((*this)[s], other[s]));
  }
}

void AccessLog::allocated(const void* data, Index bytes, bool of_graph) {
  buffers_[address(data)] = {bytes, ++last_number_, true, of_graph};
}

void AccessLog::freed(const void* data) {
  buffers_.at(address(data)).live = false;
}

const AccessLog::Buffer* AccessLog::find(Address at, Address& begin) const {
  auto it = buffers_.upper_bound(at);
  if (it == buffers_.begin()) {
    return nullptr;
  }
  --it;
  begin = it->first;
  return at < it->first + static_cast<Address>(it->second.bytes) ? &it->second : nullptr;
}

Index AccessLog::number_at(const void* data) const {
  Address begin = 0;
  const Buffer* const b = find(address(data), begin);
  return b && b->live && !b->of_graphs ? b->number : 0;
}

Index AccessLog::check_buffer(const Work& work, const Access& access) const {
  const Address at = address(access.data);
  if (at < begin_ || at >= end_ || access.bytes == 0) {
    return 0;
  }
  Address begin = 0;
  const Buffer* const b = find(at, begin);
  const char* const does = access.write ? "writes" : "reads";
  LS_CHECK(b, kDevice, "{} {} device memory that nobody has allocated", work.name, does);
  LS_CHECK(b->live || (work.replayed && b->of_graphs), kDevice,
           "{} {} a buffer of {} bytes after it was freed", work.name, does, b->bytes);
  LS_CHECK(at + static_cast<Address>(access.bytes) <= begin + static_cast<Address>(b->bytes),
           kDevice, "{} {} {} bytes at offset {} of a buffer of {}", work.name, does, access.bytes,
           at - begin, b->bytes);
  LS_CHECK(!b->of_graphs || !access.write || work.captured || work.replayed, kDevice,
           "{} writes into a buffer of {} bytes that belongs to a captured graph: what lies there "
           "is what its replays make; write a tensor that the graph took from outside",
           work.name, b->bytes);
  return b->number;
}

/// Afterwards a range begins at `at`, if one held it.
void AccessLog::split(Address at) {
  auto it = ranges_.upper_bound(at);
  if (it == ranges_.begin()) {
    return;
  }
  --it;
  if (it->first < at && at < it->second.end) {
    Range back = it->second;
    it->second.end = at;
    ranges_.emplace(at, std::move(back));
  }
}

void AccessLog::check_order(const Work& work, const Access& access) {
  if (access.bytes == 0) {
    return;
  }
  const Address begin = address(access.data), end = begin + static_cast<Address>(access.bytes);
  split(begin);
  split(end);
  const Use self = {work.stream, work.before[work.stream], work.name};
  const auto ordered = [&](const Use& earlier, const char* did) {
    LS_CHECK(earlier.stream < 0 || work.before[earlier.stream] >= earlier.tick, kDevice,
             "{} on stream {} {} what {} on stream {} {}, and nothing puts them in order: record "
             "an event behind the one and let the other stream wait for it",
             work.name, work.stream, access.write ? "writes over" : "reads", earlier.name,
             earlier.stream, did);
  };
  Address at = begin;
  while (at < end) {
    auto it = ranges_.lower_bound(at);
    if (it == ranges_.end() || it->first > at) {  // untouched so far
      const Address until = it == ranges_.end() ? end : std::min(end, it->first);
      it = ranges_.emplace_hint(it, at, Range{until, {}, {}});
    }
    Range& r = it->second;
    ordered(r.write, "writes");
    if (access.write) {
      for (const Use& read : r.reads) {
        ordered(read, "reads");
      }
      r.write = self;
      r.reads.clear();
    } else {
      std::erase_if(r.reads, [&](const Use& u) { return u.stream == self.stream; });
      r.reads.push_back(self);
    }
    at = r.end;
  }
}

}  // namespace ls::test
