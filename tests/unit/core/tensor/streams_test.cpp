// Streams and events, what memory they may share, and the faults that the stand-in device must see.
#include <doctest/doctest.h>

#include "core/tensor/tensor.h"
#include "tests/support/errors.h"
#include "tests/support/stand_in.h"

using namespace ls;
using test::message;
using test::says;
using test::StandIn;

namespace {

constexpr const char* kNoOrder = "nothing puts them in order";

/// Every order that the queues may take shows the same.
template <class Fn>
void for_seeds(Fn&& fn) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    StandIn device(seed);
    fn(device, device.default_stream(), device.new_stream());
  }
}

Tensor ones(Device& device) {
  return Tensor::full({8}, DType::kF32, 1, device);
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("work on two streams is in order where an event puts it in order") {
    for_seeds([](StandIn& device, Stream& home, Stream& side) {
      Tensor x = ones(device), y;
      side.wait(home.record());
      {
        const UseStream use(side);
        y = x.clone().mul_(3);
      }
      home.wait(side.record());
      x.add_(y);  // after the other stream has read x, and has written y
      CHECK(x.slow_at(7) == 4);
      CHECK(&current_stream(device) == &home);
    });
  }

  TEST_CASE("a forgotten event is an error every time") {
    for_seeds([](StandIn& device, Stream&, Stream& side) {
      const Tensor x = ones(device);
      const UseStream use(side);
      const ErrorContext context("summing on the side");
      const std::string fault = message([&] { x.clone(); });
      CHECK(says(fault,
                 "a kernel (summing on the side) on stream 1 reads what a kernel on stream "
                 "0 writes"));
      CHECK(says(fault, kNoOrder));
    });
    for_seeds([](StandIn& device, Stream& home, Stream& side) {
      Tensor x = ones(device);
      side.wait(home.record());
      {
        const UseStream use(side);
        x.clone();
      }
      CHECK(says(message([&] { x.fill_(2); }), "writes over what a kernel on stream 1 reads"));
    });
    for_seeds([](StandIn& device, Stream& home, Stream& side) {
      const Event early = home.record();
      Tensor x = ones(device);
      side.wait(early);  // recorded before the work that counts
      const UseStream use(side);
      CHECK(says(message([&] { x.mul_(2); }), kNoOrder));
    });
  }

  TEST_CASE("what the host has waited for is in order with what it does next") {
    for_seeds([](StandIn& device, Stream& home, Stream& side) {
      Tensor x = ones(device);
      const Event done = home.record();
      done.synchronize();
      const UseStream use(side);
      CHECK(x.mul_(2).to(cpu()).slow_at(0) == 2);
    });
  }

  TEST_CASE("parts of one buffer are used by two streams at once") {
    for_seeds([](StandIn& device, Stream& home, Stream& side) {
      const Tensor x = ones(device);
      side.wait(home.record());
      x.slice(0, 0, 4).fill_(2);
      {
        const UseStream use(side);
        x.slice(0, 4, 8).fill_(3);
        CHECK(says(message([&] { x.slice(0, 3, 5).fill_(4); }), kNoOrder));
      }
      home.wait(side.record());
      CHECK(x.to_vector<float>() == std::vector<float>{2, 2, 2, 2, 3, 3, 3, 3});
    });
  }

  TEST_CASE("a freed block is its stream's at once, another stream's use of it is waited for") {
    for_seeds([](StandIn& device, Stream& home, Stream& side) {
      const void* const first = ones(device).storage()->data();
      Tensor x = ones(device), result;
      CHECK(x.storage()->data() == first);
      side.wait(home.record());
      {
        const UseStream use(side);
        result = x.clone();
        for (int i = 0; i < 20; ++i) {
          result.add_(x);
        }
      }
      const Index growths = device.counts().growths, waits = device.counts().host_waits;
      x = Tensor();
      Tensor next = Tensor::full({8}, DType::kF32, 5, device);
      CHECK(next.storage()->data() == first);
      CHECK(device.counts().growths == growths);
      CHECK(device.counts().host_waits == waits);
      home.wait(side.record());
      CHECK(result.slow_at(0) == 21);
      CHECK(next.slow_at(0) == 5);
    });
  }

  TEST_CASE("a use on another stream that was not recorded is an error") {
    for_seeds([](StandIn& device, Stream& home, Stream& side) {
      Tensor x = ones(device);
      const Tensor copy = ones(device);
      side.wait(home.record());
      side.copy(copy.storage()->data(), x.storage()->data(), x.bytes());
      x = Tensor();
      CHECK(says(message([&] { ones(device); }), "writes over what a copy on stream 1 reads"));
    });
  }

  TEST_CASE("a use after free is an error") {
    for_seeds([](StandIn& device, Stream& home, Stream&) {
      Tensor x = ones(device);
      const Tensor y = ones(device);
      void* const gone = x.storage()->data();
      x = Tensor();
      CHECK(says(message([&] { home.copy(y.storage()->data(), gone, 32); }),
                 "reads a buffer of 256 bytes after it was freed"));
      CHECK(says(message([&] { home.copy(y.storage()->data(), y.storage()->data(), 512); }),
                 "512 bytes at offset 0 of a buffer of 256"));
      std::vector<float> unpinned(8);
      CHECK(says(message([&] { home.copy(unpinned.data(), y.storage()->data(), 32); }),
                 "memory of the host that is not pinned"));
    });
  }

  TEST_CASE("steps that have warmed up ask for no memory and wait for nothing") {
    for_seeds([](StandIn& device, Stream& home, Stream& side) {
      Tensor w = ones(device);
      std::vector<Download> metrics;
      const auto step = [&](int n) {
        const Tensor batch = Tensor::full({8}, DType::kF32, n).to(device);
        Tensor y = batch.clone().add_(w);
        side.wait(home.record());
        {
          const UseStream use(side);
          y.mul_(0.5);
        }
        home.wait(side.record());
        w.add_(y, 0.1);
        metrics.emplace_back(y);
      };
      for (int n = 0; n < 3; ++n) {
        step(n);
      }
      device.synchronize();
      const DeviceCounts warm = device.counts();
      const Index reserved = device.reserved_bytes();
      for (int n = 0; n < 20; ++n) {
        step(n);
      }
      CHECK(device.counts().host_waits == warm.host_waits);
      CHECK(device.reserved_bytes() == reserved);
      CHECK(metrics.back().wait().defined());
    });
  }

  TEST_CASE("an error in work that is done late reaches the host late") {
    for_seeds([](StandIn&, Stream& home, Stream&) {
      home.launch([] { LS_FAIL(kNumeric, "a kernel failed"); }, {});
      CHECK(says(message([&] { home.synchronize(); }), "a kernel failed"));
      home.synchronize();
    });
  }

  TEST_CASE("the processor counts what it asks the system for") {
    const auto growths = [] { return cpu().counts().growths; };
    { const Tensor warm = Tensor::empty({12345}, DType::kF64); }
    const Index before = growths();
    { const Tensor again = Tensor::empty({12345}, DType::kF64); }
#ifdef LS_SANITIZE
    CHECK(growths() == before + 1);
#else
    CHECK(growths() == before);
#endif
    CHECK(cpu().default_stream().record().happened());
  }
}
