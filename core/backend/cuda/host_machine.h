#pragma once
// Runs the code of blocks on the host, block by block with one thread each: how it is tested where
// there is no GPU, and what a device is compared with.
#include <array>
#include <memory>
#include <vector>

#include "core/backend/cuda/device/block.h"
#include "core/tensor/error_flag.h"

namespace ls::cuda {

class HostMachine {
 public:
  using Grid = std::array<Index, 3>;

  void* allocate(Index bytes) {
    memory_.push_back(std::make_unique<std::byte[]>(static_cast<std::size_t>(bytes + 1)));
    return memory_.back().get();
  }
  ErrorFlag* error_flag() const { return nullptr; }
  /// Code::run(block, call, shared).
  template <class Code, class Call>
  void launch(const Grid& grid, const Call& call) {
    run<typename Code::Shared>(grid, [&](const Block& block, typename Code::Shared* shared) {
      Code::run(block, call, shared);
    });
  }
  /// code.run(block, call, shared).
  template <class Code, class Call>
  void launch_code(const Grid& grid, const Code& code, const Call& call) {
    run<typename Code::Shared>(grid, [&](const Block& block, typename Code::Shared* shared) {
      code.run(block, call, shared);
    });
  }
  /// Code::run(block, call, shared, state).
  template <class Code, class Call>
  void launch_states(const Grid& grid, const Call& call) {
    std::vector<typename Call::A> state(static_cast<std::size_t>(Code::state_elements(call)));
    run<typename Code::Shared>(grid, [&](const Block& block, typename Code::Shared* shared) {
      Code::run(block, call, shared, state.data());
    });
  }

 private:
  template <class Shared, class F>
  static void run(const Grid& grid, F&& f) {
    const auto shared = std::make_unique<Shared>();
    for (Index z = 0; z < grid[2]; ++z) {
      for (Index y = 0; y < grid[1]; ++y) {
        for (Index x = 0; x < grid[0]; ++x) {
          f(Block{x, y, z, 0, 1}, shared.get());
        }
      }
    }
  }
  std::vector<std::unique_ptr<std::byte[]>> memory_;
};

}  // namespace ls::cuda
