// Parameters of a block in one buffer, and their gradients in another.
#include "autograd/parameter.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>

#include "autograd/call.h"
#include "autograd/functional.h"
#include "autograd/tape.h"
#include "core/ops/embedding/embedding.h"
#include "core/ops/linear/linear.h"
#include "core/ops/linear_cross_entropy/linear_cross_entropy.h"
#include "core/ops/mul/mul.h"
#include "tests/support/draw.h"
#include "tests/support/errors.h"

using namespace ls;

namespace {

struct Set {
  explicit Set(bool flat) {
    test::Draw draw("flat parameters");
    for (const char* const name : {"embedding.weight", "blocks.0.a", "blocks.0.b", "blocks.1.a"}) {
      vars.push_back(set.add(name, draw.normal({3, 4}), true));
    }
    if (flat) {
      set.flatten();
    }
  }
  /// Uses of one, two and no parameters, and one that is both inputs of an op.
  std::vector<std::vector<double>> gradients(int passes) {
    for (int n = 0; n < passes; ++n) {
      ag::Tape tape;
      const ag::Var x = ag::call<ops::Linear>({.x = vars[0], .weight = vars[1]}).y;
      const ag::Var square = ag::call<ops::Mul>({.a = vars[2], .b = vars[2]}).y;
      const ag::Var turned = ag::call<ops::Linear>({.x = ag::reshape(vars[2], {3, 4}),
                                                    .weight = ag::slice(vars[1], 0, 0, 3)})
                                 .y;
      const ag::Var outputs[] = {x, square, turned};
      const Tensor seeds[] = {Tensor::full({3, 3}, DType::kF64, 0.5),
                              Tensor::full({3, 4}, DType::kF64, -2),
                              Tensor::full({3, 3}, DType::kF64, 3)};
      tape.backward(outputs, seeds);
    }
    std::vector<std::vector<double>> all;
    for (const ag::Var& v : vars) {
      all.push_back(v.grad().defined() ? v.grad().to_vector<double>() : std::vector<double>());
    }
    return all;
  }
  ag::ParameterSet set;
  std::vector<ag::Var> vars;
};

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("flat parameters: the same values and gradients, a block in one buffer") {
    Set plain(false), flat(true);
    const auto values = [](const Set& s, std::size_t i) {
      return s.vars[i].value().to_vector<double>();
    };
    for (std::size_t i = 0; i < 4; ++i) {
      CHECK(values(flat, i) == values(plain, i));
    }
    CHECK(flat.set.blocks().size() == 3);
    CHECK(flat.vars[1].value().shares_storage(flat.vars[2].value()));
    CHECK(!flat.vars[1].value().shares_storage(flat.vars[3].value()));
    for (const int passes : {1, 2}) {
      plain.set.clear_grads();
      flat.set.clear_grads();
      CHECK(flat.gradients(passes) == plain.gradients(passes));
      CHECK(flat.vars[1].grad().shares_storage(flat.vars[2].grad()));
      CHECK(!flat.vars[3].grad().defined());
    }
  }

  TEST_CASE("flat parameters: a block is converted at once, and again where it was written") {
    ag::ParameterSet set;
    test::Draw draw("converted parameters");
    std::vector<ag::Var> vars;
    for (const char* const name : {"embedding.weight", "blocks.0.a", "blocks.0.b"}) {
      vars.push_back(set.add(name, draw.normal({3, 4}).to(DType::kF32), true));
    }
    set.flatten(3);
    const auto half = [&](std::size_t i) { return ag::cast(vars[i], DType::kBF16).value(); };
    const auto expected = [&](std::size_t i) {
      return vars[i].value().to(DType::kBF16).to_vector<double>();
    };
    const Tensor a = half(1), b = half(2);
    CHECK(a.shares_storage(b));
    CHECK(!half(0).shares_storage(a));
    CHECK(a.layout().offset() * 2 % FlatBuffer::kAlign == 0);
    CHECK(b.layout().offset() * 2 % FlatBuffer::kAlign == 0);
    CHECK(a.to_vector<double>() == expected(1));
    CHECK(b.to_vector<double>() == expected(2));
    const auto version = a.version();
    set.refresh_copies();
    CHECK(half(1).version() == version);
    vars[2].mutable_value().fill_(0.3);
    CHECK(half(2).to_vector<double>() == expected(2));
    vars[1].mutable_value().fill_(1.7);
    set.refresh_copies();
    CHECK(a.to_vector<double>() == expected(1));  // where it was
    CHECK(half(1).version() == a.version());
  }

