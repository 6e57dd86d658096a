#pragma once
// N ranks as N threads of this process: for tests, which then need no launcher.
#include <functional>

#include "core/comm/comm.h"

namespace ls {

struct ThreadRanksOptions {
  /// Longest wait of one operation. 0: default_comm_time_limit().
  double time_limit_s = 0;
  /// If for so long every rank waits and none moves, the ranks are deadlocked. Helper threads of a
  /// rank that communicate must not pause longer than this while all ranks wait.
  double stall_limit_s = 10;
};

/// Calls body(communicator) on n threads and waits for all of them.
///
/// If a rank throws, the others leave their waits with Error(Comm) that says which rank failed and
/// why, and the first exception is thrown here. The same holds for a rank that returns while
/// others wait for it, ranks that call different operations, deadlock and time-out.
/// send() always waits for its recv(), so that code relying on buffering is caught here.
void run_ranks(int n, const std::function<void(Communicator&)>& body,
               const ThreadRanksOptions& options = {});

}  // namespace ls
