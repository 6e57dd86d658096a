#include "core/ops/delta_rule/delta_rule.h"
#include "layers/scan/scan.h"

namespace ls::layers {

LS_SCAN(ops::DeltaRule, "delta_rule",
        "S = D S + beta k (v - k D S), or D S + b (a S) + k v; D = exp(g) diag(exp(gk))")
    .family("delta", FamilyKind::kFixed)
    .state("S", "s0", "sT", StatePart::kMatrix)
    .chunked()
    .parallel()
    .heads({"H", "HV"})
    .columns({"Dv"})
    .linear("v", "o", transitions::kDense);

}  // namespace ls::layers