  TEST_CASE("flat parameters: gradients are added in place, in whatever order they come") {
    test::Draw draw("gradients in place");
    const Tensor start = draw.normal({3, 4}), x = draw.normal({5, 4}), y = draw.normal({5, 3});
    using Use = ag::Var (*)(const ag::Var& w, const Tensor& x, const Tensor& y);
    const Use uses[] = {
        [](const ag::Var& w, const Tensor& x, const Tensor&) {
          return ag::call<ops::Linear>({.x = ag::Var(x), .weight = w}).y;
        },
        [](const ag::Var& w, const Tensor&, const Tensor& y) {
          return ag::call<ops::Linear>(
                     {.x = ag::Var(y), .weight = ag::reshape(ag::reshape(w, {12}), {4, 3})})
              .y;
        },
        [](const ag::Var& w, const Tensor&, const Tensor&) {
          return ag::call<ops::Mul>({.a = w, .b = ag::reshape(ag::reshape(w, {2, 6}), {3, 4})}).y;
        },
        [](const ag::Var& w, const Tensor&, const Tensor&) { return ag::add(w, ag::scale(w, 3)); },
        [](const ag::Var& w, const Tensor&, const Tensor&) { return ag::transpose(w, 0, 1); },
    };
    std::array<int, 5> order = {0, 1, 2, 3, 4};
    do {
      std::vector<std::vector<double>> found;
      for (const DType type : {DType::kF64, DType::kF32}) {
        for (const bool flat : {false, true}) {
          ag::ParameterSet set;
          ag::Var w = set.add("w", start.to(type), true);
          if (flat) {
            set.flatten();
          }
          const Tensor place = w.grad_place();
          for (int pass = 0; pass < 2; ++pass) {
            ag::Tape tape;
            const ag::Var again = ag::reshape(w, {3, 4});  // before all others, used last
            std::vector<ag::Var> ends;
            std::vector<Tensor> seeds;
            for (const int use : order) {
              ends.push_back(uses[use](use % 2 == 0 ? w : again, x.to(type), y.to(type)));
              seeds.push_back(Tensor::full(ends.back().shape(), type, 0.5 + use));
            }
            tape.backward(ends, seeds);
          }
          CHECK((!flat || w.grad().shares_storage(place)));
          found.push_back(w.grad().to_vector<double>());
        }
      }
      for (std::size_t i = 0; i < found[0].size(); ++i) {
        CHECK(found[1][i] == doctest::Approx(found[0][i]).epsilon(1e-13));
        CHECK(found[2][i] == doctest::Approx(found[0][i]).epsilon(1e-5));
        CHECK(found[3][i] == doctest::Approx(found[0][i]).epsilon(1e-5));
      }
    } while (std::ranges::next_permutation(order).found);
  }

  TEST_CASE("flat parameters: the gradient of an output projection is there after the loss") {
    constexpr Index kTokens = 6, kWidth = 4, kClasses = 9;
    test::Draw draw("loss in place");
    const Tensor start = draw.normal({kClasses, kWidth}).to(DType::kF32);
    const Tensor ids = draw.integers({kTokens}, 0, kClasses);
    const Tensor targets = draw.integers({kTokens}, 0, kClasses);
    for (const DType type : {DType::kF32, DType::kBF16}) {
      const auto run = [&](bool flat, int passes, double seed) {
        ag::ParameterSet set;
        ag::Var w = set.add("embedding.weight", start, true);  // tied
        if (flat) {
          set.flatten();
        }
        const Tensor place = w.grad_place();
        for (int pass = 0; pass < passes; ++pass) {
          ag::Tape tape;
          const ag::Var x =
              ag::cast(ag::call<ops::Embedding>({.weight = w, .ids = ag::Var(ids)}).y, type);
          const auto out = ag::call<ops::LinearCrossEntropy>(
              {.x = x, .weight = ag::cast(w, type), .targets = ag::Var(targets)});
          CHECK(out.dw.defined() == !flat);
          CHECK((!flat || w.grad().shares_storage(place)));
          tape.backward(out.loss, Tensor::full({}, DType::kF32, seed));
        }
        return w.grad().to_vector<double>();
      };
      for (const int passes : {1, 3}) {
        const std::vector<double> kept = run(false, passes, 1), put = run(true, passes, 1);
        for (std::size_t i = 0; i < kept.size(); ++i) {
          CHECK(put[i] == doctest::Approx(kept[i]).epsilon(1e-5));
        }
      }
      CHECK(test::says(test::message([&] { run(true, 1, 2); }), "for a gradient 1 of the loss"));
    }
  }
}
