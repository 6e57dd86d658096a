#include "core/base/profile.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>

namespace ls::profile {
namespace {
using Key = std::pair<std::string, std::string>;

struct Recording {
  bool on = false;
  int number = 0;  // of the recording
  Scope* innermost = nullptr;
  std::map<Key, Entry> entries;
};
Recording& recording() {
  thread_local Recording instance;
  return instance;
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
}  // namespace

void start() {
  recording().entries.clear();
  recording().on = true;
  ++recording().number;
}

std::vector<Entry> stop() {
  std::vector<Entry> out;
  for (auto& [key, entry] : recording().entries) {
    out.push_back(std::move(entry));
  }
  recording().entries.clear();
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
    recording_ = r.number;
    outer_ = std::exchange(r.innermost, this);
    begin_ = now();
  }
}

Scope::~Scope() {
  if (recording_ == 0) {
    return;
  }
  const double took = now() - begin_;
  Recording& r = recording();
  r.innermost = outer_;
  if (outer_) {
    outer_->nested_ += took;
  }
  if (!r.on || r.number != recording_) {
    return;
  }
  Entry& e = r.entries[{std::string(name_), std::string(part_)}];
  if (e.calls++ == 0) {
    e.name = name_;
    e.part = part_;
  }
  e.seconds += took - nested_;
  e.bytes += bytes_;
  e.flops += flops_;
}

void Scope::cost(double bytes, double flops) {
  bytes_ += bytes;
  flops_ += flops;
}

}  // namespace ls::profile
