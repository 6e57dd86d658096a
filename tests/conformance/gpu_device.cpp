// A GPU as a device: Tensor's own methods, streams, errors.
#include <doctest/doctest.h>

#include "core/op/op.h"
#include "core/ops/embedding/embedding.h"
#include "core/tensor/graph.h"
#include "tests/support/draw.h"
#include "tests/support/errors.h"
#include "tests/support/gpu.h"
#include "tests/support/skip.h"
#include "tests/support/tolerance.h"

using namespace ls;
using namespace ls::test;

namespace {

/// Null and a note where there is no GPU.
Device* device_for(const char* what) {
  Device* const device = gpu();
  if (!device) {
    skipped(std::string(what) + ": there is no GPU that this program can use");
  }
  return device;
}

constexpr DType kTypes[] = {DType::kF64, DType::kF32, DType::kBF16, DType::kF16,
                            DType::kI64, DType::kI32, DType::kU8,   DType::kBool};

/// f on the processor and there has the same bits.
template <class F>
void same(Device& device, const Tensor& x, F f) {
  const Tensor here = f(x), there = f(x.to(device));
  CHECK(bit_difference(there.to(cpu()), here) == "");
}

}  // namespace

TEST_SUITE("conformance") {
  TEST_CASE("tensors on a GPU") {
    Device* const device = device_for("tensors on a GPU");
    if (!device) {
      return;
    }
    const Tensor x = Draw("tensors on a GPU").normal({5, 6, 7}, 3);
    for (const DType from : kTypes) {
      const Tensor typed =
          from == DType::kU8 ? Draw("u8").integers({5, 6, 7}, 0, 200).to(from) : x.to(from);
      same(*device, typed, [](const Tensor& t) { return t.clone(); });
      same(*device, typed, [](const Tensor& t) { return t.permute({2, 0, 1}).contiguous(); });
      same(*device, typed, [](const Tensor& t) { return t.slice(1, 2, 5).slice(2, 1, 4).clone(); });
      same(*device, typed,
           [](const Tensor& t) { return Tensor::full(t.shape(), t.dtype(), 1, t.device()); });
      for (const DType to : kTypes) {
        CAPTURE(enum_name(from));
        CAPTURE(enum_name(to));
        const bool wraps = to == DType::kU8;  // negative numbers
        if (!wraps) {
          same(*device, typed, [to](const Tensor& t) { return t.transpose(0, 2).to(to); });
          same(*device, typed, [to](const Tensor& t) { return t.to(to); });
        }
      }
    }
    for (const DType t : {DType::kF64, DType::kF32, DType::kBF16}) {
      same(*device, x.to(t), [](const Tensor& y) { return y.clone().mul_(0.37); });
      same(*device, x.to(t), [](const Tensor& y) {
        Tensor z = Tensor::full({7, 6, 5}, y.dtype(), 2, y.device()).permute({2, 1, 0});
        return z.add_(y, 0.25).contiguous();
      });
    }
    // Slices by whole packs of bytes: of 16, and where they begin elsewhere of fewer.
    const Tensor wide = Draw("packs").integers({6, 5, 48}, 0, 200);
    for (const DType t : {DType::kF64, DType::kF32, DType::kBF16, DType::kU8}) {
      for (const Index first : {16, 8, 4, 2, 1}) {
        CAPTURE(enum_name(t));
        CAPTURE(first);
        same(*device, wide.to(t),
             [first](const Tensor& y) { return y.slice(2, first, first + 16).clone(); });
        same(*device, wide.to(t), [first](const Tensor& y) {
          Tensor z = Tensor::zeros({6, 5, 64}, y.dtype(), y.device());
          z.slice(2, first, first + 32).copy_(y.slice(2, 0, 32));
          return z;
        });
      }
    }
    CHECK(x.to(*device).slow_at(17) == x.slow_at(17));
  }

  TEST_CASE("streams on a GPU") {
    Device* const device = device_for("streams on a GPU");
    if (!device) {
      return;
    }
    const Index n = Index{1} << 22;
    Stream& other = device->new_stream();
    Tensor a = Tensor::zeros({n}, DType::kF32, *device);
    for (int round = 0; round < 20; ++round) {
      a.add_(Tensor::full({n}, DType::kF32, 1, *device));
      other.wait(device->default_stream().record());
      {
        const UseStream use(other);
        a.mul_(2);  // its block is used on a stream that is not its home
        a.storage()->record_use(other);
      }
      device->default_stream().wait(other.record());
    }
    const std::vector<float> values = a.to_vector<float>();
    CHECK(values.front() == 2097150.0f);
    CHECK(values.back() == 2097150.0f);
  }

  TEST_CASE("errors on a GPU") {
    Device* const device = device_for("errors on a GPU");
    if (!device) {
      return;
    }
    const Tensor x = Tensor::zeros({3}, DType::kF32, *device);
    CHECK(says(message([&] { std::as_const(x).raw(); }), "which it may not touch"));
    const std::string full =
        message([&] { Tensor::empty({Index{1} << 42}, DType::kF32, *device); });
    CHECK_MESSAGE(says(full, "out of memory"), full);
    CHECK_MESSAGE(says(full, "smaller batch"), full);
    // Afterwards everything goes on.
    CHECK(Tensor::full({2}, DType::kF32, 3, *device).to_vector<float>() ==
          std::vector<float>{3, 3});
    // A bad index is told late, by name and place.
    const Tensor table = Tensor::full({4, 2}, DType::kF32, 1, *device);
    const Tensor ids = Tensor::from(std::vector<std::int64_t>{0, 3, 9}).to(*device);
    call_op<ops::Embedding>({table, ids});
    const std::string bad = message([&] { check_error_flag(device->default_stream()); });
    CHECK_MESSAGE(says(bad, "embedding: id"), bad);
    CHECK_MESSAGE(says(bad, "9"), bad);
    check_error_flag(device->default_stream());
  }
}
