#pragma once
// Which passes of a nonlinear cell run on a GPU: those of blocks, or where dense weights are more
// than one processor holds, those that share them out over all (cell_grid.cuh).
#include "core/backend/cuda/device/machine.cuh"
#include "core/backend/cuda/switches.h"
#include "core/ops/common/cell_grid.cuh"

namespace ls::ops::common {

/// GridCall: a call, its `grid`, the memory that `prepare` takes; start_forward and start_reverse
/// beside it.
template <class T, class Passes, class GridCall>
struct CellOnGpu {
  using Call = decltype(GridCall::call);
  static void forward(cuda::Machine& machine, Call& call) {
    if constexpr (std::is_same_v<acc_t<T>, float>) {
      GridCall all{call, grid(machine, call)};
      if (all.grid.units > 0) {
        all.prepare(machine);
        start_forward(all);
        return;
      }
    }
    Passes::forward(machine, call);
  }
  static void reverse(cuda::Machine& machine, const Call& call) {
    if constexpr (std::is_same_v<acc_t<T>, float>) {
      const GridCall all{call, grid(machine, call)};
      if (all.grid.units > 0) {
        start_reverse(all);
        return;
      }
    }
    Passes::reverse(machine, call);
  }

 private:
  static CellGrid grid(cuda::Machine& machine, const Call& call) {
    const auto room = static_cast<std::size_t>(cuda::queue().shared_bytes);
    CellGrid g;
    if (!cuda::portable_only()) {
      g = CellGrid::of(call.shape, cuda::queue().processors);
    }
    if (g.units == 0 || GridCall::Layout::bytes(g, true) > room) {
      return {};
    }
    take(machine, std::max(g.heads, 1), g.arrived);
    return g;
  }
};

}  // namespace ls::ops::common
