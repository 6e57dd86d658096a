// A nonlinear recurrence has no summary: ranks take turns.
#include "core/ops/lstm/lstm.h"
#include "layers/scan/family.h"

namespace ls::layers {
namespace {

[[maybe_unused]] const bool registered = register_family<ops::Lstm>(
    "lstm",
    {.family = "nonlinear",
     .kind = FamilyKind::kRelay,
     .summary = "LSTM: hidden and cell vectors",
     .states = {{"h", "h0", "hT", StatePart::kVector}, {"c", "c0", "cT", StatePart::kVector}}});

}  // namespace
}  // namespace ls::layers
