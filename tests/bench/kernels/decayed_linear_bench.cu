// Checks the kernels of decayed linear attention against f64 on the host and against golden cases,
// compares repeats, then times them.
//   decayed_linear_bench check | channel | golden DIR | repeat | time | profile | all [DIR]
#include <array>
#include <cstdio>
#include <memory>
#include <random>

#include "core/ops/decayed_linear/decayed_linear_hopper.h"
#include "decayed_linear_reference.h"
#include "harness.h"

namespace {

using namespace ls::kernels;
using namespace ls::kernels::decayed_linear;
using namespace ls::bench;
using bf16 = __nv_bfloat16;
constexpr int kD = 128;

enum class Gate { kToken, kHead, kNone, kChannel };

struct Case {
  const char* name;
  int batch, tokens, heads;
  double gate;          // log decays are -gate * uniform(0, 2)
  bool states = false;  // initial state, and gradient of the last one
  Gate kind = Gate::kToken;
  LinearPlan plan = {0, 0};  // or the one the sizes give
};

int processors() {
  int count = 0;
  LS_RUN(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0));
  return count;
}

/// One set of inputs, outputs and workspaces on the device.
struct Problem {
  Case c;
  LinearSizes z;
  LinearPlan plan;
  std::size_t th, states;
  std::vector<bf16> hq, hk, hv, hgo;
  std::vector<float> hg, hs0, hgs;
  Buffer<bf16> q, k, v, go;
  Buffer<float> g, s0, gs;
  Buffer<bf16> o, dq, dk, dv;
  Buffer<float> s_end, dg, ds0;
  RawBuffer forward_space, backward_space;

  Problem(const Case& given, std::uint64_t seed, float scale = 0.08838834764f)
      : c(given),
        z{c.batch, c.tokens, c.heads, scale},
        plan(c.plan.groups ? c.plan
             : channel()   ? LinearPlan{1, channel_linear_segments(z, processors())}
                           : decayed_linear_plan(z, processors())),
        th(static_cast<std::size_t>(c.batch) * c.tokens * c.heads),
        states(static_cast<std::size_t>(c.batch) * c.heads * kD * kD),
        hq(normals<bf16>(th * kD, seed, 1, 1)),
        hk(normals<bf16>(th * kD, seed, 2, 1)),
        hv(normals<bf16>(th * kD, seed, 3, 1)),
        hgo(normals<bf16>(th * kD, seed, 4, 1)),
        hg(gates(seed)),
        hs0(normals<float>(c.states ? states : 0, seed, 5, 1)),
        hgs(normals<float>(c.states ? states : 0, seed, 6, 1)),
        q(hq),
        k(hk),
        v(hv),
        go(hgo),
        g(hg),
        s0(hs0),
        gs(hgs),
        o(th * kD),
        dq(th * kD),
        dk(th * kD),
        dv(th * kD),
        s_end(states),
        dg(th * width()),
        ds0(states),
        forward_space(channel() ? channel_linear_forward_workspace(z, plan.segments)
                                : decayed_linear_forward_workspace(z, plan)),
        backward_space(decayed_linear_backward_workspace(z)) {}

