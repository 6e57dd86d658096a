#pragma once
// Start, end and failure of a program that may run as several ranks (mpirun -n N longscan ...).
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/comm/comm.h"

namespace ls::parallel {

/// What a launcher (mpirun, srun) tells its processes through the environment.
struct Launch {
  int rank;
  int size;  // 0: not told
};
/// nullopt when this process was started plainly.
std::optional<Launch> launched_by();

/// Prints one message of a fault that every rank meets before the ranks can talk (a wrong command
/// line); returns the exit status 1. The launcher ends the job at the first exit, so ranks other
/// than 0 wait a while and speak only if they are still alive then.
int fail_unconnected(const Launch& launch, const std::string& text);

/// "Open MPI v4.1.4, ...", first line; "none" when built without.
std::string mpi_version();

struct RankOptions {
  /// Longest wait for other ranks, seconds. 0: default_comm_time_limit().
  double time_limit_s = 0;
  /// Longest single MPI message; the same on every rank. Tests make it small.
  Index message_bytes = Index{1} << 30;
};

/// The ranks of this run, as given to the body.
class RankEnv {
 public:
  virtual ~RankEnv() = default;
  virtual Communicator& world() = 0;
  /// Ranks on this machine.
  virtual int local_size() const = 0;
  /// Compute threads for this rank: each core of its affinity mask counts by the share of it that
  /// is left to this rank by the others on the machine. At least 1.
  virtual int threads() const = 0;
};

/// Runs body(env) once per rank and returns the exit status of the process: the body's, or 1 after
/// an exception. Call it once, from main.
///
/// - Started plainly: world() is solo_communicator(); MPI is not touched.
/// - Under a launcher: MPI is initialised, num_threads() is set to env.threads().
/// - An exception is one message on stderr. Of several ranks the first to fail on a machine prints;
///   ranks waiting for it get Error(Comm) with its message, have a second to unwind, and the job is
///   aborted. The same for an exception that escapes any thread, and for a rank that waits
///   longer than the time limit.
/// - Under a launcher with more than one rank but without MPI support in this build: one error.
int run_with_ranks(const std::function<int(RankEnv&)>& body, const RankOptions& options = {});

}  // namespace ls::parallel
