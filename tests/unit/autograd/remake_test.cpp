#include "autograd/remake.h"

#include <doctest/doctest.h>

#include "autograd/call.h"
#include "autograd/functional.h"
#include "core/ops/add_rms_norm/add_rms_norm.h"
#include "core/ops/linear/linear.h"
#include "core/ops/mul/mul.h"
#include "core/ops/rms_norm/rms_norm.h"
#include "tests/support/draw.h"
#include "tests/support/errors.h"
#include "tests/support/stand_in.h"

using namespace ls;
using ag::Var;
using test::message;
using test::says;

namespace {

Var mul(const Var& a, const Var& b) {
  return ag::call<ops::Mul>({.a = a, .b = b}).y;
}

/// Leaves of a small network, with values of their own for each seed.
struct Leaves {
  Leaves(std::uint64_t seed, DType type, Device& device) {
    test::Draw draw("remake " + std::to_string(seed));
    const auto leaf = [&](const Shape& shape, DType t) {
      return Var::leaf(draw.normal(shape).to(t).to(device));
    };
    const DType acc = acc_dtype(type);
    x = leaf({2, 3, 8}, type);
    update = leaf({2, 3, 8}, type);
    gain = leaf({8}, acc);
    weight = leaf({24, 8}, type);
  }
  std::vector<Var*> all() { return {&x, &update, &gain, &weight}; }
  Var x, update, gain, weight;
};

struct Outcome {
  std::vector<std::vector<double>> values;
  std::uint64_t dropped = 0;
};

/// A norm behind a sum, a product, and the square of two slices of it.
Outcome run(Remake level, DType type, Device& device) {
  Leaves l(7, type, device);
  Outcome out;
  ag::Tape tape;
  Var end;
  std::vector<std::weak_ptr<Storage>> between;
  ag::Remaking remaking(level);
  {
    const auto added = ag::call<ops::AddRmsNorm>({.x = l.update, .residual = l.x, .weight = l.gain},
                                                 {.eps = 1e-5});
    const Var wide = ag::call<ops::Linear>({.x = added.y, .weight = l.weight}).y;
    const auto parts = ag::split(wide, 2, {8, 8, 8});
    const Var normed =
        ag::call<ops::RmsNorm>({.x = parts[0], .weight = l.gain, .z = parts[1]}, {.eps = 1e-5}).y;
    end = mul(mul(normed, parts[2]), added.sum);
    between = {added.y.value().storage(), wide.value().storage(), normed.value().storage()};
  }
  remaking.done();  // the handles of the forward pass are gone by now
  for (const auto& weak : between) {
    const auto storage = weak.lock();
    out.dropped = out.dropped * 2 + (storage && storage->dropped() ? 1 : 0);
  }
  out.values.push_back(end.value().to_vector<double>());
  tape.backward(end, Tensor::full(end.shape(), type, 1, device));
  for (Var* const v : l.all()) {
    out.values.push_back(v->grad().to_vector<double>());
  }
  return out;
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("what is made again has the bits of what was kept") {
    test::StandIn away(3);
    for (Device* const device : {&cpu(), static_cast<Device*>(&away)}) {
      for (const DType type : {DType::kF64, DType::kF32, DType::kBF16}) {
        CAPTURE(device->describe());
        CAPTURE(enum_name(type));
        const Outcome kept = run(Remake::kNone, type, *device);
        const Outcome outputs = run(Remake::kOutputs, type, *device);
        const Outcome products = run(Remake::kProducts, type, *device);
        CHECK(outputs.values == kept.values);
        CHECK(products.values == kept.values);
        CHECK(kept.dropped == 0b000);
        CHECK(outputs.dropped == 0b101);
        CHECK(products.dropped == 0b111);
      }
    }
  }

  TEST_CASE("a value that somebody still holds keeps its memory") {
    Leaves l(8, DType::kF32, cpu());
    ag::Tape tape;
    ag::Remaking remaking(Remake::kProducts);
    const Var y = ag::call<ops::RmsNorm>({.x = l.x, .weight = l.gain}, {.eps = 1e-5}).y;
    const Var z = mul(y, y);
    remaking.done();
    CHECK_FALSE(y.value().storage()->dropped());
    CHECK(y.value().to_vector<double>().size() == 48);
    tape.backward(z, Tensor::full(z.shape(), DType::kF32, 1));
    CHECK(l.x.grad().defined());
  }

  TEST_CASE("a value that was changed in place is not made again") {
    const auto gradient = [](Remake level) {
      Leaves l(10, DType::kF32, cpu());
      ag::Tape tape;
      Var end;
      ag::Remaking remaking(level);
      {
        Var y = ag::call<ops::RmsNorm>({.x = l.x, .weight = l.gain}, {.eps = 1e-5}).y;
        y.mutable_value().mul_(2);
        end = mul(y, l.update);
      }
      remaking.done();
      tape.backward(end, Tensor::full(end.shape(), DType::kF32, 1));
      return l.update.grad().to_vector<double>();
    };
    CHECK(gradient(Remake::kOutputs) == gradient(Remake::kNone));
  }

  TEST_CASE("what a value is made of must not change before it is made again") {
    Leaves l(9, DType::kF32, cpu());
    ag::Tape tape;
    Var end;
    {
      ag::Remaking remaking(Remake::kOutputs);
      end = mul(ag::call<ops::RmsNorm>({.x = l.x, .weight = l.gain}, {.eps = 1e-5}).y, l.update);
      remaking.done();
    }
    l.x.mutable_value().mul_(2);
    CHECK(says(message([&] { tape.backward(end, Tensor::full(end.shape(), DType::kF32, 1)); }),
               "was changed in place after it was saved"));
  }
}