  bool channel() const { return c.kind == Gate::kChannel; }
  std::size_t width() const { return channel() ? kD : 1; }
  std::vector<float> gates(std::uint64_t seed) const {
    const Random random(seed, 7);
    const std::size_t n = c.kind == Gate::kNone   ? 0
                          : c.kind == Gate::kHead ? c.heads
                                                  : th * width();
    return filled<float>(n, [&](std::size_t i) { return -2 * c.gate * random.uniform(i); });
  }
  LinearInputs in() const {
    return {q.get(),
            k.get(),
            v.get(),
            c.kind == Gate::kToken ? g.get() : nullptr,
            c.kind == Gate::kHead ? g.get() : nullptr,
            c.states ? s0.get() : nullptr};
  }
  ChannelInputs channel_in() const {
    return {q.get(), k.get(), v.get(), g.get(), c.states ? s0.get() : nullptr};
  }
  LinearGradients out() const {
    return {dq.get(), dk.get(), dv.get(), dg.get(), c.states ? ds0.get() : nullptr};
  }
  cudaError_t forward(cudaStream_t stream) const {
    if (channel()) {
      return channel_linear_forward(z, plan.segments, channel_in(), o.get(), s_end.get(),
                                    forward_space.data(), stream);
    }
    return decayed_linear_forward(z, plan, in(), o.get(), s_end.get(), forward_space.data(),
                                  stream);
  }
  cudaError_t backward(cudaStream_t stream) const {
    if (channel()) {
      return channel_linear_backward(z, channel_in(), go.get(), c.states ? gs.get() : nullptr,
                                     backward_space.data(), out(), stream);
    }
    return decayed_linear_backward(z, in(), go.get(), c.states ? gs.get() : nullptr,
                                   backward_space.data(), out(), stream);
  }
  cudaError_t chunk_states(cudaStream_t stream) const {
    return channel() ? channel_linear_states(z, channel_in(), go.get(), nullptr,
                                             backward_space.data(), nullptr, stream)
                     : decayed_linear_states(z, in(), go.get(), nullptr, backward_space.data(),
                                             nullptr, stream);
  }
  cudaError_t gradients(cudaStream_t stream) const {
    return channel()
               ? channel_linear_gradients(z, channel_in(), go.get(), backward_space.data(), out(),
                                          stream)
               : decayed_linear_gradients(z, in(), go.get(), backward_space.data(), out(), stream);
  }
  cudaError_t both(cudaStream_t stream) const {
    const cudaError_t e = forward(stream);
    return e ? e : backward(stream);
  }
  std::vector<RawBuffer*> outputs() { return {&o, &dq, &dk, &dv, &s_end, &dg}; }
  std::vector<RawBuffer*> workspaces() { return {&forward_space, &backward_space}; }
  bool guards_intact() {
    return ls::bench::guards_intact(outputs()) && ls::bench::guards_intact(workspaces()) &&
           ds0.guards_intact();
  }
  LinearChain chain(int b, int head) const {
    LinearChain x{c.tokens, kD, kD, static_cast<int>(width()), z.scale, {}, {}, {}, {}, {}, {}, {}};
    const auto take = [&](std::vector<double>& to, const auto& from) {
      for (int t = 0; t < c.tokens; ++t) {
        const std::size_t at = ((static_cast<std::size_t>(b) * c.tokens + t) * c.heads + head) * kD;
        for (int i = 0; i < kD; ++i) {
          to.push_back(number(from[at + i]));
        }
      }
    };
    take(x.q, hq);
    take(x.k, hk);
    take(x.v, hv);
    take(x.go, hgo);
    for (int t = 0; t < c.tokens; ++t) {
      const std::size_t at = (static_cast<std::size_t>(b) * c.tokens + t) * c.heads + head;
      for (std::size_t i = 0; i < width(); ++i) {
        x.g.push_back(c.kind == Gate::kNone   ? 0
                      : c.kind == Gate::kHead ? hg[head]
                                              : hg[at * width() + i]);
      }
    }
    const std::size_t at = (static_cast<std::size_t>(b) * c.heads + head) * kD * kD;
    x.s0.assign(kD * kD, 0);
    x.gs.assign(kD * kD, 0);
    for (std::size_t i = 0; c.states && i < x.s0.size(); ++i) {
      x.s0[i] = hs0[at + i];
      x.gs[i] = hgs[at + i];
    }
    return x;
  }
};

