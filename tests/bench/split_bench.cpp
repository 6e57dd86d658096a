// What a scan costs the middle one of three ranks that hold its sequence, against the same tokens
// on one rank, where they have a state before them and a gradient behind them as well: processor
// time of the rank's own thread, forward and backward, in turns. Waiting for other ranks is not
// counted.
//   split_bench [TOKENS [ROUNDS [NAME]]]     NAME: of the cases, those whose names begin so
#include <fmt/core.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <functional>

#include "autograd/tape.h"
#include "core/base/parallel_for.h"
#include "core/base/registration.h"
#include "core/base/rng.h"
#include "core/comm/thread_comm.h"
#include "core/ops/decayed_linear/decayed_linear.h"
#include "core/ops/delta_rule/delta_rule.h"
#include "parallel/sequence/runner.h"

namespace ls {
namespace {

using layers::Tensors;
using Vars = std::vector<ag::Var>;

constexpr Index kHeads = 4, kWidth = 64;

double cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

/// Numbers in [lo, hi).
ag::Var uniform(Rng& rng, const Shape& shape, double lo, double hi) {
  Tensor x = Tensor::empty(shape, DType::kF32);
  float* const to = x.data<float>();
  for (Index i = 0; i < x.numel(); ++i) {
    to[i] = static_cast<float>(lo + (hi - lo) * rng.uniform());
  }
  return ag::Var::leaf(x);
}

struct Case {
  std::string name;
  double bar;
  std::function<Vars(Rng&, Index tokens)> inputs;
  const OpInfo* op;
  std::shared_ptr<const void> attrs;
};

template <class Op>
Case make(std::string name, double bar,
          std::function<typename Op::template In<ag::Var>(Rng&, Index)> inputs) {
  return {
      std::move(name), bar,
      [inputs](Rng& rng, Index t) { return ls::detail::spread_members<ag::Var>(inputs(rng, t)); },
      &op_info<Op>(), std::make_shared<const typename Op::Attrs>()};
}

std::vector<Case> cases() {
  const auto linear = [](auto&& gates) {
    return [gates](Rng& rng, Index t) {
      const Shape shape{1, t, kHeads, kWidth};
      ops::DecayedLinear::In<ag::Var> in{.q = uniform(rng, shape, -1, 1),
                                         .k = uniform(rng, shape, -1, 1),
                                         .v = uniform(rng, shape, -1, 1)};
      gates(in, rng, t);
      return in;
    };
  };
  using Linear = ops::DecayedLinear::In<ag::Var>;
  const auto delta = [](bool channels) {
    return [channels](Rng& rng, Index t) {
      const Shape shape{1, t, kHeads, kWidth}, heads{1, t, kHeads};
      ops::DeltaRule::In<ag::Var> in{.q = uniform(rng, shape, -1, 1),
                                     .k = uniform(rng, shape, -0.2, 0.2),
                                     .v = uniform(rng, shape, -1, 1),
                                     .beta = uniform(rng, heads, 0, 1)};
      (channels ? in.gk : in.g) = uniform(rng, channels ? shape : heads, -0.1, 0);
      return in;
    };
  };
  return {
      make<ops::DecayedLinear>("decayed_linear, none", 1.2, linear([](Linear&, Rng&, Index) {})),
      make<ops::DecayedLinear>("decayed_linear, a head", 1.2,
                               linear([](Linear& in, Rng& rng, Index t) {
                                 in.g = uniform(rng, {1, t, kHeads}, -0.1, 0);
                               })),
      make<ops::DecayedLinear>("decayed_linear, a channel", 1.2,
                               linear([](Linear& in, Rng& rng, Index t) {
                                 in.gk = uniform(rng, {1, t, kHeads, kWidth}, -0.1, 0);
                               })),
      make<ops::DeltaRule>("delta_rule, a head", 1.5, delta(false)),
      make<ops::DeltaRule>("delta_rule, a channel", 1.5, delta(true))};
}

/// Seconds of one pass, forward and backward. `begun`: a state comes in and a gradient of the
/// outgoing one.
double pass(const Case& c, layers::SeqRunner& runner, int rank, Index tokens, bool begun) {
  Rng rng(1, fmt::format("split_bench/{}", rank));
  Vars in = c.inputs(rng, tokens);
  const layers::ScanInfo& scan = layers::scan_of(*c.op, c.attrs.get());
  const layers::StatePort& port = scan.states[0];
  const Shape state{1, kHeads, kWidth, kWidth};
  Tensors seeds(c.op->out.size());
  seeds[0] = Tensor::full({1, tokens, kHeads, kWidth}, DType::kF32, 1);
  layers::StretchPlace place;
  if (begun) {
    layers::input_of(*c.op, in, port.input) = uniform(rng, state, -1, 1);
    layers::output_of(*c.op, seeds, port.output) = uniform(rng, state, -1, 1).value();
    place.seen = {tokens};
  }
  const double start = cpu_seconds();
  ag::Tape tape;
  const Vars out = runner.run(scan, in, c.attrs, layers::Stretch(1, tokens, std::move(place)),
                              {.slot = "scan", .keep = begun, .fresh = {}});
  tape.backward(out, seeds);
  return cpu_seconds() - start;
}

double split_pass(const Case& c, Index tokens) {
  double seconds = 0;
  run_ranks(3, [&](Communicator& comm) {
    set_num_threads(1);
    layers::LocalRunner local;
    parallel::SplitRunner runner(comm, local);
    pass(c, runner, comm.rank(), tokens, false);  // the thread's scratch memory grows
    const double own = pass(c, runner, comm.rank(), tokens, false);
    seconds = comm.rank() == 1 ? own : seconds;
  });
  return seconds;
}

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

int run(int argc, char** argv) {
  const Index tokens = argc > 1 ? std::atoll(argv[1]) : 2048;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 7;
  const std::string_view only = argc > 3 ? argv[3] : "";
  set_num_threads(1);
  fmt::print("{} tokens a rank, {} heads of {} channels, f32, {} rounds\n", tokens, kHeads, kWidth,
             rounds);
  fmt::print("{:<28}{:>10}{:>14}{:>8}{:>6}\n", "scan", "on one, ms", "of three, ms", "ratio",
             "bar");
  for (const Case& c : cases()) {
    if (!c.name.starts_with(only)) {
      continue;
    }
    std::vector<double> alone, split, ratio;
    for (int i = 0; i <= rounds; ++i) {
      layers::LocalRunner local;
      const double a = pass(c, local, 1, tokens, true), b = split_pass(c, tokens);
      if (i > 0) {  // the first warms up
        alone.push_back(a);
        split.push_back(b);
        ratio.push_back(b / a);
      }
    }
    fmt::print("{:<28}{:>10.1f}{:>14.1f}{:>8.2f}{:>6.1f}\n", c.name, 1e3 * median(alone),
               1e3 * median(split), median(ratio), c.bar);
  }
  return 0;
}

}  // namespace
}  // namespace ls

int main(int argc, char** argv) {
  ls::check_registrations();
  return ls::run(argc, argv);
}
