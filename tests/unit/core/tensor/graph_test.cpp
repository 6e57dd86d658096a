// Graphs: recorded once, done again with the addresses that they had.
#include <doctest/doctest.h>

#include "core/tensor/graph.h"
#include "core/tensor/tensor.h"
#include "tests/support/errors.h"
#include "tests/support/stand_in.h"

using namespace ls;
using test::message;
using test::says;
using test::StandIn;

namespace {

template <class Fn>
void for_seeds(Fn&& fn) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    StandIn device(seed);
    fn(device, device.default_stream());
  }
}

Tensor full(Device& device, double value) {
  return Tensor::full({8}, DType::kF32, value, device);
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("a graph does again what was put on a stream, with what its inputs hold by then") {
    for_seeds([](StandIn& device, Stream& stream) {
      Tensor x = full(device, 1), sum = full(device, 0), y;
      Graph graph(stream, graph_memory(device), [&] {
        y = x.clone().mul_(3);
        sum.add_(y.clone().add_(x));
      });
      CHECK(sum.slow_at(0) == 0);  // nothing was done yet
      const auto version = sum.version();
      const DeviceCounts before = device.counts();
      graph.replay(stream);
      x.fill_(2);
      graph.replay(stream);
      CHECK(device.counts().host_waits == before.host_waits);
      CHECK(device.counts().growths == before.growths);
      CHECK(sum.version() == version + 2);
      CHECK(y.slow_at(3) == 6);
      CHECK(sum.slow_at(7) == 4 + 8);
    });
  }

  TEST_CASE("streams that a captured one makes wait are captured with it") {
    for_seeds([](StandIn& device, Stream& stream) {
      Stream& side = device.new_stream();
      Tensor x = full(device, 1), y, z;
      Graph graph(stream, graph_memory(device), [&] {
        side.wait(stream.record());
        {
          const UseStream use(side);
          y = x.clone().mul_(2);
        }
        z = x.clone().mul_(5);
        stream.wait(side.record());
        z.add_(y);
      });
      CHECK(!side.capturing());
      for (int n = 1; n <= 3; ++n) {
        x.fill_(n);
        graph.replay(stream);
        CHECK(z.slow_at(0) == 7 * n);
      }
      CHECK(says(message([&] {
                   const Graph unjoined(stream, graph_memory(device), [&] {
                     side.wait(stream.record());
                     const UseStream use(side);
                     x.clone();
                   });
                 }),
                 "stream 1 was captured into a graph that does not wait for it"));
      CHECK(!stream.capturing());
      CHECK(!side.capturing());
    });
  }

  TEST_CASE("an event that a graph lacks is an error at its first replay") {
    for_seeds([](StandIn& device, Stream& stream) {
      Stream& side = device.new_stream();
      Tensor x = full(device, 1), y = full(device, 2);
      Graph graph(stream, graph_memory(device), [&] {
        side.wait(stream.record());
        x.fill_(3);
        {
          const UseStream use(side);
          y.copy_(x);
        }
        stream.wait(side.record());
      });
      CHECK(says(message([&] { graph.replay(stream); }), "nothing puts them in order"));
    });
  }

  TEST_CASE("nothing waits for the device, nor copies values of now, while a graph is captured") {
    for_seeds([](StandIn& device, Stream& stream) {
      const Tensor x = full(device, 1);
      const Event before = stream.record();
      const auto refused = [&](const std::function<void()>& body) {
        const std::string fault =
            message([&] { const Graph graph(stream, graph_memory(device), body); });
        CHECK(!stream.capturing());
        CHECK(x.slow_at(0) == 1);
        return fault;
      };
      CHECK(says(refused([&] { x.slow_at(0); }), "while a graph is captured"));
      CHECK(says(refused([&] { Tensor::zeros({2}, DType::kF32).to(device); }),
                 "take a pinned tensor"));
      CHECK(says(refused([&] {
                   Stream& side = device.new_stream();
                   side.wait(stream.record());
                   side.wait(before);
                 }),
                 "an event of stand-in:0 stream 0 from before"));
      CHECK(says(refused([&] { LS_FAIL(kConfig, "a mistake"); }), "a mistake"));
      CHECK(says(message([&] { Graph graph(cpu().default_stream(), graph_memory(cpu()), [] {}); }),
                 "the processor records no graphs"));
    });
  }

  TEST_CASE("pinned memory is read anew by every replay") {
    for_seeds([](StandIn& device, Stream& stream) {
      Tensor pinned = Tensor::pinned({8}, DType::kF32, device);
      Tensor x = full(device, 0), y;
      Graph graph(stream, graph_memory(device), [&] {
        x.transfer_(pinned);
        y = x.clone().mul_(2);
      });
      for (int n = 1; n <= 3; ++n) {
        pinned.fill_(n);
        graph.replay(stream);
        CHECK(y.slow_at(0) == 2 * n);
      }
    });
  }

  TEST_CASE("a graph keeps what it took from outside") {
    for_seeds([](StandIn& device, Stream& stream) {
      Tensor x = full(device, 4), y;
      Graph graph(stream, graph_memory(device), [&] { y = x.clone().mul_(2); });
      x = Tensor();
      const Tensor other = full(device, 9);  // not in its place
      graph.replay(stream);
      CHECK(y.slow_at(0) == 8);
      CHECK(other.slow_at(0) == 9);
    });
    // Work that names addresses only is not kept: its replay is an error, not a wrong number.
    for_seeds([](StandIn& device, Stream& stream) {
      Tensor x = full(device, 4);
      const Tensor y = full(device, 0);
      Graph graph(stream, graph_memory(device),
                  [&] { stream.copy(y.storage()->data(), x.storage()->data(), 32); });
      graph.replay(stream);
      x = Tensor();
      CHECK(says(message([&] { graph.replay(stream); }), "after it was freed"));
      const Tensor other = full(device, 9);
      CHECK(says(message([&] { graph.replay(stream); }), "after it was freed"));
    });
  }

  TEST_CASE("a write into a captured buffer is an error, outside its graph") {
    for_seeds([](StandIn& device, Stream& stream) {
      const Tensor x = full(device, 1);
      Tensor y;
      Graph graph(stream, graph_memory(device), [&] { y = x.clone().mul_(2); });
      graph.replay(stream);
      CHECK(says(message([&] { y.add_(x); }), "belongs to a captured graph"));
      CHECK(y.clone().add_(x).slow_at(0) == 3);
    });
  }

  TEST_CASE("graphs that never run at once share their memory") {
    for_seeds([](StandIn& device, Stream& stream) {
      const auto memory = graph_memory(device);
      const Tensor x = full(device, 1);
      Tensor a, b;
      const auto work = [&](double factor) {
        Tensor sum = x.clone();
        for (int i = 0; i < 5; ++i) {
          sum = sum.clone().mul_(factor).add_(x);
        }
        return sum.clone();
      };
      Graph first(stream, memory, [&] { a = work(2); });
      const Index reserved = memory->reserved_bytes(), growths = device.counts().growths;
      Graph second(stream, memory, [&] { b = work(3); });
      CHECK(memory->reserved_bytes() == reserved);
      CHECK(device.counts().growths == growths);
      for (int n = 0; n < 2; ++n) {
        first.replay(stream);
        second.replay(stream);
        CHECK(a.slow_at(0) == 63);  // what the second leaves alone
        CHECK(b.slow_at(0) == 364);
      }
      // On two streams at once they would write over one another.
      first.replay(stream);
      Stream& side = device.new_stream();
      CHECK(says(message([&] { second.replay(side); }), "nothing puts them in order"));
    });
  }

  TEST_CASE("a graph's result that is freed is not written over while it is still read") {
    for_seeds([](StandIn& device, Stream& stream) {
      Stream& side = device.new_stream();
      const auto memory = graph_memory(device);
      const Tensor x = full(device, 1);
      Tensor a, b, copy;
      Graph first(stream, memory, [&] { a = x.clone().mul_(2); });
      first.replay(stream);
      side.wait(stream.record());
      {
        const UseStream use(side);
        copy = a.clone();
      }
      const void* const place = a.storage()->data();
      a = Tensor();
      Graph second(stream, memory, [&] { b = x.clone().mul_(3); });
      CHECK(b.storage()->data() == place);
      second.replay(stream);
      CHECK(b.slow_at(0) == 3);
      stream.wait(side.record());
      CHECK(copy.slow_at(0) == 2);
    });
  }
}