bool check(const Case& c, std::uint64_t seed, int most = 16) {
  Problem p(c, seed);
  LS_RUN(p.both(nullptr));
  LS_RUN(cudaDeviceSynchronize());
  const auto o = p.o.values(), dq = p.dq.values(), dk = p.dk.values(), dv = p.dv.values();
  const auto s = p.s_end.values(), dg = p.dg.values(), ds0 = p.ds0.values();
  const int chains = c.batch * c.heads, checked = std::min(chains, most);
  std::vector<std::array<Error, 7>> parts(checked);
  in_parallel(checked, [&](std::int64_t i) {
    const int chain = static_cast<int>(i * chains / checked), b = chain / c.heads,
              head = chain % c.heads;
    const LinearResult ref = linear_by_token(p.chain(b, head));
    auto& e = parts[i];
    for (int t = 0; t < c.tokens; ++t) {
      const std::size_t row = (static_cast<std::size_t>(b) * c.tokens + t) * c.heads + head;
      for (int x = 0; x < kD; ++x) {
        const std::size_t at = row * kD + x, to = static_cast<std::size_t>(t) * kD + x;
        e[0].add(number(o[at]), ref.o[to]);
        e[2].add(number(dq[at]), ref.dq[to]);
        e[3].add(number(dk[at]), ref.dk[to]);
        e[4].add(number(dv[at]), ref.dv[to]);
      }
      for (std::size_t x = 0; x < p.width(); ++x) {
        e[5].add(dg[row * p.width() + x], ref.dg[t * p.width() + x]);
      }
    }
    for (std::size_t x = 0; x < ref.s.size(); ++x) {
      e[1].add(s[chain * ref.s.size() + x], ref.s[x]);
      if (c.states) {
        e[6].add(ds0[chain * ref.s.size() + x], ref.ds0[x]);
      }
    }
  });
  std::array<Error, 7> all;
  for (const auto& part : parts) {
    for (int i = 0; i < 7; ++i) {
      all[i].add(part[i]);
    }
  }
  // bf16 operands and results; dg sums differences of such.
  static const char* const names[] = {"o", "sT", "dq", "dk", "dv", "dg", "ds0"};
  static const double limits[] = {.006, .006, .006, .006, .006, .012, .006};
  Check result(c.name);
  for (int i = 0; i < (c.states ? 7 : 6); ++i) {
    result.expect(names[i], all[i], limits[i]);
  }
  result.expect("guards", p.guards_intact());
  return result.finish();
}

