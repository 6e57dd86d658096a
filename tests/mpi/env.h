#pragma once
#include "parallel/mpi_env.h"

namespace ls::test {
/// The ranks this test program runs as.
parallel::RankEnv& env();
}  // namespace ls::test
