#pragma once
// The GPU of tests that need one.
#include "core/tensor/devices.h"

namespace ls::test {

/// The first GPU, or null where this program or machine has none.
Device* gpu();

}  // namespace ls::test
