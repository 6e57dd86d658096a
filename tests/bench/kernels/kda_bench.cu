// Checks the kernels of Kimi Delta Attention against f64, then times them.
//   kda_bench check [CASES] | golden FILE | repeat [N SMALL_N] | time
// Check: every output and gradient, and what the kernels leave in the workspaces, against the chunk
// algebra on the host; golden: what export_golden.py made of kdanet.h5 or deltanet.h5.
#include <cstdio>
#include <memory>
#include <random>

#include "core/ops/delta_rule/kda.h"
#include "harness.h"
#include "kda_reference.h"

namespace {

using namespace ls::kernels;
using namespace ls::kernels::kda;
using namespace ls::bench;
using bf16 = __nv_bfloat16;

constexpr int kDk = KdaSizes::kDk, kDv = KdaSizes::kDv;

struct Case {
  const char* name;
  int batch, tokens, heads;
  double gate;        // log decays are -2 gate * uniform, a channel and token
  double beta;        // uniform in (0, beta), some exactly 0
  double length;      // of keys
  bool states;        // initial state, and a cotangent of the last
  bool kept;          // backward takes over what forward prepared
  bool rare = false;  // two gates of three are -.1 instead
};

/// Tensors as the kernels take them; in f64 twice the same type.
template <class T, class A>
struct HostOf {
  std::vector<T> q, k, v, beta, go;
  std::vector<A> g, s0, gs;  // empty: not given
};
using Host = HostOf<bf16, float>;

std::size_t tokens_of(const KdaSizes& z) {
  return static_cast<std::size_t>(z.batch) * static_cast<std::size_t>(z.tokens) *
         static_cast<std::size_t>(z.heads);
}

Host random_inputs(const Case& c, const KdaSizes& z, std::uint64_t seed) {
  Host h;
  const std::size_t n = tokens_of(z), dv = static_cast<std::size_t>(kDv);
  h.q = normals<bf16>(n * kDk, seed, 0, 1);
  h.k = normals<bf16>(n * kDk, seed, 1, 1);
  h.v = normals<bf16>(n * dv, seed, 2, 1);
  h.go = normals<bf16>(n * dv, seed, 3, 1);
  h.s0 = normals<float>(c.states ? z.state_elements() : 0, seed, 4, 0.3);
  h.gs = normals<float>(c.states ? z.state_elements() : 0, seed, 5, 0.3);
  set_lengths(h.k, kDk, c.length);
  const Random gates(seed, 6), betas(seed, 7);
  h.g = filled<float>(n * kDk, [&](std::size_t i) {
    return c.rare && (i + i / kDk) % 3 != 0 ? -.1 : -2 * c.gate * gates.uniform(i);
  });
  h.beta =
      filled<bf16>(n, [&](std::size_t i) { return i % 29 == 5 ? 0 : c.beta * betas.uniform(i); });
  return h;
}

/// Inputs, outputs and workspaces on the device.
struct Problem {
  KdaSizes z;
  bool states_given;
  Buffer<bf16> q, k, v, beta, go;
  Buffer<float> g, s0, gs;
  Buffer<bf16> o, dq, dk, dv, dbeta;
  Buffer<float> s_end, dg, ds0;
  Buffer<unsigned char> kept, states, gradients;

  Problem(const KdaSizes& sizes, const Host& h)
      : z(sizes),
        states_given(!h.s0.empty()),
        q(h.q),
        k(h.k),
        v(h.v),
        beta(h.beta),
        go(h.go),
        g(h.g),
        s0(h.s0),
        gs(h.gs),
        o(h.v.size()),
        dq(h.q.size()),
        dk(h.k.size()),
        dv(h.v.size()),
        dbeta(h.beta.size()),
        s_end(z.state_elements()),
        dg(h.g.size()),
        ds0(z.state_elements()),
        kept(z.kept_bytes()),
        states(z.states_bytes()),
        gradients(z.gradients_bytes()) {}

