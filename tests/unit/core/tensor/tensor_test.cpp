#include "core/tensor/tensor.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tests/support/errors.h"

using namespace ls;
using test::message;
using test::says;

TEST_SUITE("unit") {
  TEST_CASE("tensor views share storage and index as declared") {
    std::vector<double> v(24);
    for (int i = 0; i < 24; ++i) {
      v[static_cast<std::size_t>(i)] = i;
    }
    const Tensor t = Tensor::from(v, {2, 3, 4});
    const Tensor p = t.permute({2, 0, 1});
    CHECK(p.shares_storage(t));
    CHECK(p.shape() == Shape{4, 2, 3});
    CHECK(p.slow_at(7) == t.slow_at(1 * 4 + 1));  // p[1,0,1] = t[0,1,1]
    CHECK(t.slice(1, 1, 3).select(0, 1).slow_at(0) == 16);
    CHECK(p.contiguous().slow_at(7) == p.slow_at(7));
    CHECK(t.slice(2, 0, 2).view({2, 3, 2}).slow_at(5) == 9);
    CHECK_THROWS_AS(p.view({24}), Error);
    CHECK(p.reshape({24}).slow_at(7) == 5);
    CHECK(t.view({6, -1}).size(1) == 4);
    CHECK(t.transpose(0, 2).unsqueeze(0).squeeze(0).slow_at(1) == 12);
    CHECK(t.slice(1, 1, 2).expand({2, 3, 4}).slow_at(4) == 4);
    // a strided view that can be split and merged without a copy
    CHECK(t.slice(0, 1, 2).view({3, 2, 2}).slow_at(11) == 23);
    CHECK(t.permute({1, 0, 2}).view({3, 2, 2, 2}).slow_at(4) == 12);
  }

  TEST_CASE("conversion rounds to nearest even and keeps NaN") {
    const Tensor t =
        Tensor::from<float>({1.0f, 1.00390625f, 1.01171875f, NAN, INFINITY, -0.0f}, {6});
    const Tensor b = t.to(DType::kBF16);
    CHECK(b.slow_at(1) == 1.0);
    CHECK(b.slow_at(2) == 1.015625);
    CHECK(std::isnan(b.slow_at(3)));
    CHECK(std::isinf(b.slow_at(4)));
    CHECK(t.to(DType::kF16).slow_at(1) == 1.00390625);
  }

  TEST_CASE("sizes beyond 64 bits are errors where tensors get their shapes") {
    const Index huge = Index{1} << 62;
    const char* const beyond = "[4611686018427387904, 8] has more elements than 64 bits count";
    const Tensor t = Tensor::zeros({6}, DType::kF32);
    CHECK(says(message([&] { Tensor::empty({huge, 8}, DType::kF32); }), beyond));
    CHECK(says(message([&] { Tensor::zeros({1, 8}, DType::kF32).expand({huge, 8}); }), beyond));
    CHECK(says(message([&] { t.view({huge, 8}); }), beyond));
    CHECK(says(message([&] { t.view({huge, 8, -1}); }), "more elements than"));
    CHECK(says(message([&] { Tensor::empty({huge}, DType::kF64); }), "beyond 64 bits"));
    CHECK(says(message([&] { Tensor::empty({-1}, DType::kF32); }), "cannot have shape [-1]"));
    CHECK(Tensor::empty({huge, 0}, DType::kF32).numel() == 0);
  }

  TEST_CASE("a shape counts no further than 64 bits and has a last axis or says so") {
    const Index huge = Index{1} << 62;
    CHECK(says(message([&] { Shape({huge, 8}).numel(); }), "more elements than 64 bits count"));
    CHECK(says(message([&] { Shape({2, huge, 8}).contiguous_strides(); }), "64 bits"));
    CHECK(Shape({huge, 8}).contiguous_strides() == Shape{8, 1});
    CHECK(says(message([] { Shape().back(); }), "no last one"));
    CHECK(Shape({3, 5}).back() == 5);
  }

  TEST_CASE("a view has extents of 0 or more, one of them open at most") {
    const Tensor t = Tensor::zeros({6}, DType::kF32);
    CHECK(says(message([&] { t.view({-1, -1}); }), "one may be -1"));
    CHECK(says(message([&] { t.view({-2, -3}); }), "extents are 0 or more"));
    CHECK(says(message([&] { t.view({-6, -1}); }), "extents are 0 or more"));
    CHECK(says(message([&] { t.view({4, -1}); }), "cannot be viewed as [4, -1]"));
    CHECK(says(message([&] { t.reshape({-1, -1}); }), "one may be -1"));
    const Tensor none = Tensor::zeros({0, 3}, DType::kF32);
    CHECK(says(message([&] { none.view({0, -1}); }), "leaves -1 open"));
    CHECK(none.view({-1, 3}).shape() == Shape{0, 3});
    CHECK(none.reshape({3, 0}).shape() == Shape{3, 0});
  }

  TEST_CASE("memory beyond the machine's is an error before it is asked for") {
    CHECK(says(message([&] { Tensor::empty({Index{1} << 59}, DType::kF32); }),
               "and this machine has"));
  }

  TEST_CASE("in-place changes bump the version that views share") {
    Tensor t = Tensor::zeros({4}, DType::kF32);
    const auto before = t.version();
    t.slice(0, 0, 2).fill_(1);
    CHECK(t.version() > before);
    t.add_(Tensor::full({4}, DType::kBF16, 2.0), 0.5);
    CHECK(t.to_vector<double>() == std::vector<double>{2, 2, 1, 1});
  }

  TEST_CASE("poison and guard see uninitialised reads and writes out of bounds") {
    set_allocator_mode({.poison = true, .guard = true});
    {
      const Tensor t = Tensor::empty({3}, DType::kF32);
      CHECK(std::isnan(t.slow_at(0)));
      CHECK(Tensor::empty({1}, DType::kI64).slow_at(0) == -1);
      Tensor u = Tensor::zeros({4}, DType::kF32);
      u.data<float>()[-1] = 1.0f;
    }
    set_allocator_mode({});
    CHECK(take_guard_violations().size() == 1);
    CHECK(take_guard_violations().empty());
  }

  TEST_CASE("more of an axis than a slice has, where nothing else lies there") {
    const std::vector<Index> values = {0, 1, 2, 3, 4, 5, 6, 7};
    const Tensor buffer = Tensor::from(values, {2, 4});
    const Tensor front = buffer.slice(1, 0, 2), back = buffer.slice(1, 2, 3);
    CHECK(front.extended(1, 4).to_vector<Index>() == values);
    CHECK(back.extended(1, 2).to_vector<Index>() == std::vector<Index>{2, 3, 6, 7});
    CHECK(!front.extended(1, 5).defined());
    CHECK(!back.extended(1, 3).defined());
    CHECK_THROWS_AS(front.extended(1, 1), Error);
    CHECK_THROWS_AS(front.extended(0, 3), Error);
  }
}