/// A golden case padded to heads of 128, its key heads repeated for grouped queries.
bool golden(const std::string& op, const GoldenCase& c) {
  if (c.find("inputs/offsets")) {
    std::printf("skip %s %s: packed\n", op.c_str(), c.name.c_str());
    return true;
  }
  const auto &q = c.arrays.at("inputs/q"), &k = c.arrays.at("inputs/k"),
             &v = c.arrays.at("inputs/v"), &g = c.arrays.at("inputs/g");
  const auto batch = static_cast<int>(q.shape[0]), tokens = static_cast<int>(q.shape[1]),
             heads = static_cast<int>(q.shape[2]), dk = static_cast<int>(q.shape[3]),
             dv = static_cast<int>(v.shape[3]), group = heads / static_cast<int>(k.shape[2]),
             few = heads / group;
  const auto *s0 = c.find("inputs/initial_state"), *go = c.find("cotangents/o"),
             *gs = c.find("cotangents/final_state");
  Problem p({c.name.c_str(), batch, tokens, heads, 0, true,
             g.shape.size() == 1   ? Gate::kHead
             : g.shape.size() == 3 ? Gate::kToken
                                   : Gate::kChannel},
            1, static_cast<float>(c.attributes.at("scale")));
  // Rows [.., head, d] of a golden array to [.., H, 128]; queries' own heads or repeated ones.
  const auto rows = [&](std::vector<bf16>& to, const GoldenArray* from, int d, int share) {
    for (std::size_t i = 0; i < to.size(); ++i) {
      const std::size_t x = i % kD, head = i / kD % heads, t = i / kD / heads;
      const double value = from && x < static_cast<std::size_t>(d)
                               ? from->values[(t * (heads / share) + head / share) * d + x]
                               : 0;
      round_to(to[i], value);
    }
  };
  rows(p.hq, &q, dk, 1);
  rows(p.hk, &k, dk, group);
  rows(p.hv, &v, dv, group);
  rows(p.hgo, go, dv, 1);
  for (std::size_t i = 0; i < p.hg.size(); ++i) {
    const std::size_t x = i % p.width(), row = i / p.width() / group;
    round_to(p.hg[i], !p.channel()                       ? g.values[row]
                      : x < static_cast<std::size_t>(dk) ? g.values[row * dk + x]
                                                         : 0);
  }
  const auto state = [&](std::vector<float>& to, const GoldenArray* from, bool once) {
    for (std::size_t i = 0; i < to.size(); ++i) {
      const std::size_t y = i % kD, x = i / kD % kD, head = i / kD / kD % heads,
                        b = i / kD / kD / heads;
      const bool inside = from && x < static_cast<std::size_t>(dk) &&
                          y < static_cast<std::size_t>(dv) && !(once && head % group);
      round_to(to[i], inside ? from->values[((b * few + head / group) * dk + x) * dv + y] : 0);
    }
  };
  state(p.hs0, s0, false);
  state(p.hgs, gs, true);
  p.q.write(p.hq.data());
  p.k.write(p.hk.data());
  p.v.write(p.hv.data());
  p.go.write(p.hgo.data());
  p.g.write(p.hg.data());
  p.s0.write(p.hs0.data());
  p.gs.write(p.hgs.data());
  LS_RUN(p.both(nullptr));
  LS_RUN(cudaDeviceSynchronize());
  Check result("golden " + op + " " + c.name);
  // The inputs were rounded to bf16: errors of 2^-9 an operand.
  const auto compare = [&](const char* name, const auto& ours, const std::string& path, int d,
                           int share, bool is_state) {
    const GoldenArray* want = c.find(path);
    if (!want) {
      return;
    }
    Error e;
    const int kept = heads / share;
    for (std::size_t i = 0; i < want->values.size(); ++i) {
      std::size_t x = i % d, head = i / d % kept, t = i / d / kept;
      double sum = 0;
      for (int j = 0; j < share; ++j) {
        if (is_state) {
          const std::size_t y = i % dv, row = i / dv % dk, h = i / dv / dk % kept,
                            b = i / dv / dk / kept;
          sum += number(ours[(((b * heads + h * share + j) * kD) + row) * kD + y]);
        } else {
          sum += number(ours[(t * heads + head * share + j) * (d == 1 ? 1 : kD) + x]);
        }
      }
      e.add(sum, want->values[i]);
    }
    result.expect(name, e, .015);
  };
  compare("o", p.o.values(), "outputs/o", dv, 1, false);
  // Repeated heads hold the same state.
  if (group == 1) {
    compare("sT", p.s_end.values(), "outputs/final_state", dv, 1, true);
  }
  compare("dq", p.dq.values(), "grads/q", dk, 1, false);
  compare("dk", p.dk.values(), "grads/k", dk, group, false);
  compare("dv", p.dv.values(), "grads/v", dv, group, false);
  compare("dg", p.dg.values(), "grads/g", p.channel() ? dk : 1, group, false);
  compare("ds0", p.ds0.values(), "grads/initial_state", dv, group, true);
  result.expect("guards", p.guards_intact());
  return result.finish();
}

bool repeat(const Case& c, std::int64_t n) {
  Problem p(c, 5);
  return repeats_agree(
      c.name, [&](cudaStream_t stream) { return p.both(stream); }, p.outputs(), n);
}

struct Bars {
  double forward, both;
};

