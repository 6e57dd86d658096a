#pragma once
// What commands say of a scan.
#include <string>

#include "layers/scan/scan.h"

namespace ls::experiments {

/// "recurrent, chunk"
inline std::string scan_forms(const layers::ScanInfo& scan) {
  return std::string("recurrent") + (scan.has_chunk ? ", chunk" : "") +
         (scan.has_parallel ? ", parallel" : "");
}

}  // namespace ls::experiments
