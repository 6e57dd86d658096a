#include "core/tensor/step_inputs.h"

#include <doctest/doctest.h>

#include "core/tensor/graph.h"
#include "tests/support/stand_in.h"

using namespace ls;
using test::StandIn;

TEST_SUITE("unit") {
  TEST_CASE("the host gives replayed steps their inputs without waiting for the device") {
    for (const std::uint64_t seed : {1, 2, 3, 4, 5}) {
      StandIn device(seed);
      Stream& stream = device.default_stream();
      StepInputs inputs(device, 3);
      const std::size_t batch = inputs.add({4}, DType::kF32), rate = inputs.add({1}, DType::kF64);
      const Tensor sum = Tensor::zeros({4}, DType::kF32, device);
      Graph graph(stream, graph_memory(device), [&] {
        Tensor x = inputs.buffer(batch).clone();
        x.add_(inputs.buffer(rate).to(DType::kF32).expand({4}));
        Tensor(sum).add_(x);
      });
      const DeviceCounts before = device.counts();
      float expected = 0;
      for (int n = 1; n <= 10; ++n) {
        inputs.next(batch).fill_(n);
        inputs.next(rate).fill_(0.5 * n);
        inputs.send();
        graph.replay(stream);
        expected += 1.5f * static_cast<float>(n);
      }
      CHECK(device.counts().host_waits == before.host_waits);
      CHECK(device.counts().growths == before.growths);
      CHECK(sum.to_vector<float>() == std::vector<float>(4, expected));
    }
  }

  TEST_CASE("inputs of the processor are given at once") {
    StepInputs inputs(cpu(), 1);
    const std::size_t x = inputs.add({2}, DType::kI64);
    inputs.next(x).fill_(3);
    inputs.send();
    inputs.next(x).fill_(4);
    CHECK(inputs.buffer(x).to_vector<Index>() == std::vector<Index>{3, 3});
  }
}