void time_case(Report& report, const Case& c, const Bars& bars) {
  const double th = static_cast<double>(c.batch) * c.tokens * c.heads;
  std::vector<std::unique_ptr<Problem>> sets;
  for (int i = 0; i < (th < 3e5 ? 3 : 2); ++i) {
    sets.push_back(std::make_unique<Problem>(c, 11 + i));
    LS_RUN(sets.back()->both(nullptr));
  }
  LS_RUN(cudaDeviceSynchronize());
  const auto time = [&](auto run) {
    std::vector<Launch> launches;
    for (const auto& p : sets) {
      launches.push_back([&p, run](cudaStream_t stream) { return run(*p, stream); });
    }
    return time_graphs(launches);
  };
  const double d = kD, chunk = 64;
  const bool channel = c.kind == Gate::kChannel;
  const double gate = channel ? 4 * d : 4;  // bytes
  const double forward_flop = th * (4 * d * d + 4 * chunk * d);
  const double backward_flop = th * (10 * d * d + 10 * chunk * d);
  char text[64];
  std::snprintf(text, sizeof text,
                channel ? "channel fwd (%d, %d seg)" : "forward (groups %d, %d seg)",
                sets[0]->plan.groups, sets[0]->plan.segments);
  report.row(text, c.name, time([](Problem& p, cudaStream_t s) { return p.forward(s); }),
             th * (8 * d + gate), forward_flop, bars.forward);
  for (const LinearPlan plan :
       {LinearPlan{1, 1}, LinearPlan{1, 2}, LinearPlan{2, 1}, LinearPlan{2, 2}, LinearPlan{2, 4}}) {
    if (channel ||
        (plan.groups == sets[0]->plan.groups && plan.segments == sets[0]->plan.segments)) {
      continue;
    }
    std::vector<RawBuffer> spaces;
    std::vector<Launch> launches;
    for (std::size_t i = 0; i < sets.size(); ++i) {
      spaces.emplace_back(decayed_linear_forward_workspace(sets[i]->z, plan));
    }
    for (std::size_t i = 0; i < sets.size(); ++i) {
      launches.push_back([&, i](cudaStream_t stream) {
        const Problem& p = *sets[i];
        return decayed_linear_forward(p.z, plan, p.in(), p.o.get(), p.s_end.get(), spaces[i].data(),
                                      stream);
      });
    }
    std::snprintf(text, sizeof text, "  groups %d, %d segments", plan.groups, plan.segments);
    report.row(text, c.name, time_graphs(launches), th * 1028, forward_flop);
  }
  report.row(channel ? "channel fwd + bwd" : "forward + backward", c.name,
             time([](Problem& p, cudaStream_t s) { return p.both(s); }), th * (22 * d + 3 * gate),
             forward_flop + backward_flop, bars.both);
  report.row("  states", c.name, time([](Problem& p, cudaStream_t s) { return p.chunk_states(s); }),
             th * (16 * d + 2 * gate), th * 4 * d * d);
  report.row("  gradients", c.name, time([](Problem& p, cudaStream_t s) { return p.gradients(s); }),
             th * (22 * d + 2 * gate), th * (6 * d * d + 12 * chunk * d));
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "all";
  const std::string folder = argc > 2 ? argv[2] : "";
  const auto seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  bool good = true;
  if (what == "check" || what == "all") {
    std::uint64_t i = seed;
    for (const Case& c : {
             Case{"T 64", 1, 64, 1, .05},
             Case{"T 64, states", 1, 64, 1, .05, true},
             Case{"T 128", 1, 128, 2, .05, true},
             Case{"T 1", 2, 1, 3, .05, true},
             Case{"T 63", 2, 63, 3, .05, true},
             Case{"T 65", 2, 65, 3, .05, true},
             Case{"T 331, groups 1", 2, 331, 3, .05, true, Gate::kToken, {1, 1}},
             Case{"T 331, groups 2", 2, 331, 3, .05, true, Gate::kToken, {2, 1}},
             Case{"T 331, 3 segments", 2, 331, 3, .05, true, Gate::kToken, {2, 3}},
             Case{"T 331, 2 segments", 2, 331, 3, .05, true, Gate::kToken, {1, 2}},
             Case{"T 500, no gate", 2, 500, 3, 0, true, Gate::kNone},
             Case{"T 500, gate of the head", 2, 500, 3, .05, true, Gate::kHead},
             Case{"T 500, weak", 2, 500, 3, .002, true},
             Case{"T 500, strong", 2, 500, 3, 1, true},
             Case{"T 500, very strong", 2, 500, 3, 20, true},
         }) {
      good = check(c, ++i) && good;
    }
    for (const double gate : {.002, .05, 1.}) {
      good = check({"B4 T2048 H16", 4, 2048, 16, gate}, ++i) && good;
    }
    good = check({"B2 T16384 H16", 2, 16384, 16, .02}, ++i, 4) && good;
  }
  if (what == "channel" || what == "all") {
    std::uint64_t i = seed;
    constexpr Gate kind = Gate::kChannel;
    for (const Case& c : {
             Case{"channel T 16", 1, 16, 1, .05, false, kind},
             Case{"channel T 64", 1, 64, 1, .05, false, kind},
             Case{"channel T 64, states", 1, 64, 1, .05, true, kind},
             Case{"channel T 128", 1, 128, 2, .05, true, kind},
             Case{"channel T 1", 2, 1, 3, .05, true, kind},
             Case{"channel T 63", 2, 63, 3, .05, true, kind},
             Case{"channel T 65", 2, 65, 3, .05, true, kind},
             Case{"channel T 331", 2, 331, 3, .05, true, kind, {1, 1}},
             Case{"channel T 331, 3 segments", 2, 331, 3, .05, true, kind, {1, 3}},
             Case{"channel T 500, no gate", 2, 500, 3, 0, true, kind},
             Case{"channel T 500, weak", 2, 500, 3, .002, true, kind},
             Case{"channel T 500, strong", 2, 500, 3, 1, true, kind},
             Case{"channel T 500, very strong", 2, 500, 3, 4, true, kind},
             Case{"channel T 500, beyond", 2, 500, 3, 20, true, kind},
         }) {
      good = check(c, ++i) && good;
    }
    for (const double gate : {.002, .05, 1.}) {
      good = check({"channel B4 T2048 H16", 4, 2048, 16, gate, false, kind}, ++i) && good;
    }
    good = check({"channel B2 T16384 H16", 2, 16384, 16, .02, false, kind}, ++i, 4) && good;
  }
  if ((what == "golden" || what == "all") && !folder.empty()) {
    for (const char* op : {"simple_gla", "retnet", "gla"}) {
      const auto cases = read_golden(folder + "/" + op + ".bin");
      std::printf("%zu golden cases of %s\n", cases.size(), op);
      for (const GoldenCase& c : cases) {
        good = golden(op, c) && good;
      }
    }
  }
  if (what == "repeat" || what == "all") {
    good = repeat({"B4 T2048 H16", 4, 2048, 16, .05}, 1000) && good;
    good = repeat({"B1 T200 H2", 1, 200, 2, .05}, 10000) && good;
    good = repeat({"channel B4 T2048 H16", 4, 2048, 16, .05, false, Gate::kChannel}, 1000) && good;
    good = repeat({"channel B1 T200 H2", 1, 200, 2, .05, false, Gate::kChannel}, 10000) && good;
  }
  std::printf("%s\n", good ? "all ok" : "FAILED");
  if (what == "profile") {
    for (const Gate kind : {Gate::kToken, Gate::kChannel}) {
      Problem p({"B4 T2048 H16", 4, 2048, 16, .05, false, kind}, 1);
      LS_RUN(p.both(nullptr));
      LS_RUN(cudaDeviceSynchronize());
    }
  }
  if (what == "time" || what == "time-channel" || what == "all") {
    Report report("decayed_linear", measure_card());
    if (what != "time-channel") {
      time_case(report, {"B4 T2048 H16 D128", 4, 2048, 16, .05}, {.07, .28});
      time_case(report, {"B2 T16384 H16 D128", 2, 16384, 16, .05}, {.25, 1.1});
      time_case(report, {"B1 T8192 H32 D128", 1, 8192, 32, .05}, {});
    }
    constexpr Gate kind = Gate::kChannel;
    time_case(report, {"B4 T2048 H16 D128", 4, 2048, 16, .05, false, kind}, {.13, .5});
    time_case(report, {"B2 T16384 H16 D128", 2, 16384, 16, .05, false, kind}, {});
    report.print();
    std::printf("%s\n", good ? "all ok" : "FAILED");
  }
  return good ? 0 : 1;
}
