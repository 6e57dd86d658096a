#include "autograd/tape.h"

#include <doctest/doctest.h>

#include <functional>
#include <thread>

#include "autograd/call.h"
#include "autograd/functional.h"
#include "autograd/recompute.h"
#include "core/base/registration.h"
#include "core/op/op.h"
#include "core/ops/activation/activation.h"
#include "core/ops/add_rms_norm/add_rms_norm.h"
#include "core/ops/mul/mul.h"
#include "core/ops/rms_norm/rms_norm.h"
#include "core/ops/top_k/top_k.h"
#include "tests/support/errors.h"

using namespace ls;
using ag::Var;
using test::message;
using test::says;

namespace {
Tensor vec(std::vector<double> v) {
  return Tensor::from(v);
}
std::vector<double> list(const Tensor& t) {
  return t.to_vector<double>();
}
Var mul(const Var& a, const Var& b) {
  return ag::call<ops::Mul>({.a = a, .b = b}).y;
}
Var silu(const Var& x) {
  return ag::call<ops::Activation>({.x = x}, {ops::Act::kSilu}).y;
}

struct Misspelt {
  template <class T>
  struct In {
    T x;
  };
  template <class T>
  struct Out {
    T y;
  };
  struct Attrs {};
};

struct Unfit {
  template <class T>
  struct In {
    T x, w;
  };
  template <class T>
  struct Out {
    T y;
  };
  struct Attrs {};
};
/// `fields` forgets an attribute.
struct Forgetful : Misspelt {
  struct Attrs {
    double eps = 1;
    bool log = false;
    void fields(auto&& f) const { f("eps", eps, "a number"); }
  };
};

/// The fault that a registration leaves behind; it is taken away again.
template <class Fn>
std::string registration_fault(Fn&& fn) {
  std::vector<std::string>& faults = registration_faults();
  const std::size_t before = faults.size();
  fn();
  if (faults.size() == before) {
    return "no fault";
  }
  std::string fault = faults.back();
  faults.resize(before);
  return fault;
}

struct Seen {
  Tensor place, gradient;
};
/// The identity; writes its gradient to the place that it is given.
class ProbeNode final : public ag::NodeFn {
 public:
  explicit ProbeNode(Seen& seen) : seen_(seen) {}
  std::string name() const override { return "probe"; }
  bool takes_place(std::size_t) const override { return true; }
  void backward(std::span<const Tensor> dout, const std::vector<bool>&,
                std::span<Tensor> din) override {
    seen_ = {din[0], dout[0]};
    if (!din[0].defined()) {
      din[0] = dout[0];
    } else if (din[0].adds()) {
      din[0].add_(dout[0]);
    } else {
      din[0].copy_(dout[0]);
    }
  }

