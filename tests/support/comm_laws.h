#pragma once
// What every transport owes: the same checks run on threads, over MPI and on the group of one.
#include "core/comm/comm.h"

namespace ls::test {

/// Collective: every rank of `comm` calls it. Failures are doctest CHECKs, on the rank that sees
/// them. Covers results bit for bit, uneven and empty blocks, in-place use, views and subgroups.
void check_communicator(Communicator& comm);

}  // namespace ls::test
