// GRU on the GPU.
#include "core/backend/cuda/device/machine.cuh"
#include "core/backend/cuda/switches.h"
#include "core/op/op.h"
#include "core/ops/gru/gru_blocks.h"
#include "core/ops/gru/gru_grid.cuh"

namespace ls::ops {
namespace {

/// Dense weights that one processor cannot hold are shared out over all (gru_grid.cuh).
template <class T>
struct OnGpu {
  using Call = gru::Call<T>;
  static void forward(cuda::Machine& machine, Call& call) {
    if constexpr (std::is_same_v<acc_t<T>, float>) {
      gru::grid::GridCall<T> all{call, grid(machine, call)};
      if (all.grid.units > 0) {
        common::take(machine, 2 * call.shape.batch * call.shape.width(), all.hidden);
        common::take(machine, call.shape.batch * call.shape.width(), all.reset);
        gru::grid::forward(all);
        return;
      }
    }
    gru::Passes<T>::forward(machine, call);
  }
  static void reverse(cuda::Machine& machine, const Call& call) {
    if constexpr (std::is_same_v<acc_t<T>, float>) {
      const gru::grid::GridCall<T> all{call, grid(machine, call)};
      if (all.grid.units > 0) {
        gru::grid::reverse(all);
        return;
      }
    }
    gru::Passes<T>::reverse(machine, call);
  }

 private:
  static common::CellGrid grid(cuda::Machine& machine, const Call& call) {
    if (cuda::portable_only()) {
      return {};
    }
    common::CellGrid g = common::CellGrid::of(call.shape, cuda::queue().processors);
    if (g.units == 0 ||
        gru::grid::Layout::bytes(g, true) > static_cast<std::size_t>(cuda::queue().shared_bytes)) {
      return {};
    }
    common::take(machine, std::max(g.heads, 1), g.arrived);
    return g;
  }
};

template <class T>
using Kernel = gru::Blocks<cuda::Machine, T, OnGpu<T>>;

LS_KERNEL(Gru)
    .on(DeviceType::kCuda)
    .named("portable")
    .reads("gx y", lies::rows)
    .aligned("h0", 16)
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
