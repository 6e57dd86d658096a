#pragma once
// One HTML page that needs nothing else: no network, no other file.
#include <string>
#include <vector>

#include "experiments/report/panels.h"

namespace ls::experiments {

struct ReportSection {
  const ReportGroup* group = nullptr;
  std::vector<Figure> figures;
  std::vector<std::string> files;     ///< of each figure: its path beside the page, without suffix
  std::vector<std::string> pictures;  ///< SVG of each, shown where Plotly is not built in
  std::vector<ReportTable> tables;
};

/// `directory`: that the page lies in; links to runs are relative to it.
std::string report_page(const std::vector<ReportSection>& sections, const std::string& directory);

}  // namespace ls::experiments
