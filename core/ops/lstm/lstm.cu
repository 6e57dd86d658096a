// LSTM on the GPU.
#include "core/backend/cuda/device/machine.cuh"
#include "core/backend/cuda/switches.h"
#include "core/op/op.h"
#include "core/ops/lstm/lstm_blocks.h"
#include "core/ops/lstm/lstm_grid.cuh"

namespace ls::ops {
namespace {

/// Dense weights that one processor cannot hold are shared out over all (lstm_grid.cuh).
template <class T>
struct OnGpu {
  using Call = lstm::Call<T>;
  static void forward(cuda::Machine& machine, Call& call) {
    if constexpr (std::is_same_v<acc_t<T>, float>) {
      lstm::grid::GridCall<T> all{call, grid(machine, call)};
      if (all.grid.units > 0) {
        common::take(machine, 2 * call.shape.batch * call.shape.width(), all.hidden);
        lstm::grid::forward(all);
        return;
      }
    }
    lstm::Passes<T>::forward(machine, call);
  }
  static void reverse(cuda::Machine& machine, const Call& call) {
    if constexpr (std::is_same_v<acc_t<T>, float>) {
      const lstm::grid::GridCall<T> all{call, grid(machine, call)};
      if (all.grid.units > 0) {
        lstm::grid::reverse(all);
        return;
      }
    }
    lstm::Passes<T>::reverse(machine, call);
  }

 private:
  static common::CellGrid grid(cuda::Machine& machine, const Call& call) {
    if (cuda::portable_only()) {
      return {};
    }
    common::CellGrid g = common::CellGrid::of(call.shape, cuda::queue().processors);
    if (g.units == 0 ||
        lstm::grid::Layout::bytes(g, true) > static_cast<std::size_t>(cuda::queue().shared_bytes)) {
      return {};
    }
    common::take(machine, std::max(g.heads, 1), g.arrived);
    return g;
  }
};

template <class T>
using Kernel = lstm::Blocks<cuda::Machine, T, OnGpu<T>>;

LS_KERNEL(Lstm)
    .on(DeviceType::kCuda)
    .named("portable")
    .reads("gx y", lies::rows)
    .aligned("h0", 16)
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
