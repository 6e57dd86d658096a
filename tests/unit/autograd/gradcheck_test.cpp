#include "autograd/gradcheck.h"

#include <doctest/doctest.h>

#include <cmath>

#include "autograd/functional.h"
#include "autograd/tape.h"
#include "core/ops/mul/mul.h"

using namespace ls;
using ag::Var;

namespace {

/// y = x^2 times `factor(i)` in the gradient.
class SquareNode final : public ag::NodeFn {
 public:
  SquareNode(const Tensor& x, double (*factor)(Index)) : x_(x), factor_(factor) {}
  std::string name() const override { return "square"; }
  void backward(std::span<const Tensor> dout, const std::vector<bool>&,
                std::span<Tensor> din) override {
    din[0] = Tensor::empty(x_.shape(), DType::kF64);
    for (Index i = 0; i < x_.numel(); ++i) {
      din[0].data<double>()[i] = 2 * x_.slow_at(i) * dout[0].slow_at(i) * factor_(i);
    }
  }

 private:
  Tensor x_;
  double (*factor_)(Index);
};

Var square(const Var& x, double (*factor)(Index), double (*value)(double)) {
  Tensor y = x.value().clone();
  for (Index i = 0; i < y.numel(); ++i) {
    y.data<double>()[i] = value(y.data<double>()[i]);
  }
  const std::vector<Var> in = {x};
  return ag::Tape::records(in)
             ? ag::Tape::current()->record(std::make_unique<SquareNode>(x.value(), factor), in,
                                           std::span<const Tensor>(&y, 1))[0]
             : Var(y);
}
double squared(double x) {
  return x * x;
}
double one(Index) {
  return 1;
}

ag::GradcheckReport check(Index n, double (*factor)(Index), double (*value)(double) = squared) {
  Tensor x = Tensor::empty({n}, DType::kF64);
  for (Index i = 0; i < n; ++i) {
    x.data<double>()[i] = 0.5 + 0.1 * static_cast<double>(i % 13);
  }
  const Var other = Var::leaf(x.clone()), leaf = Var::leaf(x);
  return ag::gradcheck(
      [&] {
        return std::vector<Var>{ag::scale(other, 2), square(leaf, factor, value)};
      },
      {{"other", other}, {"x", leaf}});
}
bool says(const ag::GradcheckReport& r, const char* part) {
  return r.worst.find(part) != std::string::npos;
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("gradcheck: right gradients pass, whole and along directions") {
    for (const Index n : {1, 3, 700}) {
      const ag::GradcheckReport r = check(n, one);
      CHECK_MESSAGE(r.passed, r.worst);
    }
  }

  TEST_CASE("gradcheck: a small factor is found, with its input and element") {
    const auto wrong = [](Index i) { return i == 2 ? 1 + 1e-5 : 1.0; };
    const ag::GradcheckReport few = check(5, wrong);
    CHECK_FALSE(few.passed);
    CHECK_MESSAGE(says(few, "d result 1[2] / d x[2] is 1.400014, by differences 1.4"), few.worst);
    const ag::GradcheckReport many = check(700, [](Index) { return 1 + 1e-5; });
    CHECK_FALSE(many.passed);
    CHECK_MESSAGE(says(many, "of x is"), many.worst);
  }

  TEST_CASE("gradcheck: no gradient, NaN, Inf and nothing at all fail") {
    CHECK_FALSE(check(5, [](Index) { return 0.0; }).passed);
    CHECK_FALSE(check(5, [](Index i) { return i == 4 ? NAN : 1.0; }).passed);
    CHECK_FALSE(check(700, [](Index i) { return i == 4 ? NAN : 1.0; }).passed);
    CHECK_FALSE(check(5, [](Index i) { return i == 4 ? INFINITY : 1.0; }).passed);
    const ag::GradcheckReport nan = check(5, one, [](double) -> double { return NAN; });
    CHECK_FALSE(nan.passed);
    CHECK(says(nan, "result 1[0] is nan"));
    CHECK_FALSE(check(0, one).passed);
    const Var x = Var::leaf(Tensor::from(std::vector<double>{1, 2}));
    CHECK_FALSE(
        ag::gradcheck([&] { return std::vector<Var>{ag::scale(x.detach(), 2)}; }, {{"x", x}})
            .passed);
  }

  TEST_CASE("gradcheck: an op, and values left as they were") {
    const Tensor a = Tensor::from(std::vector<double>{1, -2, 3}), b = a.clone().mul_(0.7);
    const std::vector<Tensor> in = {a, b};
    const auto attrs = std::make_shared<const ops::Mul::Attrs>();
    const ag::GradcheckReport r = ag::gradcheck(op_info<ops::Mul>(), in, attrs);
    CHECK_MESSAGE(r.passed, r.worst);
    CHECK(a.to_vector<double>() == std::vector<double>{1, -2, 3});
    CHECK_FALSE(ag::gradcheck(op_info<ops::Mul>(), in, attrs, {"y"}).passed);
    const std::vector<Tensor> narrow = {a.to(DType::kF32), b.to(DType::kF32)};
    CHECK_THROWS_AS(ag::gradcheck(op_info<ops::Mul>(), narrow, attrs), Error);
  }
}
