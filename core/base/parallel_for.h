#pragma once
// Loops over the thread pool. The pool is OpenMP's, shared with the libraries that use it too, so
// that nothing competes for the cores.
#include <omp.h>

#include <algorithm>
#include <exception>
#include <string>
#include <utility>

#include "core/base/types.h"

namespace ls {

/// Threads that a loop uses: at first the cores that the affinity mask allows.
int num_threads();
/// 0 goes back to the affinity mask.
void set_num_threads(int threads);

/// Threads wait for one another by spinning before they sleep. GNU OpenMP spins for milliseconds,
/// which on cores that other programs use costs small models most of their speed, and it reads how
/// long before main: so this starts the program again, once, with shorter spins, unless
/// OMP_WAIT_POLICY or GOMP_SPINCOUNT already say what to do. Call it first in main.
void start_with_short_spins(char** argv);
/// What the environment says about waiting: "GOMP_SPINCOUNT=5000", "OMP_WAIT_POLICY=passive", or
/// "default".
std::string wait_policy();

/// Rows to a piece, so that pieces of parallel_for have at least `elements` elements in rows of
/// `row`.
inline Index row_grain(Index row, Index elements = 8192) {
  return std::max<Index>(1, elements / std::max<Index>(1, row));
}

/// f(begin, end) over pieces of [0, n), none smaller than `grain` but the last. Serial when one
/// piece is enough and inside another parallel loop. The first exception is rethrown here.
template <class F>
void parallel_for(Index n, Index grain, F&& f) {
  if (n <= 0) {
    return;
  }
  const int threads = num_threads();
  const Index wanted = std::min<Index>(threads, n / std::max<Index>(1, grain));
  if (wanted <= 1 || omp_in_parallel()) {
    f(Index{0}, n);
    return;
  }
  std::exception_ptr error;
  // The whole team, also for fewer pieces: libgomp ends the threads that a smaller team leaves out
  // and makes new ones for the next.
#pragma omp parallel num_threads(threads)
  {
    const Index pieces = std::min<Index>(wanted, omp_get_num_threads());
    const Index i = omp_get_thread_num();
    const Index begin = n * i / pieces;
    const Index end = n * (i + 1) / pieces;
    try {
      if (i < pieces && begin < end) {
        f(begin, end);
      }
    } catch (...) {
#pragma omp critical(ls_parallel_for)
      if (!error) {
        error = std::current_exception();
      }
    }
  }
  if (error) {
    std::rethrow_exception(error);
  }
}

}  // namespace ls
