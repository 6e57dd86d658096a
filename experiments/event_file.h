#pragma once
// TensorBoard's event files, made from the record of a run.
#include <string>
#include <utility>
#include <vector>

#include "core/base/types.h"
#include "experiments/run_file.h"

namespace ls::experiments {

/// Numbers of one update, by tag.
struct EventScalars {
  double wall_time = 0;  ///< seconds since 1970
  Index step = 0;
  std::vector<std::pair<std::string, double>> values;
};

/// The bytes of an event file: records with masked CRC-32C of lengths and contents, each an Event
/// of TensorFlow's protocol buffers, the first with the version of the format.
/// @source tensorflow/tensorflow, core/lib/io/record_writer.cc and core/util/event.proto
std::string event_file(const std::vector<EventScalars>& events);

/// What a run has told: train/loss, train/lr, ..., valid/SLICE/METRIC. Times begin at `begin` and
/// go on as training did. Unknown numbers are left out.
std::vector<EventScalars> events_of(const RunRecord& record, double begin);

}  // namespace ls::experiments
