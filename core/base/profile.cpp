#include "core/base/profile.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>

#include "core/base/error.h"

namespace ls::profile {
namespace {
using Key = std::pair<std::string, std::string>;

/// One call between two marks of a queue.
struct Call {
  Key key;
  int from = -1, to = -1;
  int outer = -1;  // among the calls of the same list
  double bytes = 0, flops = 0;
};

struct Recording {
  bool on = false;
  int number = 0;  // of the recording
  Scope* innermost = nullptr;
  std::map<Key, Entry> entries;
  std::unique_ptr<QueueClock> clock;
  // Of the queue once (0), and of each recording of work; those whose marks were passed.
  std::map<int, std::vector<Call>> calls;
  std::vector<int> passed;
  int work = 0;

  void add(const Key& key, double seconds, double bytes, double flops) {
    Entry& e = entries[key];
    if (e.calls++ == 0) {
      e.name = key.first;
      e.part = key.second;
    }
    e.seconds += seconds;
    e.bytes += bytes;
    e.flops += flops;
  }
  void add(const std::vector<Call>& calls) {
    std::vector<double> own(calls.size());
    for (std::size_t i = 0; i < calls.size(); ++i) {
      if (calls[i].to < 0) {
        continue;  // its end could not be marked
      }
      const double took = clock->seconds(calls[i].from, calls[i].to);
      own[i] += took;
      if (calls[i].outer >= 0) {
        own[static_cast<std::size_t>(calls[i].outer)] -= took;
      }
    }
    for (std::size_t i = 0; i < calls.size(); ++i) {
      if (calls[i].to >= 0) {
        add(calls[i].key, own[i], calls[i].bytes, calls[i].flops);
      }
    }
  }
};
Recording& recording() {
  thread_local Recording instance;
  return instance;
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
}  // namespace

void start(std::unique_ptr<QueueClock> clock) {
  Recording& r = recording();
  r.entries.clear();
  r.calls.clear();
  r.passed.clear();
  r.clock = std::move(clock);
  r.on = true;
  ++r.number;
}

void collect() {
  Recording& r = recording();
  r.passed.push_back(0);
  for (const int work : r.passed) {
    r.add(r.calls[work]);
  }
  r.calls[0].clear();
  r.passed.clear();
}

int begin_work() {
  Recording& r = recording();
  return r.on ? ++r.work : 0;
}

void replayed(int work) {
  Recording& r = recording();
  if (r.on && work > 0) {
    r.passed.push_back(work);
  }
}

std::vector<Entry> stop() {
  std::vector<Entry> out;
  for (auto& [key, entry] : recording().entries) {
    out.push_back(std::move(entry));
  }
  recording().entries.clear();
  recording().clock.reset();
  recording().on = false;
  std::stable_sort(out.begin(), out.end(),
                   [](const Entry& a, const Entry& b) { return a.seconds > b.seconds; });
  return out;
}

bool running() {
  return recording().on;
}

Scope::Scope(std::string_view name, std::string_view part) : name_(name), part_(part) {
  Recording& r = recording();
  if (r.on) {
    if (r.clock) {
      const int from = r.clock->mark();
      work_ = r.clock->recording() ? r.work : 0;
      std::vector<Call>& calls = r.calls[work_];
      call_ = static_cast<int>(calls.size());
      const bool nested = r.innermost && r.innermost->work_ == work_;
      calls.push_back({.key = {std::string(name_), std::string(part_)},
                       .from = from,
                       .outer = nested ? r.innermost->call_ : -1});
    }
    recording_ = r.number;
    outer_ = std::exchange(r.innermost, this);
    begin_ = now();
  }
}

Scope::~Scope() {
  if (recording_ == 0) {
    return;
  }
  Recording& r = recording();
  r.innermost = outer_;
  if (call_ >= 0) {
    if (r.on && r.number == recording_) {
      Call& call = r.calls[work_][static_cast<std::size_t>(call_)];
      call.bytes = bytes_;
      call.flops = flops_;
      try {
        call.to = r.clock->mark();
      } catch (const Error&) {  // a recording that failed: its error is under way
      }
    }
    return;
  }
  const double took = now() - begin_;
  if (outer_) {
    outer_->nested_ += took;
  }
  if (!r.on || r.number != recording_) {
    return;
  }
  r.add({std::string(name_), std::string(part_)}, took - nested_, bytes_, flops_);
}

void Scope::cost(double bytes, double flops) {
  bytes_ += bytes;
  flops_ += flops;
}

}  // namespace ls::profile
