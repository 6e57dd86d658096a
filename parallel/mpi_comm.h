#pragma once
// MPI behind the Communicator interface. Knows nothing of start-up and failure of the job: see
// mpi_env.h. Names no MPI type, so that only the sources need the package.
#include <memory>
#include <mutex>
#include <source_location>

#include "core/comm/comm.h"

namespace ls::parallel {

class RankBoard;

/// What the communicators of one process share; outlives them.
struct MpiContext {
  RankBoard& board;
  /// Longest single message; longer data travels in several. MPI counts are 32-bit.
  Index message_bytes = Index{1} << 30;
  /// More ranks than cores here: give the core away at once while waiting.
  bool crowded = false;
  /// Held during MPI calls, none of which blocks: MPI runs at MPI_THREAD_SERIALIZED.
  std::mutex mutex;
};

/// All ranks of the job. Made after MPI_Init, destroyed before MPI_Finalize.
///
/// Data moves in point-to-point messages and is reduced here, in rank order: MPI's own reductions
/// may pick their order by size and topology. Long all_reduce and reduce_scatter each receive
/// (R-1)/R of the data per phase, as a ring does, in one step instead of R-1.
std::unique_ptr<Communicator> mpi_world(MpiContext& context);

/// Waits, with the world's time limit, until every rank has come here: before MPI_Finalize, which
/// would wait for ever.
void mpi_meet_at_end(MpiContext& context, double time_limit_s);

namespace detail {
void check_mpi(int code, const char* expression,
               std::source_location where = std::source_location::current());
}

}  // namespace ls::parallel

/// Calls MPI and throws Error(Comm) with expression, file, line and decoded text if it fails.
#define LS_MPI(expression) ::ls::parallel::detail::check_mpi((expression), #expression)
