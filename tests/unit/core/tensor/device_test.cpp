// Tensors, copies and memory on a device that the host cannot touch.
#include <doctest/doctest.h>
#include <unistd.h>

#include <cmath>

#include "core/tensor/context.h"
#include "core/tensor/tensor.h"
#include "tests/support/draw.h"
#include "tests/support/errors.h"
#include "tests/support/stand_in.h"

using namespace ls;
using test::Draw;
using test::message;
using test::says;
using test::StandIn;

namespace {

/// Bits of all elements, of any type.
std::vector<std::uint8_t> bits(const Tensor& t) {
  const Tensor c = t.to(cpu()).contiguous();
  const auto* p = static_cast<const std::uint8_t*>(c.raw());
  return {p, p + c.bytes()};
}

constexpr DType kTypes[] = {DType::kF64, DType::kF32, DType::kBF16, DType::kF16,
                            DType::kI64, DType::kI32, DType::kU8,   DType::kBool};

/// The host reads the address as a system call would: true where that is refused.
bool is_protected(const void* address) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const bool refused = write(ends[1], address, 1) < 0;
  close(ends[0]);
  close(ends[1]);
  return refused;
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("every method of a tensor gives the processor's bits on another device") {
    for (const std::uint64_t seed : {1, 2, 3}) {
      StandIn device(seed);
      Draw draw("device");
      const Tensor values = draw.normal({3, 5, 4}, 50);
      for (const DType from : kTypes) {
        const Tensor host = values.to(from), there = host.to(device);
        CHECK(&there.device() == &device);
        CHECK(bits(there) == bits(host));
        CHECK(bits(there.permute({2, 0, 1}).contiguous()) ==
              bits(host.permute({2, 0, 1}).contiguous()));
        CHECK(bits(there.slice(1, 1, 4).clone()) == bits(host.slice(1, 1, 4).clone()));
        CHECK(there.slow_at(7) == host.slow_at(7));
        CHECK(there.transpose(0, 2).to_vector<double>() ==
              host.transpose(0, 2).to_vector<double>());
        for (const DType to : kTypes) {
          CHECK(bits(there.to(to)) == bits(host.to(to)));
        }
        const auto changed = [&](Tensor t) {
          t.slice(0, 1, 2).fill_(3);
          if (is_float(from)) {
            t.slice(2, 0, 3).add_(t.slice(2, 1, 4), -0.3).mul_(1.7);
          }
          return t;
        };
        CHECK(bits(changed(there.clone())) == bits(changed(host.clone())));
      }
      CHECK(Tensor::full({}, DType::kF32, 2.5, device).item() == 2.5);
      CHECK(bits(Tensor::zeros({3, 3}, DType::kBF16, device)) == std::vector<std::uint8_t>(18, 0));
      CHECK(std::isnan(Tensor::empty({1}, DType::kF32, device).item()));
    }
  }

  TEST_CASE("the host touches no memory of a device, and is told where it tried") {
    StandIn device;
    Tensor t = Tensor::zeros({2, 3}, DType::kF32, device);
    const ErrorContext context("adding up losses");
    const auto told = [&](auto&& fn) {
      try {
        fn();
      } catch (const Error& e) {
        CHECK(e.kind() == ErrorKind::kDevice);
        return says(e.what(), "elements of f32[2, 3] on stand-in:0") &&
               says(e.what(), "while adding up losses");
      }
      return false;
    };
    CHECK(told([&] { t.data<float>(); }));
    CHECK(told([&] { static_cast<const Tensor&>(t).data<float>(); }));
    CHECK(told([&] { t.raw(); }));
    // Were it not told, the memory itself refuses.
    CHECK(is_protected(t.storage()->data()));
    CHECK(!is_protected(device.kernel_address(t.storage()->data())));
  }

  TEST_CASE("tensors of two devices do not mix by themselves") {
    StandIn device;
    Tensor there = Tensor::zeros({2}, DType::kF32, device), here = Tensor::zeros({2}, DType::kF32);
    CHECK(says(message([&] { there.copy_(here); }), "lies on cpu, another on stand-in:0"));
    CHECK(says(message([&] { here.add_(there); }), "add_: a tensor f32[2] lies on stand-in:0"));
    CHECK(says(message([&] { there.transfer_(Tensor::zeros({3}, DType::kF32)); }),
               "shape and type are the same"));
  }

  TEST_CASE("copies to and from a device run beside the host") {
    for (const std::uint64_t seed : {1, 2, 3, 4, 5}) {
      StandIn device(seed);
      const Tensor zero = Tensor::zeros({1000}, DType::kF32, device);
      const Index waits = device.counts().host_waits;
      Tensor x = Tensor::full({1000}, DType::kF32, 1);
      Tensor there = x.to(device);
      x.fill_(7);  // what was copied is what it was
      there.mul_(2);
      const Download late(there), pieces(there.view({10, 100}).slice(1, 3, 5));
      there.mul_(2);
      CHECK(device.counts().host_waits == waits);
      CHECK(late.wait().slow_at(999) == 2);
      CHECK(pieces.wait().slow_at(19) == 2);
      CHECK(there.to(cpu()).slow_at(0) == 4);
      CHECK(device.counts().host_waits > waits);
      // Into memory that exists: a slice of it, and pinned memory.
      Tensor batch = Tensor::zeros({4, 6}, DType::kI64, device);
      batch.slice(1, 2, 4).transfer_(Tensor::full({4, 2}, DType::kI64, 5));
      CHECK(batch.select(0, 3).to_vector<Index>() == std::vector<Index>{0, 0, 5, 5, 0, 0});
      Tensor pinned = Tensor::pinned({4, 6}, DType::kI64, device);
      pinned.transfer_(batch);
      device.synchronize();
      CHECK(pinned.slow_at(2) == 5);
    }
  }

  TEST_CASE("devices of one machine copy to one another") {
    StandIn a(3);
    StandIn b(3, a.machine());
    const Tensor on_a = Tensor::full({50}, DType::kF32, 3, a);
    const Tensor on_b = on_a.to(b);
    CHECK(&on_b.device() == &b);
    CHECK(on_b.slow_at(49) == 3);
    CHECK(b.describe() == "stand-in:1");
  }

  TEST_CASE("a kernel's error flag is read late and names source, position and value") {
    StandIn device;
    for (Device* const d : {static_cast<Device*>(&device), &cpu()}) {
      const ExecutionContext ctx = current_context(*d);
      const std::int32_t source = error_source("embedding: ids");
      CHECK(error_source("cross_entropy: labels") != source);
      CHECK(error_source("embedding: ids") == source);
      auto* const flag = static_cast<ErrorFlag*>(d->kernel_address(ctx.error_flag));
      const Index waits = device.counts().host_waits;
      ctx.stream.launch([=] { raise_error(flag, source, 12, 300); }, {});
      ctx.stream.launch([=] { raise_error(flag, source, 13, 301); }, {});
      CHECK(device.counts().host_waits == waits);
      CHECK(says(message([&] { check_error_flag(ctx.stream); }),
                 "embedding: ids: the value 300 at position 12 is not allowed"));
      check_error_flag(ctx.stream);
    }
  }

  TEST_CASE("a device's memory runs out with an error that says so") {
    StandIn device;
    CHECK(says(message([&] { Tensor::empty({Index{1} << 40}, DType::kF32, device); }),
               "stand-in:0 is out of memory"));
    CHECK(Tensor::full({1}, DType::kF32, 1, device).item() == 1);
  }
}