 private:
  Seen& seen_;
};
Var probe(const Var& x, Seen& seen) {
  return ag::Tape::current()->record(std::make_unique<ProbeNode>(seen), std::span(&x, 1),
                                     std::span(&x.value(), 1))[0];
}
std::vector<Var> squares(const std::vector<Var>& in) {
  return {mul(in[0], in[0])};
}
}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("gradients accumulate over uses and passes") {
    Var x = Var::leaf(vec({1, 2}));
    for (int pass = 1; pass <= 2; ++pass) {
      ag::Tape tape;
      const Var y = ag::add(ag::scale(x, 3), x);
      tape.backward(ag::add(y, x), vec({1, 10}));
      CHECK(x.grad().to_vector<double>() == std::vector<double>{5.0 * pass, 50.0 * pass});
    }
  }

  TEST_CASE("split, slice and concat return gradients to their places") {
    Var x = Var::leaf(Tensor::from<double>({1, 2, 3, 4, 5, 6}, {2, 3}));
    ag::Tape tape;
    const auto parts = ag::split(x, 1, {1, 2});
    const Var y = ag::concat({parts[1], ag::slice(x, 1, 0, 1)}, 1);
    tape.backward(y, Tensor::from<double>({1, 2, 3, 4, 5, 6}, {2, 3}));
    CHECK(x.grad().to_vector<double>() == std::vector<double>{3, 1, 2, 6, 4, 5});
  }

  TEST_CASE("gradients of the parts of a split are written in their places") {
    const Tensor start = Tensor::from<double>({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, {2, 6});
    for (const int i : {0, 1, 2, 3}) {
      const bool reshaped = i % 2 == 1, last = i / 2 == 1;
      CAPTURE(reshaped);
      CAPTURE(last);
      Var x = Var::leaf(start);
      ag::Tape tape;
      const Tensor seed = last ? Tensor::from<float>({11, 12}, {2, 1}) : Tensor();
      Seen whole, first, second;
      const auto parts = ag::split(probe(x, whole), 1, {2, 3, 1});
      const auto part = [&](std::size_t i) {
        return reshaped ? ag::reshape(ag::reshape(parts[i], {1, 2, parts[i].size(1), 1}),
                                      {2, parts[i].size(1), 1})
                        : parts[i];
      };
      const Var a = probe(part(0), first), b = probe(part(1), second);
      const std::vector<Var> outputs = {a, b, parts[2]};
      const Tensor da = Tensor::from<double>({1, 2, 3, 4}, {2, 2}),
                   db = Tensor::from<double>({5, 6, 7, 8, 9, 10}, {2, 3});
      const std::vector<Tensor> seeds = {da.view(a.shape()), db.view(b.shape()), seed};
      tape.backward(outputs, seeds);
      const double top = last ? 11 : 0, bottom = last ? 12 : 0;
      CHECK(list(x.grad()) == std::vector<double>{1, 2, 5, 6, 7, top, 3, 4, 8, 9, 10, bottom});
      REQUIRE(first.place.defined());
      REQUIRE(second.place.defined());
      CHECK(first.place.shape() == a.shape());
      CHECK(first.place.shares_storage(whole.gradient));
      CHECK(second.place.shares_storage(whole.gradient));
      CHECK(list(first.place) == list(da));
      CHECK(list(second.place) == list(db));
    }
  }

  TEST_CASE("a place in a split changes no gradient, whoever uses the part") {
    const Tensor start =
        Tensor::from<double>({1, -2, 3, -4, 5, -6, 7, -8, 9, -10, 11, -12}, {3, 4});
    const Var other = Tensor::from<double>({2, 3, 5, 7, 11, 13}, {3, 2});
    using Parts = std::vector<Var>;
    const struct {
      std::string name;
      Var (*loss)(const Parts& parts, const Var& other);
    } uses[] = {
        {"once", [](const Parts& p, const Var& o) { return mul(silu(p[0]), mul(silu(p[1]), o)); }},
        {"one of them never", [](const Parts& p, const Var&) { return silu(p[1]); }},
        {"twice", [](const Parts& p, const Var&) { return mul(silu(p[0]), silu(p[0])); }},
        {"twice in one call",
         [](const Parts& p, const Var& o) {
           const Var weight = Tensor::full({2}, DType::kF64, 3);
           return mul(ag::call<ops::RmsNorm>({.x = p[1], .weight = weight, .z = p[1]}).y, o);
         }},
        {"by one that writes there and others that do not",
         [](const Parts& p, const Var& o) {
           return ag::add(ag::add(mul(p[0], o), silu(p[0])), ag::add(p[0], silu(p[1])));
         }},
        {"by one that writes there last",
         [](const Parts& p, const Var& o) {
           const Var s = silu(p[0]);
           return ag::add(ag::add(s, mul(p[0], o)), ag::scale(p[1], 2));
         }},
        {"through two reshapes of a part",
         [](const Parts& p, const Var&) {
           return ag::reshape(ag::add(silu(ag::reshape(p[0], {6})),
                                      silu(ag::reshape(ag::reshape(p[0], {3, 1, 2}), {6}))),
                              {3, 2});
         }},
        {"through a reshape by rows, and the part itself",
         [](const Parts& p, const Var&) {
           return ag::add(ag::reshape(silu(ag::reshape(p[0], {3, 1, 2, 1})), {3, 2}), silu(p[0]));
         }},
        {"through a transposition",
         [](const Parts& p, const Var&) {
           return ag::transpose(silu(ag::transpose(p[1], 0, 1)), 0, 1);
         }},
        {"in another type",
         [](const Parts& p, const Var&) {
           return ag::cast(silu(ag::cast(p[0], DType::kF32)), DType::kF64);
         }},
        {"in a recomputed block",
         [](const Parts& p, const Var&) {
           const auto block = [](const Parts& in) {
             const auto again = ag::split(silu(in[0]), 0, {1, 2});
             return Parts{ag::concat({silu(again[1]), silu(again[0])}, 0)};
           };
           return mul(ag::recompute(block, {p[0]})[0], silu(p[1]));
         }},
        {"as terms with one gradient",
         [](const Parts& p, const Var&) {
           return ag::call<ops::AddRmsNorm>(
                      {.x = p[0], .residual = p[1], .weight = Tensor::full({2}, DType::kF64, 3)})
               .y;
         }},
        {"before two terms with one gradient",
         [](const Parts& p, const Var&) {
           const auto out =
               ag::call<ops::AddRmsNorm>({.x = silu(p[0]),
                                          .residual = silu(p[1]),
                                          .weight = Tensor::full({2}, DType::kF64, 3)});
           return mul(out.y, out.sum);
         }},
        {"split again",
         [](const Parts& p, const Var&) {
           const auto halves = ag::split(p[0], 1, {1, 1});
           return ag::concat({silu(halves[1]), silu(silu(halves[0]))}, 1);
         }},
    };
    const auto gradient = [&](const auto& use, bool places) {
      Var x = Var::leaf(start);
      ag::Tape tape;
      Parts parts = ag::split(ag::scale(x, 0.5), 1, {2, 2});
      for (Var& p : parts) {  // a node in between that offers no place
        p = places ? p : ag::scale(p, 1);
      }
      const Var y = use.loss(parts, other);
      Tensor seed = Tensor::empty(y.shape(), y.dtype());
      for (Index i = 0; i < seed.numel(); ++i) {
        seed.data<double>()[i] = static_cast<double>(i + 1);
      }
      tape.backward(y, seed);
      return list(x.grad());
    };
    for (const auto& use : uses) {
      CAPTURE(use.name);
      CHECK(gradient(use, true) == gradient(use, false));
    }
  }

  TEST_CASE("a gradient is written to a place only where it fits") {
    const OpInfo& op = op_info<ops::Activation>();
    const ops::Activation::Attrs attrs{ops::Act::kSilu};
    const Tensor x = Tensor::from<float>({1, 2, 3, 4, 5, 6}, {2, 3}), dy = x.clone();
    const std::vector<ShapeOf> shapes = {ShapeOf(x)};
    const auto in_place = [&](const Tensor& place, DType t = DType::kF32) {
      const std::vector<Tensor> in = {x.to(t)}, out(1), dout = {dy.to(t)}, places = {place};
      const Tensor dx = run_backward(op, in, out, dout, {true}, shapes, t, &attrs, places)[0];
      CHECK(dx.dtype() == t);
      CHECK(dx.shape() == x.shape());
      return dx.shares_storage(place);
    };
    const auto make = [](const Shape& s, DType t = DType::kF32) { return Tensor::zeros(s, t); };
    CHECK(in_place(make({2, 3})));
    CHECK(in_place(make({2, 5}).slice(1, 1, 4)));
    CHECK(in_place(make({4, 3}).slice(0, 1, 3)));
    CHECK_FALSE(in_place(make({3, 2}).transpose(0, 1)));
    CHECK_FALSE(in_place(make({1, 3}).expand({2, 3})));
    CHECK_FALSE(in_place(make({2, 6}).view({2, 3, 2}).select(2, 0)));
    CHECK_FALSE(in_place(make({3, 2})));
    CHECK_FALSE(in_place(make({2, 3}, DType::kF64)));
    CHECK(in_place(make({2, 3}, DType::kF64), DType::kF64));
    // No kernel of its own: f16 runs in f32. References write where they want.
    CHECK_FALSE(in_place(make({2, 3}, DType::kF16), DType::kF16));
    const UseReference reference;
    CHECK_FALSE(in_place(make({2, 3})));
  }

  TEST_CASE("ops: a trait that names no argument is an error") {
    const auto declare = [](auto&& add) {
      OpBuilder<Misspelt> op("test.misspelt", "names that are none");
      op.in("x[...]").out("y[...]");
      add(op);
      return bool(op);
    };
    const auto refused = [&](auto&& add) {
      return says(registration_fault([&] { declare(add); }), "'z'");
    };
    CHECK(refused([](auto& op) { op.same_gradient("x", "z"); }));
    CHECK(refused([](auto& op) { op.saves("x z"); }));
    CHECK(refused([](auto& op) { op.no_grad("z"); }));
    CHECK(refused([](auto& op) { op.grad_acc("z"); }));
  }

  TEST_CASE("ops: traits that do not fit together are an error") {
    const auto fault = [](auto&& add) {
      return registration_fault([&] {
        OpBuilder<Unfit> op("test.unfit", "traits that contradict one another");
        op.in("x[...,D] w[D]").out("y[...,D]");
        add(op);
        return bool(op);
      });
    };
    CHECK(says(fault([](auto& op) { op.in("x[...] x[...]"); }), "two arguments are named 'x'"));
    CHECK(says(fault([](auto& op) { op.in("x[... w[D]"); }),
               "argument 'x[... w[D]' of the contract: expected axes between commas"));
    CHECK(says(fault([](auto& op) { op.in("x[...,,D] w[D]"); }), "argument 'x[...,,D]'"));
    CHECK(says(fault([](auto& op) { op.in("x[...,D-] w[D]"); }), "an axis is a sum of products"));
    CHECK(says(fault([](auto& op) { op.in("x[...]"); }),
               "the contract has 1 inputs and 1 outputs, its structs In and Out have 2 and 1"));
    CHECK(says(fault([](auto& op) { op.in("x[...] w[D] v[D]"); }), "has 3 inputs and 1 outputs"));
    CHECK(says(fault([](auto& op) { op.out("y[...] z[...]"); }), "has 2 inputs and 2 outputs"));
    CHECK(op_registry().find("test.unfit") == nullptr);
    CHECK(says(fault([](auto& op) { op.same_gradient("x", "w"); }),
               "x[...,D] and w[D] cannot have one gradient"));
    CHECK(says(fault([](auto& op) { op.grad_acc("w"); }), "names 'w', which has no gradient"));
    CHECK(says(registration_fault([] {
                 return bool(OpBuilder<Forgetful>("test.forgetful", "an attribute is not listed")
                                 .in("x[...]")
                                 .out("y[...]"));
               }),
               "`fields` of its Attrs does not list every member"));
  }

  TEST_CASE("permute, concat and take_rows keep within their axes and rows") {
    const Var x(Tensor::zeros({2, 3}, DType::kF32));
    CHECK(says(message([&] { ag::permute(x, {0, 50}); }), "axis 50"));
    CHECK(says(message([&] { ag::permute(x, {0, -3}); }), "axis -3"));
    CHECK(says(message([&] { ag::permute(x, {0, 1, 2}); }), "3 axes permute"));
    CHECK(says(message([&] { ag::permute(x, {1, 1}); }), "permuted twice"));
    CHECK(says(message([&] { ag::concat({x, x}, 40); }), "axis 40"));
    CHECK(says(message([&] { ag::concat({x, x}, -3); }), "axis -3"));
    const Var wide(Tensor::zeros({2, 4}, DType::kF32)), cube(Tensor::zeros({2, 3, 1}, DType::kF32)),
        other(Tensor::zeros({2, 3}, DType::kF64)), scalar(Tensor::scalar(1));
    CHECK(says(message([&] { ag::concat({x, wide}, 0); }), "f32[2, 3] and f32[2, 4]"));
    CHECK(says(message([&] { ag::concat({x, cube}, 0); }), "f32[2, 3] and f32[2, 3, 1]"));
    CHECK(says(message([&] { ag::concat({x, other}, 0); }), "f32[2, 3] and f64[2, 3]"));
    CHECK(says(message([&] { ag::concat({scalar, scalar}, 0); }), "axis 0"));
    CHECK(ag::concat({x, wide}, -1).shape() == Shape{2, 7});
    CHECK(says(message([&] { ag::take_rows(x, {2}); }), "row 2"));
    CHECK(says(message([&] { ag::take_rows(scalar, {0}); }), "without axes"));
    CHECK(says(message([&] { ag::split(x, 7, {3}); }), "axis 7"));
  }

  TEST_CASE("nothing is recorded without a tape or under NoGrad") {
    Var x = Var::leaf(vec({1}));
    CHECK_FALSE(ag::scale(x, 2).requires_grad());
    ag::Tape tape;
    const ag::NoGrad no_grad;
    CHECK_FALSE(ag::scale(x, 2).requires_grad());
    CHECK(tape.size() == 0);
  }

  TEST_CASE("a recomputed block gives the gradients of the plain one") {
    Var w = Var::leaf(vec({2, 3}));
    Var x = Var::leaf(vec({5, 7}));
    const auto block = [&](const std::vector<Var>& in) {
      return std::vector<Var>{ag::add(ag::scale(in[0], 4), ag::scale(w, 2))};
    };
    ag::Tape tape;
    const Var y = ag::scale(ag::recompute(block, {ag::scale(x, 1)})[0], 10);
    CHECK(tape.size() == 3);
    tape.backward(y, vec({1, 1}));
    CHECK(x.grad().to_vector<double>() == std::vector<double>{40, 40});
    CHECK(w.grad().to_vector<double>() == std::vector<double>{20, 20});
  }

  TEST_CASE("a saved tensor that was changed in place is an error, any other change is not") {
    Var x = Var::leaf(vec({2, 3})), w = Var::leaf(vec({5, 7}));
    const auto after = [&](const std::function<Var()>& forward,
                           const std::function<void()>& change) {
      x.clear_grad();
      ag::Tape tape;
      const Var y = forward();
      change();
      return message([&] { tape.backward(y, vec({1, 1})); });
    };
    const char* const refused = "was changed in place after it was saved";
    const auto product = [&] { return mul(x, w); };
    CHECK(after(product, [] {}) == "nothing thrown");
    const std::string text = after(product, [&] { w.mutable_value().mul_(2); });
    CHECK(says(text, refused));
    CHECK(says(text, "mul"));
    // Through a view, and by hand.
    CHECK(says(after(product, [&] { Tensor(w.value()).slice(0, 0, 1).fill_(1); }), refused));
    CHECK(says(after(product,
                     [&] {
                       w.mutable_value().data<double>()[0] = 1;
                       w.mutable_value().bump_version();
                     }),
               refused));
    CHECK(says(
        after([&] { return ag::recompute(squares, {x})[0]; }, [&] { x.mutable_value().mul_(2); }),
        refused));
    // Nothing of add is kept, and another tensor in its place leaves the saved one alone.
    CHECK(after([&] { return ag::add(x, w); }, [&] { w.mutable_value().mul_(2); }) ==
          "nothing thrown");
    CHECK(after(product, [&] { w.mutable_value() = vec({0, 0}); }) == "nothing thrown");
  }

  TEST_CASE("gradients add up in buffers of their own") {
    Var a = Var::leaf(vec({1, 2})), b = Var::leaf(vec({3, 4}));
    const Tensor seed = vec({1, 10});
    const auto pass = [&](const Var& y) { ag::Tape::current()->backward(y, seed); };
    {
      ag::Tape tape;
      pass(ag::add(a, b));
    }
    const Tensor first = a.grad();
    {
      ag::Tape tape;
      pass(ag::scale(a, 2));
    }
    CHECK(list(a.grad()) == std::vector<double>{3, 30});
    CHECK(list(b.grad()) == std::vector<double>{1, 10});
    CHECK(list(first) == std::vector<double>{1, 10});
    CHECK(list(seed) == std::vector<double>{1, 10});
    // A leaf on its own, several outputs, one without a seed, one that is a constant.
    a.clear_grad();
    ag::Tape tape;
    const std::vector<Var> outputs = {a, ag::scale(a, 3), ag::scale(a, 5), Var(seed)};
    const std::vector<Tensor> seeds = {seed, seed, Tensor(), seed};
    tape.backward(outputs, seeds);
    CHECK(list(a.grad()) == std::vector<double>{4, 40});
  }

  TEST_CASE("integer outputs and outputs that nothing was made from take no part") {
    Var x = Var::leaf(vec({1, 3, 2}));
    ag::Tape tape;
    const auto best = ag::call<ops::TopK>({.x = x}, {.k = 2});
    CHECK_FALSE(best.index.requires_grad());
    ag::scale(x, 100);  // never reached
    tape.backward(best.values, vec({1, 10}));
    CHECK(list(x.grad()) == std::vector<double>{0, 1, 10});
  }

  TEST_CASE("the tape refuses what it cannot differentiate") {
    Var x = Var::leaf(vec({1, 2}));
    ag::Tape outer;
    const Var y = ag::scale(x, 2);
    CHECK(says(message([&] { outer.backward(y); }), "needs a seed"));
    ag::Tape inner;
    CHECK(says(message([&] { ag::scale(y, 2); }), "recorded on another tape"));
    CHECK(says(message([&] { inner.backward(y, vec({1, 1})); }), "another tape"));
    CHECK(says(message([&] { outer.backward(y, vec({1, 1})); }), "innermost"));
  }

  TEST_CASE("the first gradient that is not finite is named with its op") {
    Var x = Var::leaf(vec({1000, 1}));
    ag::Tape tape;
    tape.set_check_finite(true);
    const Var y = ag::call<ops::Activation>({.x = ag::scale(x, 1)}, {ops::Act::kExp}).y;
    const std::string text = message([&] { tape.backward(ag::scale(y, 2), vec({1, 1})); });
    CHECK(says(text, "input 0 of activation"));
    const ag::CheckFinite check;
    CHECK(says(message([&] { ag::call<ops::Activation>({.x = x}, {ops::Act::kExp}); }),
               "op activation"));
  }

  TEST_CASE("recomputation: several outputs, absent gradients, constants, blocks in blocks") {
    const auto block = [](const std::vector<Var>& in) {
      return std::vector<Var>{mul(in[0], in[1]), ag::scale(in[0], 3)};
    };
    const auto nested = [&](const std::vector<Var>& in) {
      return ag::recompute(block, {mul(in[0], in[0]), in[1]});
    };
    Var x = Var::leaf(vec({2, 3}));
    const Var c = vec({5, 7});
    for (const bool first : {true, false}) {
      std::vector<double> want;
      for (const bool recompute : {false, true}) {
        x.clear_grad();
        ag::Tape tape;
        const std::vector<Var> in = {x, c};
        const std::vector<Var> out = recompute ? ag::recompute(nested, in) : nested(in);
        CHECK((tape.size() == 1) == recompute);
        tape.backward(out[first ? 0 : 1], vec({1, 1}));
        if (recompute) {
          CHECK(list(x.grad()) == want);
        }
        want = list(x.grad());
      }
    }
    CHECK(list(x.grad()) == std::vector<double>{12, 18});
    // Without a tape, or under NoGrad, the block just runs.
    CHECK_FALSE(ag::recompute(nested, {x, c})[0].requires_grad());
    ag::Tape tape;
    const ag::NoGrad no_grad;
    CHECK_FALSE(ag::recompute(nested, {x, c})[0].requires_grad());
    CHECK(tape.size() == 0);
  }

  TEST_CASE("NoGrad nests, EnableGrad undoes it, a detached value stops gradients") {
    Var x = Var::leaf(vec({2}));
    ag::Tape tape;
    {
      const ag::NoGrad outer;
      {
        const ag::NoGrad inner;
        const ag::EnableGrad enable;
        CHECK(ag::scale(x, 2).requires_grad());
      }
      CHECK_FALSE(ag::grad_enabled());
      CHECK_FALSE(mul(x, x).requires_grad());
    }
    CHECK(ag::grad_enabled());
    tape.backward(mul(x, mul(x, x).detach()), vec({1}));
    CHECK(list(x.grad()) == std::vector<double>{4});
  }

  TEST_CASE("tapes belong to their thread") {
    Var x = Var::leaf(vec({2}));
    ag::Tape tape;
    std::thread([&] { CHECK_FALSE(mul(x, x).requires_grad()); }).join();
    CHECK(tape.size() == 0);
  }

  TEST_CASE("a long tape is walked and released without recursion") {
    constexpr int kNodes = 100000;
    Var x = Var::leaf(vec({1}));
    const Var one = vec({1});
    for (const bool backward : {true, false}) {
      ag::Tape tape;
      Var y = x;
      for (int i = 0; i < kNodes; ++i) {
        y = i % 2 == 0 ? mul(y, one) : ag::reshape(y, {1});
      }
      CHECK(tape.size() == kNodes);
      if (backward) {
        tape.backward(y, vec({1}));
        CHECK(tape.size() == 0);
      }
    }
    CHECK(x.grad().item() == 1);
  }

  TEST_CASE("a leaf is converted again when it was written, and only then") {
    ag::Var w = ag::Var::leaf(Tensor::full({2, 3}, DType::kF32, 1.5));
    const Tensor first = ag::cast(w, DType::kBF16).value();
    CHECK(ag::cast(w, DType::kBF16).value().shares_storage(first));
    w.mutable_value().add_(Tensor::full({2, 3}, DType::kF32, 1));
    CHECK(ag::cast(w, DType::kBF16).value().slow_at(0) == 2.5);
    CHECK(first.slow_at(0) == 1.5);
    w.mutable_value() = Tensor::full({2, 3}, DType::kF32, 4);
    CHECK(ag::cast(w, DType::kBF16).value().slow_at(5) == 4);
    CHECK(ag::cast(w, DType::kF64).dtype() == DType::kF64);
    // Values on the way are converted each time.
    const ag::Tape tape;
    const ag::Var y = ag::scale(w, 2);
    CHECK(!ag::cast(y, DType::kBF16).value().shares_storage(ag::cast(y, DType::kBF16).value()));
  }
}
