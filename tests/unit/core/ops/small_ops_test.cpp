// What the op cases cannot say: chosen places, empty tensors, refused calls.
#include <doctest/doctest.h>

#include <cmath>

#include "core/op/run.h"
#include "core/ops/cross_entropy/cross_entropy.h"
#include "core/ops/gather_rows/gather_rows.h"
#include "core/ops/group_norm/group_norm.h"
#include "core/ops/layer_norm/layer_norm.h"
#include "core/ops/linear_cross_entropy/linear_cross_entropy.h"
#include "core/ops/matmul/matmul.h"
#include "core/ops/reduce/reduce.h"
#include "core/ops/rope/rope.h"
#include "core/ops/scatter_add_rows/scatter_add_rows.h"
#include "core/ops/softmax/softmax.h"
#include "core/ops/top_k/top_k.h"
#include "tests/support/errors.h"

using namespace ls;
using test::message;
using test::says;

namespace {

Tensor numbers(const std::vector<double>& values, const Shape& shape) {
  return Tensor::from(values, shape);
}
std::vector<double> list(const Tensor& t) {
  return t.to_vector<double>();
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("maxima: first of equal ones, NaN above all") {
    const Tensor x = numbers({1, 5, 5, NAN, 7, NAN}, {2, 3});
    const auto rows =
        call_op<ops::Reduce>({.x = x}, {.kind = ops::Reduce::Kind::kMax, .axes = {1}});
    CHECK(list(rows.index) == std::vector<double>{1, 0});
    CHECK(rows.y.slow_at(0) == 5);
    CHECK(std::isnan(rows.y.slow_at(1)));
    const auto best = call_op<ops::TopK>({.x = x}, {.k = 2});
    CHECK(list(best.index) == std::vector<double>{1, 2, 0, 2});
  }

  TEST_CASE("reduce: shapes, places among axes that are apart, axes that are wrong") {
    const Tensor x = numbers({0, 1, 2, 3, 4, 9, 6, 7, 8, 5, 10, 11}, {2, 3, 2});
    const auto r =
        call_op<ops::Reduce>({.x = x}, {.kind = ops::Reduce::Kind::kMax, .axes = {0, 2}});
    CHECK(r.y.shape() == Shape{3});
    CHECK(list(r.y) == std::vector<double>{7, 8, 11});
    CHECK(list(r.index) == std::vector<double>{3, 2, 3});
    CHECK(call_op<ops::Reduce>({.x = x}, {.axes = {1}, .keep = true}).y.shape() == Shape{2, 1, 2});
    CHECK(call_op<ops::Reduce>({.x = x}, {}).y.shape() == Shape{});
    CHECK(call_op<ops::Reduce>({.x = Tensor::zeros({0, 3}, DType::kF32)}, {.axes = {0}})
              .y.slow_at(2) == 0);
    CHECK(says(message([&] { call_op<ops::Reduce>({.x = x}, {.axes = {3}}); }),
               "axis 3 of a tensor [2, 3, 2]"));
    CHECK(says(message([&] { call_op<ops::Reduce>({.x = x}, {.axes = {1, -2}}); }), "named twice"));
    CHECK(says(message([&] {
                 call_op<ops::Reduce>({.x = Tensor::zeros({0, 3}, DType::kF32)},
                                      {.kind = ops::Reduce::Kind::kMax});
               }),
               "maximum over no elements"));
  }

  TEST_CASE("empty tensors pass through") {
    CHECK(call_op<ops::LayerNorm>({.x = Tensor::zeros({0, 4}, DType::kF32)}).y.shape() ==
          Shape{0, 4});
    CHECK(call_op<ops::Softmax>({.x = Tensor::zeros({0, 4}, DType::kBF16)}).lse.shape() ==
          Shape{0});
    const auto f = [](const Shape& a, const Shape& b) {
      return call_op<ops::Matmul>(
                 {.a = Tensor::zeros(a, DType::kF32), .b = Tensor::zeros(b, DType::kF32)})
          .c;
    };
    CHECK(f({0, 3, 2}, {0, 2, 4}).shape() == Shape{0, 3, 4});
    CHECK(f({2, 0, 2}, {2, 2, 4}).shape() == Shape{2, 0, 4});
    CHECK(list(f({1, 2, 0}, {1, 0, 2})) == std::vector<double>(4, 0.0));
    const Tensor none = Tensor::zeros({0}, DType::kI64);
    CHECK(call_op<ops::GatherRows>({.x = Tensor::zeros({3, 2}, DType::kF32), .index = none})
              .y.shape() == Shape{0, 2});
    const auto y = call_op<ops::ScatterAddRows>(
                       {.x = Tensor::zeros({0, 2}, DType::kF32), .index = none}, {.rows = 2})
                       .y;
    CHECK(list(y) == std::vector<double>(4, 0.0));
  }

  TEST_CASE("linear_cross_entropy: few tokens") {
    for (const Index n : {0, 1, 63, 64}) {
      const Tensor x = Tensor::full({n, 2}, DType::kBF16, 1),
                   w = Tensor::zeros({3, 2}, DType::kBF16);
      const auto out = call_op<ops::LinearCrossEntropy>(
          {.x = x, .weight = w, .targets = Tensor::zeros({n}, DType::kI64)}, {});
      CHECK(out.loss.item() == doctest::Approx(static_cast<double>(n) * std::log(3.0)));
    }
  }

  TEST_CASE("rope: factors on cosine and sine of the published rules") {
    const auto factor = [](const char* type, double mscale, double all_dim, double by = 40) {
      return ops::rope_attention_factor({.type = parse_enum<ops::RopeType>(type),
                                         .factor = by,
                                         .original_max_position = 4096,
                                         .mscale = mscale,
                                         .mscale_all_dim = all_dim});
    };
    const double m = std::log(40.0) / 10;
    CHECK(factor("yarn", 0, 0) == doctest::Approx(1 + m).epsilon(1e-14));
    CHECK(factor("yarn", 0.7, 0) == doctest::Approx(1 + m).epsilon(1e-14));  // both or neither
    CHECK(factor("yarn", 0.707, 1.0) == doctest::Approx((1 + 0.707 * m) / (1 + m)).epsilon(1e-14));
    CHECK(factor("yarn", 1, 1) == 1);
    CHECK(factor("yarn", 0.707, 1, 0.5) == 1);
    CHECK(factor("longrope", 0, 0) ==
          doctest::Approx(std::sqrt(1 + std::log(40.0) / std::log(4096.0))).epsilon(1e-14));
    CHECK(factor("linear", 0, 0) == 1);
  }

  TEST_CASE("refused calls say why") {
    const Tensor x = Tensor::zeros({3, 4}, DType::kF32);
    CHECK(says(message([&] { call_op<ops::GroupNorm>({.x = x}, {.num_groups = 3}); }),
               "4 channels do not divide into 3 groups"));
    CHECK(says(message([&] { call_op<ops::Matmul>({.a = x, .b = x}); }), "share 4 and 3 elements"));
    CHECK(says(message([&] { call_op<ops::TopK>({.x = x}, {.k = 5}); }), "k = 5 of rows of 4"));
    const Tensor index = Tensor::from(std::vector<std::int64_t>{0, 3, -2});
    CHECK(says(message([&] { call_op<ops::GatherRows>({.x = x, .index = index}); }),
               "index must lie in -1 .. 2: the value 3 at position 1"));
    CHECK(
        says(message([&] { call_op<ops::ScatterAddRows>({.x = x, .index = index}, {.rows = 4}); }),
             "index must lie in -1 .. 3: the value -2 at position 2"));
    CHECK(says(message([&] { call_op<ops::CrossEntropy>({.logits = x, .targets = index}); }),
               "targets must lie in 0 .. 3, or be ignore_index -100: the value -2 at position 2"));
  }
}
