#pragma once
// What is asked of a scan when the program starts.
#include "layers/scan/scan.h"

namespace ls::layers {

/// What a scan names exists in its op. @throws Error(Internal)
void check_scan(const ScanInfo& scan, const std::string& name);

}  // namespace ls::layers
