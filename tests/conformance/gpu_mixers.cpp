// Every mixer in every setting on a GPU: a sequence in two pieces, the state carried, with all
// gradients, is what the processor makes of it; in one piece where none can be carried.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <list>

#include "autograd/tape.h"
#include "tests/laws/mixers/checker.h"
#include "tests/support/gpu.h"
#include "tests/support/skip.h"

using namespace ls;
using namespace ls::test;
using namespace ls::test::mixers;

namespace {

struct Named {
  std::string name;
  Tensor value;
};

/// Logits, outgoing states and gradients of all parameters.
std::vector<Named> results(const MixerCase& c, const std::string& dtype, Device& device) {
  const std::unique_ptr<Model> model = build(c.config, dtype);
  model->parameters().to(device);
  ag::Tape tape;
  std::list<ModelState> states;
  std::list<SeqContext> contexts;
  std::vector<ag::Var> ends;
  std::vector<Tensor> seeds;
  std::vector<Named> all;
  const auto end = [&](const std::string& name, const ag::Var& x) {
    ends.push_back(x);
    seeds.push_back(normal(x.shape(), x.dtype(), name).to(device));
    all.push_back({name, x.value().to(cpu())});
  };
  constexpr Index kCut = 9;
  const bool carried = traits_of(c).causal;
  std::vector<std::pair<Index, Index>> pieces = {{0, carried ? kCut : kTokens}};
  if (carried) {
    pieces.emplace_back(kCut, kTokens);
  }
  for (const auto& [from, to] : pieces) {
    const Tensor tokens = main_ids().slice(1, from, to).contiguous().to(device);
    SeqContext& seq = contexts.emplace_back(
        kRows, to - from,
        SeqOptions{.incoming = states.empty() ? nullptr : &states.back(), .keep_states = carried});
    end(fmt::format("logits from token {}", from), model->logits(model->hidden({tokens, {}}, seq)));
    if (carried) {
      states.push_back(seq.outgoing());
    }
  }
  if (carried) {
    for (const auto& [name, slot] : states.back().slots) {
      end("state " + name, slot.value);
    }
  }
  tape.backward(ends, seeds);
  for (const ag::Parameter& p : model->parameters().items()) {
    const Tensor& grad = p.var.grad();
    all.push_back({"gradient of " + p.name, grad.defined() ? grad.to(cpu()) : Tensor()});
  }
  return all;
}

/// Greatest difference over the greatest number.
double error_of(const Tensor& got, const Tensor& want) {
  if (!got.defined() || !want.defined()) {
    return got.defined() == want.defined() ? 0 : INFINITY;
  }
  const auto x = got.to_vector<double>(), y = want.to_vector<double>();
  double worst = 0, size = 1e-3;
  for (std::size_t i = 0; i < y.size(); ++i) {
    const double d = std::abs(x[i] - y[i]);
    worst = std::isnan(d) ? INFINITY : std::max(worst, d);
    size = std::max(size, std::abs(y[i]));
  }
  return worst / size;
}

}  // namespace

TEST_SUITE("conformance") {
  TEST_CASE("mixers on a GPU") {
    Device* const device = gpu();
    if (!device) {
      skipped("mixers on a GPU: there is none that this program can use");
      return;
    }
    const OneThread one_thread;
    for (const MixerCase& c : mixer_cases()) {
      SUBCASE(c.name.c_str()) {
        for (const auto& [dtype, tolerance] : {std::pair("f64", 1e-10), std::pair("f32", 2e-4)}) {
          CAPTURE(dtype);
          const std::vector<Named> want = results(c, dtype, cpu());
          std::vector<Named> got;
          try {
            got = results(c, dtype, *device);
          } catch (const Error& e) {
            FAIL_CHECK(e.what());
            continue;
          }
          for (std::size_t i = 0; i < want.size(); ++i) {
            const double error = error_of(got[i].value, want[i].value);
            CHECK_MESSAGE(error <= tolerance, want[i].name << " differs by " << error);
          }
        }
      }
    }
  }
}
