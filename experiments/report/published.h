#pragma once
// Points of papers, drawn hollow beside ours.
#include <string>
#include <vector>

namespace ls::experiments {

struct PublishedPoint {
  std::string source;   ///< "2312.04927, figure 2"
  std::string task;     ///< as it is named here
  std::string variant;  ///< of the task, "" where it has none
  std::string slices;   ///< lengths and pairs, "64:4 128:8"; the value is the mean over them
  std::string model;    ///< as the source names it
  std::string mixer;    ///< as it is named here, which decides color and marker
  std::string x;        ///< what the point lies over: "state bytes", "zoology bytes", or a field
  double at = 0;
  std::string metric;
  double value = 0;
  std::string reading;  ///< "table", or "figure": read off by eye
  double error = 0;     ///< of the reading
};

/// All files of a folder, by name. @throws Error(Io) naming file, line and column of what is wrong
std::vector<PublishedPoint> read_published(const std::string& folder);

}  // namespace ls::experiments
