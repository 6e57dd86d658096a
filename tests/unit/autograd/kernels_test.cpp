// The table of kernels: which one runs, what it is given, what it keeps for its backward pass.
#include <doctest/doctest.h>

#include "autograd/call.h"
#include "autograd/functional.h"
#include "autograd/tape.h"
#include "core/base/registration.h"
#include "core/op/op.h"
#include "core/op/report.h"
#include "tests/support/errors.h"

using namespace ls;
using ag::Var;
using test::message;
using test::says;

namespace {

/// y = factor x^2 z, z one where absent; `seen` tells tests what ran on what.
struct Squares {
  template <class T>
  struct In {
    T x, z;
  };
  template <class T>
  struct Out {
    T y;
  };
  struct Attrs {
    double factor = 1;
    void fields(auto&& f) const { f("factor", factor, "what the square is multiplied by"); }
  };
};
using In = Squares::In<TensorView>;
using Out = Squares::Out<TensorView>;

struct Seen {
  Shape strides;
  std::size_t kept = 0, kept_back = 0;
  int squared = 0;  ///< how often x was squared
} seen;

template <class Real>
void square(const In& in, Out& out, const Squares::Attrs& a) {
  seen.strides = in.x.strides();
  ++seen.squared;
  const Real* const x = in.x.data<Real>();
  for (Index i = 0; i < in.x.numel(); ++i) {
    out.y.data<Real>()[i] =
        Real(a.factor) * x[i] * x[i] * (in.z.defined() ? in.z.data<Real>()[i] : Real(1));
  }
}
template <class Real>
void slope(const In& in, const Out&, const Out& dout, In& din, const Squares::Attrs& a) {
  for (Index i = 0; i < din.x.numel(); ++i) {
    din.x.data<Real>()[i] = Real(2 * a.factor) * in.x.data<Real>()[i] * dout.y.data<Real>()[i] *
                            (in.z.defined() ? in.z.data<Real>()[i] : Real(1));
  }
}
template <class Real>
struct Reference {
  static void forward(const In& in, Out& out, const Squares::Attrs& a) { square<Real>(in, out, a); }
  static void backward(const In& in, const Out& out, const Out& dout, In& din,
                       const Squares::Attrs& a) {
    slope<Real>(in, out, dout, din, a);
  }
};

/// Keeps 2 factor x.
void square_and_keep(const In& in, Out& out, std::span<TensorView> kept, const Squares::Attrs& a) {
  seen.kept = kept.size();
  square<float>(in, out, a);
  for (Index i = 0; !kept.empty() && i < in.x.numel(); ++i) {
    kept[0].data<float>()[i] = float(2 * a.factor) * in.x.data<float>()[i];
  }
}
void slope_from_kept(const In&, const Out&, const Out& dout, In& din,
                     std::span<const TensorView> kept, const Squares::Attrs&) {
  seen.kept_back = kept.size();
  for (Index i = 0; i < din.x.numel(); ++i) {
    din.x.data<float>()[i] = kept[0].data<float>()[i] * dout.y.data<float>()[i];
  }
}

bool is_long(const Squares::In<ShapeOf>& in, const Squares::Attrs&) {
  return in.x.numel() >= 100;
}
bool is_new(const Squares::In<ShapeOf>&, const Squares::Attrs&, int generation) {
  return generation >= 90;
}

LS_OP(Squares, "test.squares", "squares, for the table of kernels")
    .in("x[...,D] z[...,D]?")
    .out("y[...,D]")
    .saves("x z")
    .no_grad("z")
    .reference<Reference>()
    .cost(2, 2);
template <class T>
auto plain() {
  return std::pair(&square<T>, &slope<T>);
}
LS_KERNEL(Squares).named("plain").types<float, double>([]<class T>() { return plain<T>(); });
LS_KERNEL(Squares).named("with z").given("z").types<float>([]<class T>() { return plain<T>(); });
LS_KERNEL(Squares)
    .named("long")
    .absent("z")
    .when(&is_long)
    .keeps([](const Squares::In<ShapeOf>& in, const Squares::Attrs&) {
      return std::vector{ShapeOf(in.x.shape(), DType::kF32)};
    })
    .types<float>([]<class T>() { return std::pair(&square_and_keep, &slope_from_kept); });
LS_KERNEL(Squares)
    .named("new")
    .on(DeviceType::kCuda)
    .when(&is_new)
    .aligned("x", 16)
    .types<float>([]<class T>() { return plain<T>(); });

Tensor ones(const Shape& s, DType t = DType::kF32) {
  return Tensor::full(s, t, 1);
}
/// Name of the kernel that runs.
std::string ran(const Squares::In<Tensor>& in) {
  const OpReports reports;
  call_op<Squares>(in);
  return reports.kernels().at("test.squares");
}
std::string chosen(DeviceType device, int generation, DType t, const Squares::In<Tensor>& in) {
  const std::vector<Tensor> tensors = ls::detail::spread_members<Tensor>(in);
  const Squares::Attrs attrs;
  return choose_kernel(op_info<Squares>(), device, generation, t, shapes_of(tensors), &attrs,
                       Launch::Pass::kForward)
      .name;
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("kernels: the first that fits runs, and the op reports which") {
    CHECK(ran({.x = ones({2, 3})}) == "plain");
    CHECK(ran({.x = ones({2, 3}), .z = ones({2, 3})}) == "with z");
    CHECK(ran({.x = ones({2, 60})}) == "long");
    CHECK(ran({.x = ones({2, 60}), .z = ones({2, 60})}) == "with z");
    CHECK(ran({.x = ones({2, 60}, DType::kF64)}) == "plain");
    // Half types run through f32.
    CHECK(ran({.x = ones({2, 60}, DType::kBF16)}) == "long");
    const UseReference reference;
    CHECK(ran({.x = ones({2, 60})}) == "reference");
  }

  TEST_CASE("kernels: another device has its own or none, and its generation decides") {
    const Squares::In<Tensor> in{.x = ones({2, 3}), .z = {}};
    CHECK(chosen(DeviceType::kCuda, 90, DType::kF32, in) == "new");
    for (const auto& [generation, t] :
         {std::pair(80, DType::kF32), std::pair(90, DType::kBF16), std::pair(90, DType::kF64)}) {
      const std::string said = message(
          [&, generation = generation, t = t] { chosen(DeviceType::kCuda, generation, t, in); });
      CAPTURE(said);
      CHECK(says(said, "test.squares: no cuda forward kernel for "));
      CHECK(says(said, "long (cpu f32)"));
      CHECK(says(said, "plain (cpu f64)"));
      CHECK(says(said, "new (cuda f32)"));
    }
    // Not even under UseReference, which is the host's.
    const UseReference reference;
    CHECK(chosen(DeviceType::kCuda, 90, DType::kF32, in) == "new");
  }

  TEST_CASE("kernels: an operand that one does not take as it lies is copied first") {
    const Tensor wide = ones({2, 6});
    call_op<Squares>({.x = wide.slice(1, 0, 3)});
    CHECK(seen.strides == Shape{3, 1});
    call_op<Squares>({.x = ones({3, 2}).transpose(0, 1)});
    CHECK(seen.strides == Shape{3, 1});
  }

  TEST_CASE("kernels: what one keeps is made where a backward pass will follow, and only there") {
    seen = {};
    call_op<Squares>({.x = ones({2, 60})}, {.factor = 3});
    CHECK(seen.kept == 0);
    ag::Tape tape;
    const Var x = Var::leaf(Tensor::full({2, 60}, DType::kF32, 0.5));
    const Var y = ag::call<Squares>({.x = x}, {.factor = 3}).y;
    CHECK(seen.kept == 1);
    tape.backward(y, ones({2, 60}));
    CHECK(seen.kept_back == 1);
    CHECK(x.grad().slow_at(7) == 3);
    // A call that nothing records.
    seen = {};
    ag::call<Squares>({.x = x.detach()}, {.factor = 3});
    CHECK(seen.kept == 0);
  }

  TEST_CASE("kernels: without what it kept, another runs the backward pass") {
    const Tensor x = Tensor::full({2, 60}, DType::kF32, 0.5);
    const std::vector<Tensor> in = {x, Tensor()}, out(1), dout = {ones({2, 60})};
    const Squares::Attrs attrs{3};
    seen = {};
    const Tensor dx = run_backward(op_info<Squares>(), in, out, dout, {true, false}, shapes_of(in),
                                   DType::kF32, &attrs)[0];
    CHECK(seen.kept_back == 0);
    CHECK(dx.slow_at(7) == 3);
  }

  TEST_CASE("kernels: what they take fits the contract") {
    const auto fault = [](auto&& add) {
      std::vector<std::string>& faults = registration_faults();
      const std::size_t before = faults.size();
      KernelBuilder<Squares> kernel;
      kernel.on(DeviceType::kStandIn);
      add(kernel);
      kernel.template types<float>([]<class T>() { return plain<T>(); });
      if (faults.size() == before) {
        return std::string("no fault");
      }
      std::string fault = faults.back();
      faults.resize(before);
      return fault;
    };
    CHECK(says(fault([](auto& k) { k.reads("x q", lies::rows); }), "has no argument 'q'"));
    CHECK(says(fault([](auto& k) { k.strided_grad("q"); }), "has no argument 'q'"));
    CHECK(says(fault([](auto& k) { k.strided_grad("z"); }), "names 'z', which has no gradient"));
    CHECK(says(fault([](auto& k) { k.given("x"); }), "names 'x', which is always given"));
  }

  TEST_CASE("kernels: a call is prepared without a look at its elements, and launched once") {
    seen = {};
    const std::vector<Tensor> in = {ones({2, 3}), Tensor()};
    Launch l = prepare_forward(op_info<Squares>(), in, std::make_shared<const Squares::Attrs>());
    CHECK(l.kernel->name == "plain");
    CHECK(l.out[0].shape() == Shape{2, 3});
    CHECK(seen.squared == 0);
    launch(l);
    CHECK(seen.squared == 1);
    CHECK(l.out[0].slow_at(5) == 1);
  }

  TEST_CASE("kernels: an empty tensor is there, as a view too") {
    const TensorView view = Tensor::empty({0, 3}, DType::kF32);
    CHECK(view.defined());
    CHECK_FALSE(TensorView(Tensor()).defined());
  }
}
