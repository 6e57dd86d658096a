#pragma once
// Runs the code of blocks (block.h) on the GPU; HostMachine is its likeness on the host.
#include <algorithm>
#include <array>
#include <deque>

#include "core/backend/cuda/device/block.h"
#include "core/backend/cuda/launch.h"

namespace ls::cuda {
namespace machine {

/// Of a block of Code: Code::kBlockThreads, or kBlock. With a constant number the compiler knows
/// the steps of `each`.
template <class Code>
constexpr int threads() {
  if constexpr (requires { Code::kBlockThreads; }) {
    return Code::kBlockThreads;
  } else {
    return kBlock;
  }
}
template <class Code>
__device__ Block here() {
  return {static_cast<Index>(blockIdx.x), static_cast<Index>(blockIdx.y),
          static_cast<Index>(blockIdx.z), static_cast<int>(threadIdx.x), threads<Code>()};
}
/// Bytes of Shared, so that what is behind it is aligned.
template <class Shared>
constexpr Index room() {
  return (Index{sizeof(Shared)} + 15) / 16 * 16;
}
template <class Code, class Call>
__global__ void __launch_bounds__(threads<Code>()) run(const __grid_constant__ Call call) {
  extern __shared__ __align__(16) unsigned char shared[];
  Code::run(here<Code>(), call, reinterpret_cast<typename Code::Shared*>(shared));
}
template <class Code, class Call>
__global__ void __launch_bounds__(threads<Code>())
    run_code(const __grid_constant__ Code code, const __grid_constant__ Call call) {
  extern __shared__ __align__(16) unsigned char shared[];
  code.run(here<Code>(), call, reinterpret_cast<typename Code::Shared*>(shared));
}
/// States of `elements` lie behind Shared, or at `states`, block by block.
template <class Code, class Call>
__global__ void __launch_bounds__(threads<Code>())
    run_states(const __grid_constant__ Call call, typename Call::A* states, Index elements) {
  using Shared = typename Code::Shared;
  extern __shared__ __align__(16) unsigned char shared[];
  const Index block = (Index{blockIdx.z} * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  auto* const own = reinterpret_cast<typename Call::A*>(shared + room<Shared>());
  Code::run(here<Code>(), call, reinterpret_cast<Shared*>(shared),
            states ? states + block * elements : own);
}

}  // namespace machine

class Machine {
 public:
  using Grid = std::array<Index, 3>;

  void* allocate(Index bytes) { return memory_.emplace_back(std::max<Index>(bytes, 1)).data(); }
  ErrorFlag* error_flag() const { return queue().error_flag; }
  template <class Code, class Call>
  void launch(const Grid& grid, const Call& call) {
    cuda::launch(&machine::run<Code, Call>, blocks(grid), machine::threads<Code>(),
                 sizeof(typename Code::Shared), call);
  }
  template <class Code, class Call>
  void launch_code(const Grid& grid, const Code& code, const Call& call) {
    cuda::launch(&machine::run_code<Code, Call>, blocks(grid), machine::threads<Code>(),
                 sizeof(typename Code::Shared), code, call);
  }
  template <class Code, class Call>
  void launch_states(const Grid& grid, const Call& call) {
    using A = typename Call::A;
    using Shared = typename Code::Shared;
    const Index elements = Code::state_elements(call);
    const Index bytes = machine::room<Shared>() + elements * Index{sizeof(A)};
    const bool fits = bytes <= queue().shared_bytes;
    A* const states =
        fits ? nullptr
             : static_cast<A*>(allocate(grid[0] * grid[1] * grid[2] * elements * Index{sizeof(A)}));
    cuda::launch(&machine::run_states<Code, Call>, blocks(grid), machine::threads<Code>(),
                 static_cast<std::size_t>(fits ? bytes : machine::room<Shared>()), call, states,
                 elements);
  }

 private:
  static dim3 blocks(const Grid& grid) {
    return {static_cast<unsigned>(grid[0]), static_cast<unsigned>(grid[1]),
            static_cast<unsigned>(grid[2])};
  }
  std::deque<Scratch> memory_;
};

}  // namespace ls::cuda
