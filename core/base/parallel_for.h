#pragma once
// Loops over a pool of threads. Each calling thread has a pool of its own, made at its first loop;
// piece i of every loop runs on thread i of the pool, so that what a core wrote it reads again, or
// on the calling thread where thread i has not begun by then.
#include <algorithm>

#include "core/base/types.h"

namespace ls {

/// Threads that a loop uses: at first the cores that the affinity mask allows.
int num_threads();
/// 0 goes back to the affinity mask.
void set_num_threads(int threads);

/// Rows to a piece, so that pieces of parallel_for have at least `elements` elements in rows of
/// `row`.
inline Index row_grain(Index row, Index elements = 8192) {
  return std::max<Index>(1, elements / std::max<Index>(1, row));
}

namespace detail {
/// True within a piece of a parallel loop.
bool in_parallel_loop();
/// run(context, i) for each i of [0, pieces) on a thread of its own, this one being the first.
/// Threads spin for less than a tenth of a millisecond before they sleep, where there are no more
/// of them than cores.
void run_pieces(Index pieces, void (*run)(void* context, Index piece), void* context);
}  // namespace detail

/// f(begin, end) over pieces of [0, n), none smaller than `grain` but the last. Serial when one
/// piece is enough and inside another parallel loop. The first exception is rethrown here.
template <class F>
void parallel_for(Index n, Index grain, F&& f) {
  if (n <= 0) {
    return;
  }
  const Index pieces = std::min<Index>(num_threads(), n / std::max<Index>(1, grain));
  if (pieces <= 1 || detail::in_parallel_loop()) {
    f(Index{0}, n);
    return;
  }
  const auto piece = [&](Index i) {
    const Index begin = n * i / pieces, end = n * (i + 1) / pieces;
    if (begin < end) {
      f(begin, end);
    }
  };
  detail::run_pieces(
      pieces, [](void* context, Index i) { (*static_cast<decltype(piece)*>(context))(i); },
      const_cast<void*>(static_cast<const void*>(&piece)));
}

}  // namespace ls
