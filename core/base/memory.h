#pragma once
// The memory that this process can have.
#include "core/base/types.h"

namespace ls {

/// Bytes of the machine, or of the control group that the process is in where that has fewer.
Index machine_memory();

}  // namespace ls
