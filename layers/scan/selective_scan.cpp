#include "core/ops/selective_scan/selective_scan.h"
#include "layers/scan/scan.h"

namespace ls::layers {

LS_SCAN(ops::SelectiveScan, "selective_scan", "h = exp(dt a) h + dt x b^T, every element by itself")
    .family("selective", FamilyKind::kFixed)
    .state("h", "s0", "sT", StatePart::kMatrix)
    .heads({"D", "G"})
    .linear("x", transitions::kElementwise);

}  // namespace ls::layers