  KdaInputs in() const {
    return {q.get(), k.get(), v.get(), g.get(), beta.get(), states_given ? s0.get() : nullptr};
  }
  KdaGradients out() const {
    return {dq.get(), dk.get(), dv.get(), dg.get(), dbeta.get(), ds0.get()};
  }
  cudaError_t forward(cudaStream_t s) const {
    return kda_forward(z, in(), o.get(), s_end.get(), kept.get(), s);
  }
  cudaError_t backward(bool ready, cudaStream_t s) const {
    return kda_backward(z, in(), go.get(), states_given ? gs.get() : nullptr, kept.get(), ready,
                        states.get(), gradients.get(), out(), s);
  }
  std::vector<RawBuffer*> written() {
    return {&o, &dq, &dk, &dv, &dbeta, &s_end, &dg, &ds0, &kept, &states, &gradients};
  }
};

template <class Given>
KdaChain chain_of(const Given& h, const KdaSizes& z, int b, int head) {
  KdaChain c{z.tokens, kDk, kDv, static_cast<double>(z.scale), {}, {}, {}, {}, {}, {}, {}, {}};
  const auto take = [&](std::vector<double>& to, const auto& from, int width) {
    to.assign(static_cast<std::size_t>(z.tokens * width), 0);
    for (int t = 0; t < z.tokens && !from.empty(); ++t) {
      const std::size_t at =
          static_cast<std::size_t>((static_cast<std::int64_t>(b) * z.tokens + t) * z.heads + head) *
          static_cast<std::size_t>(width);
      for (int x = 0; x < width; ++x) {
        to[static_cast<std::size_t>(t * width + x)] =
            number(from[at + static_cast<std::size_t>(x)]);
      }
    }
  };
  take(c.q, h.q, kDk);
  take(c.k, h.k, kDk);
  take(c.v, h.v, kDv);
  take(c.go, h.go, kDv);
  take(c.g, h.g, kDk);
  take(c.beta, h.beta, 1);
  const auto state = [&](std::vector<double>& to, const auto& from) {
    const std::size_t size = static_cast<std::size_t>(kDk) * static_cast<std::size_t>(kDv);
    to.assign(size, 0);
    for (std::size_t i = 0; i < size && !from.empty(); ++i) {
      to[i] = from[static_cast<std::size_t>(b * z.heads + head) * size + i];
    }
  };
  state(c.s0, h.s0);
  state(c.gs, h.gs);
  return c;
}

constexpr std::size_t kTile = 8192;
enum What {
  kO,
  kS,
  kDq,
  kDkey,
  kDvalue,
  kDg,
  kDbeta,
  kDs0,
  kReader,
  kQuery,
  kWriter,
  kNTile,
  kPTile,
  kSTile,
  kXTile,
  kDsTile
};
constexpr int kWhats = kDsTile + 1;
constexpr const char* kNames[kWhats] = {"o",     "sT",  "dq",     "dk",  "dv",      "dg",
                                        "dbeta", "ds0", "[K in]", "[Q]", "[K out]", "[N]",
                                        "[P]",   "[S]", "[X]",    "[dS]"};
// bf16 operands and results: a rounding is .0017 by itself. dg sums differences of such.
constexpr double kLimits[kWhats] = {.006, .006, .008, .008, .006, .02,  .008, .006,
                                    .004, .004, .004, .006, .006, .006, .006, .006};

bool check(const Case& c, std::uint64_t seed) {
  const KdaSizes z{c.batch, c.tokens, c.heads, static_cast<float>(1 / std::sqrt(kDk))};
  const Host h = random_inputs(c, z, seed);
  Problem p(z, h);
  LS_RUN(p.forward(nullptr));
  LS_RUN(p.backward(c.kept, nullptr));
  LS_RUN(cudaDeviceSynchronize());
  const auto o = p.o.values(), dq = p.dq.values(), dk = p.dk.values(), dv = p.dv.values(),
             dbeta = p.dbeta.values();
  const auto s_end = p.s_end.values(), ds0 = p.ds0.values(), dg = p.dg.values();
  const auto kept = p.kept.values(), states = p.states.values(), gradients = p.gradients.values();

  const int chains = c.batch * c.heads, checked = std::min(chains, 16);
  std::vector<std::vector<Error>> errors(static_cast<std::size_t>(checked),
                                         std::vector<Error>(kWhats));
  in_parallel(checked, [&](std::int64_t i) {
    const int chain = static_cast<int>(i * chains / checked), b = chain / c.heads,
              head = chain % c.heads;
    std::vector<KdaChunk> chunks;
    const KdaChain given = chain_of(h, z, b, head);
    const KdaResult ref = kda_by_chunk(given, KdaSizes::kChunk, &chunks);
    std::vector<Error>& e = errors[static_cast<std::size_t>(i)];
    const auto rows = [&](What what, const auto& got, const std::vector<double>& want, int width) {
      for (int t = 0; t < c.tokens; ++t) {
        const std::size_t at = static_cast<std::size_t>(
            ((static_cast<std::int64_t>(b) * c.tokens + t) * c.heads + head) * width);
        for (int x = 0; x < width; ++x) {
          e[what].add(number(got[at + static_cast<std::size_t>(x)]),
                      want[static_cast<std::size_t>(t * width + x)]);
        }
      }
    };
    rows(kO, o, ref.o, kDv);
    rows(kDq, dq, ref.dq, kDk);
    rows(kDkey, dk, ref.dk, kDk);
    rows(kDvalue, dv, ref.dv, kDv);
    rows(kDg, dg, ref.dg, kDk);
    rows(kDbeta, dbeta, ref.dbeta, 1);
    for (std::size_t x = 0; x < ref.s.size(); ++x) {
      const std::size_t at = static_cast<std::size_t>(chain) * ref.s.size() + x;
      e[kS].add(s_end[at], ref.s[x]);
      e[kDs0].add(ds0[at], ref.ds0[x]);
    }
    for (int n = 0; n < z.chunks(); ++n) {
      const auto record = static_cast<std::size_t>(chain * z.chunks() + n);
      const KdaChunk& chunk = chunks[static_cast<std::size_t>(n)];
      const std::size_t base = record * KdaSizes::kKept;
      for (int r = 0; r < 64; ++r) {
        for (int x = 0; x < 64; ++x) {
          const auto at = static_cast<std::size_t>(r * 64 + x);
          e[kNTile].add(tile_at(kept, base + 6 * kTile, r, x), chunk.n[at]);
          e[kPTile].add(tile_at(kept, base + 7 * kTile, r, x), chunk.p[at]);
        }
        for (int x = 0; x < kDk; ++x) {
          const auto at = static_cast<std::size_t>(r * kDk + x);
          const std::size_t tile = base + static_cast<std::size_t>(x / 64) * kTile;
          e[kReader].add(tile_at(kept, tile, r, x % 64), chunk.reader[at]);
          e[kQuery].add(tile_at(kept, tile + 2 * kTile, r, x % 64), chunk.query[at]);
          e[kWriter].add(tile_at(kept, tile + 4 * kTile, r, x % 64), chunk.writer[at]);
        }
      }
      for (int x = 0; x < kDv; ++x) {
        const auto slice = static_cast<std::size_t>(x / 64);
        const std::size_t value =
            z.records() * KdaSizes::kState + record * KdaSizes::kRows + slice * kTile;
        for (int r = 0; r < 64; ++r) {
          e[kXTile].add(tile_at(states, value, r, x % 64),
                        chunk.x[static_cast<std::size_t>(r * kDv + x)]);
        }
        for (int d = 0; d < kDk; ++d) {
          const std::size_t state =
              record * KdaSizes::kState + (2 * slice + static_cast<std::size_t>(d / 64)) * kTile;
          const auto at = static_cast<std::size_t>(d * kDv + x);
          e[kSTile].add(tile_at(states, state, x % 64, d % 64), chunk.s[at]);
          e[kDsTile].add(tile_at(gradients, state, x % 64, d % 64), chunk.ds[at]);
        }
      }
    }
  });
  return check_errors(c.name, errors, kNames, kLimits, p.written());
}

/// Results of all chains in the tensors' layout, by the recurrence in f64; or by chunks of it whose
/// products take bf16.
template <class Given>
KdaResult reference_of(const Given& h, const KdaSizes& z, bool bf16_operands = false) {
  KdaResult all;
  const auto grow = [&](std::vector<double>& to, std::size_t width) {
    to.resize(tokens_of(z) * width);
  };
  grow(all.o, static_cast<std::size_t>(kDv));
  grow(all.dv, static_cast<std::size_t>(kDv));
  grow(all.dq, kDk);
  grow(all.dk, kDk);
  grow(all.dg, kDk);
  grow(all.dbeta, 1);
  for (int b = 0; b < z.batch; ++b) {
    for (int head = 0; head < z.heads; ++head) {
      const KdaChain chain = chain_of(h, z, b, head);
      const KdaResult one = bf16_operands ? kda_by_chunk(chain, KdaSizes::kChunk, nullptr, true)
                                          : kda_by_token(chain);
      const auto put = [&](std::vector<double>& to, const std::vector<double>& from) {
        const std::size_t width = from.size() / static_cast<std::size_t>(z.tokens);
        for (std::size_t i = 0; i < from.size(); ++i) {
          const std::size_t t = i / width;
          to[((static_cast<std::size_t>(b * z.tokens) + t) * static_cast<std::size_t>(z.heads) +
              static_cast<std::size_t>(head)) *
                 width +
             i % width] = from[i];
        }
      };
      put(all.o, one.o);
      put(all.dv, one.dv);
      put(all.dq, one.dq);
      put(all.dk, one.dk);
      put(all.dg, one.dg);
      put(all.dbeta, one.dbeta);
      all.s.insert(all.s.end(), one.s.begin(), one.s.end());
      all.ds0.insert(all.ds0.end(), one.ds0.begin(), one.ds0.end());
    }
  }
  return all;
}

/// A golden case, heads of q and k repeated, padded with zeros to the kernels' sizes, one call a
/// document. The f64 reference on the case's inputs must be the golden result, and the kernels on
/// inputs rounded to bf16 the reference on those: some cases amplify errors (beta |k|^2 far above
/// 2), so twice what the rounding of the inputs does to the result is allowed.
bool check_golden(const GoldenCase& g) {
  const GoldenArray &q = *g.find("inputs/q"), &v = *g.find("inputs/v"),
                    &beta = *g.find("inputs/beta");
  if (g.attribute("qk_l2norm") != 0 || beta.shape.size() != 3) {
    std::printf("skip %s: not by these kernels\n", g.name.c_str());
    return true;
  }
  const GoldenArray &k = *g.find("inputs/k"), *s0 = g.find("inputs/initial_state"),
                    *offsets = g.find("inputs/offsets");
  const GoldenArray &go = *g.find("cotangents/o"), *gs = g.find("cotangents/final_state");
  const auto batch = static_cast<int>(q.shape[0]), tokens = static_cast<int>(q.shape[1]),
             hq = static_cast<int>(q.shape[2]), dk = static_cast<int>(q.shape[3]),
             hv = static_cast<int>(v.shape[2]), dv = static_cast<int>(v.shape[3]);
  std::vector<Error> kernels(kDs0 + 1), rounding(kDs0 + 1);
  std::map<std::string, Error> golden;
  const int documents = offsets ? static_cast<int>(offsets->values.size()) - 1 : batch;
  std::vector<double> dq(q.values.size()), dkey(k.values.size());
  for (int document = 0; document < documents; ++document) {
    const auto offset = [&](int i) {
      return static_cast<int>(offsets->values[static_cast<std::size_t>(i)]);
    };
    const int b = offsets ? 0 : document, first = offsets ? offset(document) : 0,
              n = offsets ? offset(document + 1) - first : tokens;
    if (n == 0) {
      continue;
    }
    const KdaSizes z{1, n, hv, static_cast<float>(g.attribute("scale"))};
    Host h;
    HostOf<double, double> exact;
    const auto rows = [&](auto& to, auto& same, const GoldenArray& from, int heads, int width,
                          int padded) {
      to.resize(static_cast<std::size_t>(n * hv * padded));
      same.resize(to.size());
      for (int i = 0; i < n * hv * padded; ++i) {
        const int t = i / padded / hv, head = i / padded % hv, x = i % padded;
        const int at = ((b * tokens + first + t) * heads + head / (hv / heads)) * width + x;
        same[static_cast<std::size_t>(i)] =
            x < width ? from.values[static_cast<std::size_t>(at)] : 0;
        round_to(to[static_cast<std::size_t>(i)], same[static_cast<std::size_t>(i)]);
      }
    };
    const auto padded_state = [&](int i) {  // place of element i of a document's states
      const int head = i / (dk * dv), d = i / dv % dk;
      return static_cast<std::size_t>((head * kDk + d) * kDv + i % dv);
    };
    const auto state = [&](std::vector<float>& to, std::vector<double>& same,
                           const GoldenArray* from) {
      to.assign(z.state_elements(), 0);
      same.assign(z.state_elements(), 0);
      for (int i = 0; i < hv * dk * dv && from; ++i) {
        same[padded_state(i)] = from->values[static_cast<std::size_t>(document * hv * dk * dv + i)];
        to[padded_state(i)] = static_cast<float>(same[padded_state(i)]);
      }
    };
    rows(h.q, exact.q, q, hq, dk, kDk);
    rows(h.k, exact.k, k, hq, dk, kDk);
    rows(h.v, exact.v, v, hv, dv, kDv);
    rows(h.go, exact.go, go, hv, dv, kDv);
    rows(h.beta, exact.beta, beta, hv, 1, 1);
    rows(h.g, exact.g, *g.find("inputs/g"), hv, dk, kDk);
    state(h.s0, exact.s0, s0);
    state(h.gs, exact.gs, gs);
    Problem p(z, h);
    LS_RUN(p.forward(nullptr));
    LS_RUN(p.backward(true, nullptr));
    LS_RUN(cudaDeviceSynchronize());

    const KdaResult rounded = reference_of(h, z);
    const KdaResult full = reference_of(exact, z);
    const auto add = [](std::vector<Error>& to, What what, const auto& got,
                        const std::vector<double>& want) {
      for (std::size_t i = 0; i < want.size(); ++i) {
        to[what].add(number(got[i]), want[i]);
      }
    };
    const auto compare = [&](What what, const auto& got, const std::vector<double>& want) {
      add(kernels, what, got, want);
    };
    const KdaResult coarse = reference_of(h, z, true);
    add(rounding, kO, coarse.o, rounded.o);
    add(rounding, kS, coarse.s, rounded.s);
    add(rounding, kDq, coarse.dq, rounded.dq);
    add(rounding, kDkey, coarse.dk, rounded.dk);
    add(rounding, kDvalue, coarse.dv, rounded.dv);
    add(rounding, kDg, coarse.dg, rounded.dg);
    add(rounding, kDbeta, coarse.dbeta, rounded.dbeta);
    add(rounding, kDs0, coarse.ds0, rounded.ds0);
    compare(kO, p.o.values(), rounded.o);
    compare(kS, p.s_end.values(), rounded.s);
    compare(kDq, p.dq.values(), rounded.dq);
    compare(kDkey, p.dk.values(), rounded.dk);
    compare(kDvalue, p.dv.values(), rounded.dv);
    compare(kDg, p.dg.values(), rounded.dg);
    compare(kDbeta, p.dbeta.values(), rounded.dbeta);
    compare(kDs0, p.ds0.values(), rounded.ds0);

    // The scale is an f32 there.
    const auto expect = [&](const char* name, const std::vector<double>& got, int width,
                            int padded) {
      if (const GoldenArray* want = g.find(name)) {
        for (int i = 0; i < n * hv * width; ++i) {
          golden[name].add(
              got[static_cast<std::size_t>(i / width * padded + i % width)],
              want->values[static_cast<std::size_t>((b * tokens + first) * hv * width + i)]);
        }
      }
    };
    const auto expect_state = [&](const char* name, const std::vector<double>& got) {
      if (const GoldenArray* want = g.find(name)) {
        for (int i = 0; i < hv * dk * dv; ++i) {
          golden[name].add(got[padded_state(i)],
                           want->values[static_cast<std::size_t>(document * hv * dk * dv + i)]);
        }
      }
    };
    const auto add_group = [&](std::vector<double>& to, const std::vector<double>& from) {
      for (int i = 0; i < n * hv * dk; ++i) {
        const int t = i / dk / hv, head = i / dk % hv, x = i % dk;
        to[static_cast<std::size_t>(((b * tokens + first + t) * hq + head / (hv / hq)) * dk + x)] +=
            from[static_cast<std::size_t>((t * hv + head) * kDk + x)];
      }
    };
    expect("outputs/o", full.o, dv, kDv);
    expect("grads/v", full.dv, dv, kDv);
    expect("grads/beta", full.dbeta, 1, 1);
    expect("grads/g", full.dg, dk, kDk);
    expect_state("outputs/final_state", full.s);
    expect_state("grads/initial_state", full.ds0);
    add_group(dq, full.dq);
    add_group(dkey, full.dk);
  }
  for (std::size_t i = 0; i < dq.size(); ++i) {
    golden["grads/q"].add(dq[i], g.find("grads/q")->values[i]);
    golden["grads/k"].add(dkey[i], g.find("grads/k")->values[i]);
  }
  Check reference(g.name + ": reference");
  for (const auto& [name, error] : golden) {
    reference.expect(name, error, 1e-7);
  }
  Check result(g.name);
  for (int i = 0; i <= kDs0; ++i) {
    const auto at = static_cast<std::size_t>(i);
    result.expect(kNames[i], kernels[at], std::max(kLimits[i], 2 * rounding[at].rms()));
  }
  const bool same = reference.finish();
  return result.finish() && same;
}

constexpr Case kTimed[] = {
    {"B4 T2048 H16 D128", 4, 2048, 16, .1, 1, 1, false, true},
    {"B2 T16384 H16 D128", 2, 16384, 16, .1, 1, 1, false, true},
};
constexpr double kBars[][2] = {{.14, .75}, {.50, 2.4}};

void time_case(const Case& c, const char* name, bool parts, const double (&bar)[2],
               Report& report) {
  const KdaSizes z{c.batch, c.tokens, c.heads, static_cast<float>(1 / std::sqrt(kDk))};
  const Problem p(z, random_inputs(c, z, 99));
  const auto n = static_cast<double>(tokens_of(z));
  constexpr double kD = kDk, kC = KdaSizes::kChunk;
  // Every input, output and gradient once; products of the chunk form with dense tiles.
  const double in = n * (3 * 2 * kD + 4 * kD + 2), out = n * 2 * kD;
  const double back = in + n * (2 * kD + 3 * 2 * kD + 4 * kD + 2);
  const double flop = n * (6 * kD * kD + 8 * kC * kD);
  const double flop_back = n * (18 * kD * kD + 26 * kC * kD);
  const auto row = [&](const char* what, double bytes, double flops, double limit, Launch launch) {
    report.row(what, name, time_graphs({std::move(launch)}), bytes, flops, limit);
  };
  const auto both = [&](bool keep) {
    return [&p, keep](cudaStream_t s) {
      const cudaError_t e = p.forward(s);
      return e ? e : p.backward(keep, s);
    };
  };
  row("forward", in + out, flop, bar[0], [&](cudaStream_t s) { return p.forward(s); });
  row("forward + backward", in + out + back, flop + flop_back, bar[1], both(true));
  if (!parts) {
    return;
  }
  row("the same, prepared again", in + out + back, flop + flop_back, bar[1], both(false));
  const double states = static_cast<double>(z.records() * KdaSizes::kState);
  const double kept = n * 1032, rows = n * 2 * kD;
  row("  prepare", n * (8 * kD + 2) + kept, 0, 0,
      [&](cudaStream_t s) { return kda_prepare(z, p.in(), p.kept.get(), s); });
  row("  outputs", kept + 2 * rows, 0, 0, [&](cudaStream_t s) {
    return kda_outputs(z, p.in(), p.o.get(), p.s_end.get(), p.kept.get(), s);
  });
  const double reverse_bytes = kept + 2 * rows + states;
  const auto reverse = [&](void* with) {
    return [&p, with](cudaStream_t s) {
      return kda_reverse(p.z, p.in(), p.go.get(), nullptr, p.kept.get(), with, p.gradients.get(),
                         p.dv.get(), nullptr, s);
    };
  };
  row("  reverse", reverse_bytes, 0, 0, reverse(nullptr));
  row("  reverse and states", reverse_bytes + n * 648 + 2 * rows + states, 0, 0,
      reverse(p.states.get()));
  row("  gradients", n * (20 * kD + 4) + 3 * rows + 2 * states, 0, 0, [&](cudaStream_t s) {
    return kda_gradients(z, p.in(), p.go.get(), p.kept.get(), p.states.get(), p.gradients.get(),
                         p.out(), s);
  });
}

bool repeat(const Case& c, std::int64_t times) {
  const KdaSizes z{c.batch, c.tokens, c.heads, static_cast<float>(1 / std::sqrt(kDk))};
  Problem p(z, random_inputs(c, z, std::random_device{}()));
  return repeats_agree(
      c.name,
      [&](cudaStream_t s) {
        const cudaError_t e = p.forward(s);
        return e ? e : p.backward(c.kept, s);
      },
      {&p.o, &p.dq, &p.dk, &p.dv, &p.dbeta, &p.s_end, &p.dg, &p.ds0}, times);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "check";
  bool good = true;
  if (what == "check") {
    const std::uint64_t seed = std::random_device{}();
    std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
    const Case cases[] = {
        {"one chunk", 1, 64, 1, .05, 1, 1, true, true},
        {"two chunks", 1, 128, 1, .05, 1, 1, true, true},
        {"T 2", 2, 2, 3, .05, 1, 1, true, false},
        {"T 63", 2, 63, 3, .05, 1, 1, true, false},
        {"T 65", 2, 65, 3, .05, 1, 1, true, false},
        {"T 331", 2, 331, 3, .05, 1, 1, true, false},
        {"no gate", 2, 500, 3, 0, 1, 1, true, true},
        {"weak gate", 2, 500, 3, .002, 1, 1, true, true},
        {"strong gate", 2, 500, 3, 1, 1, 1, true, false},
        {"very strong gate", 2, 500, 3, 5, 1, 1, true, true},
        {"gates to -300", 2, 500, 3, 150, 1, 1, true, true},
        {"some gates to -300", 2, 500, 3, 150, 1, 1, true, true, true},
        {"beta to 2", 2, 500, 3, .02, 2, 1, true, true},
        {"longer keys", 2, 500, 3, .5, 1, 1.4, true, false},
        {"B4 T2048 H16", 4, 2048, 16, .1, 1, 1, true, true},
        {"B4 T2048 H16, weak, prepared again", 4, 2048, 16, .002, 1, 1, true, false},
    };
    const std::size_t n =
        argc > 2 ? static_cast<std::size_t>(std::atoi(argv[2])) : std::size(cases);
    for (std::size_t i = 0; i < std::min(n, std::size(cases)); ++i) {
      good = check(cases[i], seed) && good;
    }
  } else if (what == "golden" && argc > 2) {
    good = check_all_golden(argv[2], check_golden);
  } else if (what == "repeat") {
    good = repeat(kTimed[0], argc > 2 ? std::atoll(argv[2]) : 1000);
    const Case small{"B1 T200 H2 D128", 1, 200, 2, .1, 1, 1, false, false};
    good = repeat(small, argc > 3 ? std::atoll(argv[3]) : 10000) && good;
  } else if (what == "time") {
    Report report("kda", measure_card());
    for (std::size_t i = 0; i < std::size(kTimed); ++i) {
      const std::pair<const char*, double> strengths[] = {
          {"weak", .002}, {"middle", .1}, {"strong", 2.5}, {"past the bound", 5}};
      for (const auto& [strength, gate] : strengths) {
        Case c = kTimed[i];
        c.gate = gate;
        const std::string name = std::string(c.name) + " " + strength;
        time_case(c, name.c_str(), gate == .1, kBars[i], report);
      }
    }
    report.print();
  } else {
    std::printf("kda_bench check [CASES] | golden FILE | repeat [N SMALL_N] | time\n");
    return 2;
  }
  std::printf("%s\n", good ? "all ok" : "FAILED");
  return good ? 0 : 1;
}
