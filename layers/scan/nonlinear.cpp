// A nonlinear recurrence has no summary: ranks take turns.
#include "core/ops/gru/gru.h"
#include "core/ops/lstm/lstm.h"
#include "layers/scan/scan.h"

namespace ls::layers {

LS_SCAN(ops::Gru, "gru", "GRU: hidden vector")
    .family("nonlinear", FamilyKind::kRelay)
    .state("h", "h0", "hT", StatePart::kVector);

LS_SCAN(ops::Lstm, "lstm", "LSTM: hidden and cell vectors")
    .family("nonlinear", FamilyKind::kRelay)
    .state("h", "h0", "hT", StatePart::kVector)
    .state("c", "c0", "cT", StatePart::kVector);

}  // namespace ls::layers
