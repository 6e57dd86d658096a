#pragma once
// Files that are a part of the program: what the page of a report is made of.
#include <string_view>

namespace ls::experiments {

std::string_view page_css();
std::string_view page_js();
/// Plotly, "" where the build did not find it (CMake's LONGSCAN_PLOTLY).
std::string_view plotly_js();

}  // namespace ls::experiments
