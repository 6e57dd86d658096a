#include "data/task.h"

#include <algorithm>

#include "core/base/error.h"
#include "data/limits.h"

namespace ls::data {

Task::Registry& Task::registry() {
  static Registry registry("task");
  return registry;
}

void Task::add_slice(Split split, Slice slice) {
  const std::size_t s = static_cast<std::size_t>(split);
  LS_CHECK(slice.length > 0, kConfig, "task {}: {} setting '{}' has length {}, must be at least 1",
           name_, enum_name(split), slice.name, slice.length);
  const Index longest = std::max(slice.length, slice.max_length);
  LS_CHECK(longest <= kMaxLength, kConfig,
           "task {}: {} setting '{}' has length {}, at most {} is supported", name_,
           enum_name(split), slice.name, longest, kMaxLength);
  LS_CHECK(split == Split::kTrain || slice.examples > 0, kConfig,
           "task {}: {} setting '{}' needs a number of examples", name_, enum_name(split),
           slice.name);
  for (const Slice& other : slices_[s]) {
    LS_CHECK(other.name != slice.name, kConfig, "task {}: two {} settings are both {}", name_,
             enum_name(split), slice.name);
  }
  streams_[s].push_back(stream_id(fmt::format("{}/{}/{}", name_, enum_name(split), slice.name)));
  slices_[s].push_back(std::move(slice));
}

void Task::add_test_slices(const std::vector<Slice>& slices) {
  for (const Split split : {Split::kValid, Split::kTest}) {
    for (const Slice& slice : slices) {
      add_slice(split, slice);
    }
  }
}

std::unique_ptr<Task> make_task(const Component<Task>& task, const TaskArgs& args) {
  const ErrorContext context("setting up task '" + task.name() + "'");
  std::unique_ptr<Task> made = task.make(args);
  [[maybe_unused]] const TaskInfo& info = made->info();
  LS_ASSERT(!info.legal_sets || info.classes <= 64);
  LS_ASSERT(info.class_values.empty() || std::ssize(info.class_values) == info.classes);
  LS_CHECK(!args.stream || made->info().order == Order::kStream, kConfig,
           "task '{}' has no rows that continue from step to step, so state: tbptt has "
           "nothing to go on with; use 'bytes' or state: zero",
           task.name());
  return made;
}

}  // namespace ls::data
