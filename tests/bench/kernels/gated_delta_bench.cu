// Checks the gated delta rule's kernels against f64, then times them.
//   gated_delta_bench check [WORD] | golden FILE | repeat [N SMALL_N] | time [WORD]
// Check: every output and gradient, and what the kernels leave in the workspaces, against the chunk
// algebra on the host; golden: what export_golden.py made of gated_deltanet.h5 or deltanet.h5.
// WORD: only cases with it in their name.
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>

#include "core/ops/delta_rule/gated_delta.h"
#include "gated_delta_reference.h"
#include "harness.h"

namespace {

using namespace ls::kernels;
using namespace ls::kernels::gated_delta;
using namespace ls::bench;
using bf16 = __nv_bfloat16;

struct Case {
  const char* name;
  int batch, tokens, heads, dk, dv;
  double gate;                      // log decays are -2 gate * uniform; 0: no gate at all
  double beta;                      // uniform in (0, beta), some exactly 0
  double length;                    // of keys
  bool states;                      // initial states, and a cotangent of the last
  bool kept;                        // forward leaves the states
  int group = 1;                    // value heads a key head
  std::vector<int> documents = {};  // their lengths, and what they leave is one more; none: rows
};

using Offsets = std::vector<std::int64_t>;  // empty: rows
Offsets offsets_of(const Case& c) {
  Offsets to;
  if (!c.documents.empty()) {
    to.push_back(0);
    for (const int length : c.documents) {
      to.push_back(to.back() + length);
    }
    if (to.back() < c.tokens) {
      to.push_back(c.tokens);
    }
  }
  return to;
}

DeltaSizes sizes_of(const Case& c) {
  return {c.batch,
          c.tokens,
          c.heads / c.group,
          c.heads,
          c.dk,
          c.dv,
          std::max(0, static_cast<int>(offsets_of(c).size()) - 1),
          static_cast<float>(1 / std::sqrt(c.dk))};
}

/// Tensors as the kernels take them; in f64 twice the same type.
template <class T, class A>
struct HostOf {
  std::vector<T> q, k, v, beta, go;
  std::vector<A> g, s0, gs;  // empty: not given
  Offsets offsets;
};
using Host = HostOf<bf16, float>;

std::size_t size_of(int n) {
  return static_cast<std::size_t>(n);
}

Host random_inputs(const Case& c, const DeltaSizes& z, std::uint64_t seed) {
  Host h;
  h.offsets = offsets_of(c);
  const std::size_t n = z.token_heads(), keys = n / size_of(c.group), dv = size_of(c.dv);
  h.q = normals<bf16>(keys * size_of(c.dk), seed, 0, 1);
  h.k = normals<bf16>(keys * size_of(c.dk), seed, 1, 1);
  h.v = normals<bf16>(n * dv, seed, 2, 1);
  h.go = normals<bf16>(n * dv, seed, 3, 1);
  h.s0 = normals<float>(c.states ? z.state_elements() : 0, seed, 4, 0.3);
  h.gs = normals<float>(c.states ? z.state_elements() : 0, seed, 5, 0.3);
  set_lengths(h.k, c.dk, c.length);
  const Random gates(seed, 6), betas(seed, 7);
  if (c.gate > 0) {
    h.g = filled<float>(n, [&](std::size_t i) { return -2 * c.gate * gates.uniform(i); });
  }
  h.beta =
      filled<bf16>(n, [&](std::size_t i) { return i % 29 == 5 ? 0 : c.beta * betas.uniform(i); });
  return h;
}

/// Inputs, outputs and workspaces on the device.
struct Problem {
  DeltaSizes z;
  bool gated, states_given;
  Buffer<bf16> q, k, v, beta, go;
  Buffer<float> g, s0, gs;
  Buffer<bf16> o, dq, dk, dv, dbeta;
  Buffer<float> s_end, dg, ds0;
  Buffer<std::int64_t> offsets;
  Buffer<unsigned char> kept, states, gradients;

  Problem(const DeltaSizes& sizes, const Host& h)
      : z(sizes),
        gated(!h.g.empty()),
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
        dg(h.beta.size()),
        ds0(z.state_elements()),
        offsets(h.offsets),
        kept(z.kept_bytes()),
        states(z.states_bytes()),
        gradients(z.gradients_bytes()) {}

  DeltaInputs in() const {
    return {q.get(),
            k.get(),
            v.get(),
            gated ? g.get() : nullptr,
            beta.get(),
            states_given ? s0.get() : nullptr,
            z.documents > 0 ? offsets.get() : nullptr};
  }
  DeltaGradients out() const {
    return {dq.get(), dk.get(), dv.get(), dg.get(), dbeta.get(), ds0.get()};
  }
  cudaError_t forward(bool keep, cudaStream_t s) const {
    return gated_delta_forward(z, in(), o.get(), s_end.get(), kept.get(),
                               keep ? states.get() : nullptr, s);
  }
  cudaError_t backward(bool ready, cudaStream_t s) const {
    return gated_delta_backward(z, in(), go.get(), states_given ? gs.get() : nullptr, kept.get(),
                                states.get(), ready, gradients.get(), out(), s);
  }
  std::vector<RawBuffer*> written() {
    return {&o, &dq, &dk, &dv, &dbeta, &s_end, &dg, &ds0, &kept, &states, &gradients};
  }
};

/// Tokens of a sequence: row of the batch, first, how many.
struct Stretch {
  int row, first, length;
};
Stretch stretch_of(const DeltaSizes& z, const Offsets& offsets, int sequence) {
  if (offsets.empty()) {
    return {sequence, 0, z.tokens};
  }
  const auto first = static_cast<int>(offsets[size_of(sequence)]);
  return {0, first, static_cast<int>(offsets[size_of(sequence) + 1]) - first};
}
/// Index of the first element of token t of a sequence in a tensor [B,T,H,width].
std::size_t element(const DeltaSizes& z, const Stretch& at, int t, int heads, int head, int width) {
  const std::size_t token = size_of(at.row) * size_of(z.tokens) + size_of(at.first + t);
  return (token * size_of(heads) + size_of(head)) * size_of(width);
}

template <class Given>
DeltaChain chain_of(const Given& h, const DeltaSizes& z, int sequence, int head) {
  const Stretch at = stretch_of(z, h.offsets, sequence);
  DeltaChain c{at.length, z.dk, z.dv, static_cast<double>(z.scale), {}, {}, {}, {}, {}, {}, {}, {}};
  const auto take = [&](std::vector<double>& to, const auto& from, int heads, int width) {
    to.assign(size_of(at.length) * size_of(width), 0);
    for (int t = 0; t < at.length && !from.empty(); ++t) {
      const std::size_t first = element(z, at, t, heads, head / (z.heads / heads), width);
      for (int x = 0; x < width; ++x) {
        to[size_of(t * width + x)] = number(from[first + size_of(x)]);
      }
    }
  };
  take(c.q, h.q, z.key_heads, z.dk);
  take(c.k, h.k, z.key_heads, z.dk);
  take(c.v, h.v, z.heads, z.dv);
  take(c.go, h.go, z.heads, z.dv);
  take(c.g, h.g, z.heads, 1);
  take(c.beta, h.beta, z.heads, 1);
  const auto state = [&](std::vector<double>& to, const auto& from) {
    const std::size_t size = size_of(z.dk) * size_of(z.dv);
    to.assign(size, 0);
    for (std::size_t i = 0; i < size && !from.empty(); ++i) {
      to[i] = from[size_of(sequence * z.heads + head) * size + i];
    }
  };
  state(c.s0, h.s0);
  state(c.gs, h.gs);
  return c;
}

enum What { kO, kS, kDq, kDkey, kDv, kDg, kDbeta, kDs0, kNTile, kPTile, kSTile, kXTile, kDsTile };
constexpr int kWhats = kDsTile + 1;
constexpr const char* kNames[kWhats] = {"o",   "sT",  "dq",  "dk",  "dv",  "dg",  "dbeta",
                                        "ds0", "[N]", "[P]", "[S]", "[X]", "[dS]"};
// bf16 operands and results: a rounding is .0017 by itself. dg sums differences of such.
constexpr double kLimits[kWhats] = {.006, .006, .008, .008, .006, .02, .008,
                                    .006, .004, .004, .006, .006, .006};

/// What the kernels left of one chunk against the reference.
struct Workspaces {
  std::vector<unsigned char> kept, states, gradients;
};
void check_chunk(const DeltaSizes& z, const Workspaces& w, std::size_t record, int n,
                 const DeltaChain& given, const DeltaChunk& chunk, std::vector<Error>& e) {
  const std::size_t scores = record * DeltaSizes::kKept;
  for (int r = 0; r < 64; ++r) {
    for (int x = 0; x < 64; ++x) {
      const int t = 64 * n + x;
      const double beta = t < given.t ? given.beta[size_of(t)] : 0;
      const auto at = size_of(r * 64 + x);
      e[kNTile].add(tile_at(w.kept, scores, r, x), beta * chunk.n[at]);
      e[kPTile].add(tile_at(w.kept, scores + DeltaSizes::kScore, r, x), beta * chunk.p[at]);
    }
  }
  const auto tiles = size_of(z.wide_dk() / 64);
  for (int x = 0; x < z.dv; ++x) {
    const auto slice = size_of(x / 64);
    const std::size_t value =
        z.records() * z.state_bytes() + record * z.value_bytes() + slice * DeltaSizes::kScore;
    for (int r = 0; r < 64; ++r) {
      e[kXTile].add(tile_at(w.states, value, r, x % 64), chunk.x[size_of(r * z.dv + x)]);
    }
    for (int d = 0; d < z.dk; ++d) {
      const std::size_t state =
          record * z.state_bytes() + (tiles * slice + size_of(d / 64)) * DeltaSizes::kScore;
      const auto at = size_of(d * z.dv + x);
      e[kSTile].add(tile_at(w.states, state, x % 64, d % 64), chunk.s[at]);
      e[kDsTile].add(tile_at(w.gradients, state, x % 64, d % 64), chunk.ds[at]);
    }
  }
}

bool check(const Case& c, std::uint64_t seed) {
  const DeltaSizes z = sizes_of(c);
  const Host h = random_inputs(c, z, seed);
  Problem p(z, h);
  LS_RUN(p.forward(c.kept, nullptr));
  LS_RUN(p.backward(c.kept, nullptr));
  LS_RUN(cudaDeviceSynchronize());
  const auto o = p.o.values(), dq = p.dq.values(), dk = p.dk.values(), dv = p.dv.values(),
             dbeta = p.dbeta.values();
  const auto s_end = p.s_end.values(), ds0 = p.ds0.values(), dg = p.dg.values();
  const Workspaces left{p.kept.values(), p.states.values(), p.gradients.values()};

  // Sequences and key heads, each with all its value heads.
  const int all = z.sequences() * z.key_heads, checked = std::min(all, 16);
  std::vector<std::vector<Error>> errors(size_of(checked), std::vector<Error>(kWhats));
  in_parallel(checked, [&](std::int64_t i) {
    const int one = static_cast<int>(i * all / checked), sequence = one / z.key_heads,
              key_head = one % z.key_heads;
    const Stretch at = stretch_of(z, h.offsets, sequence);
    std::vector<Error>& e = errors[size_of(static_cast<int>(i))];
    const auto rows = [&](What what, const auto& got, const std::vector<double>& want, int heads,
                          int head, int width) {
      for (int t = 0; t < at.length; ++t) {
        const std::size_t first = element(z, at, t, heads, head, width);
        for (int x = 0; x < width; ++x) {
          e[what].add(number(got[first + size_of(x)]), want[size_of(t * width + x)]);
        }
      }
    };
    std::vector<double> sum_dq(size_of(at.length) * size_of(z.dk)), sum_dk(sum_dq);
    for (int head = key_head * c.group; head < (key_head + 1) * c.group; ++head) {
      std::vector<DeltaChunk> chunks;
      const DeltaChain given = chain_of(h, z, sequence, head);
      const DeltaResult ref = delta_by_chunk(given, DeltaSizes::kChunk, &chunks);
      rows(kO, o, ref.o, z.heads, head, c.dv);
      rows(kDv, dv, ref.dv, z.heads, head, c.dv);
      rows(kDg, dg, ref.dg, z.heads, head, 1);
      rows(kDbeta, dbeta, ref.dbeta, z.heads, head, 1);
      for (std::size_t x = 0; x < sum_dq.size(); ++x) {
        sum_dq[x] += ref.dq[x];
        sum_dk[x] += ref.dk[x];
      }
      for (std::size_t x = 0; x < ref.s.size(); ++x) {
        const std::size_t to = size_of(sequence * z.heads + head) * ref.s.size() + x;
        e[kS].add(s_end[to], ref.s[x]);
        e[kDs0].add(ds0[to], ref.ds0[x]);
      }
      const int record = h.offsets.empty()
                             ? (sequence * z.heads + head) * z.chunks()
                             : head * z.chunks() + at.first / DeltaSizes::kChunk + sequence;
      for (int n = 0; n < static_cast<int>(chunks.size()); ++n) {
        check_chunk(z, left, size_of(record + n), n, given, chunks[size_of(n)], e);
      }
    }
    rows(kDq, dq, sum_dq, z.key_heads, key_head, c.dk);
    rows(kDkey, dk, sum_dk, z.key_heads, key_head, c.dk);
  });
  return check_errors(c.name, errors, kNames, kLimits, p.written());
}

/// Results of all chains in the tensors' layout, by the recurrence in f64; or by chunks of it whose
/// products take bf16.
template <class Given>
DeltaResult reference_of(const Given& h, const DeltaSizes& z, bool bf16_operands = false) {
  DeltaResult all;
  const std::size_t n = z.token_heads();
  all.o.resize(n * size_of(z.dv));
  all.dv.resize(n * size_of(z.dv));
  all.dq.resize(n / size_of(z.group()) * size_of(z.dk));
  all.dk.resize(all.dq.size());
  all.dg.resize(n);
  all.dbeta.resize(n);
  for (int sequence = 0; sequence < z.sequences(); ++sequence) {
    const Stretch at = stretch_of(z, h.offsets, sequence);
    for (int head = 0; head < z.heads; ++head) {
      const DeltaChain chain = chain_of(h, z, sequence, head);
      const DeltaResult one = bf16_operands
                                  ? delta_by_chunk(chain, DeltaSizes::kChunk, nullptr, true)
                                  : delta_by_token(chain);
      const auto add = [&](std::vector<double>& to, const std::vector<double>& from, int heads,
                           int width) {
        for (int i = 0; i < at.length * width; ++i) {
          to[element(z, at, i / width, heads, head / (z.heads / heads), width) +
             size_of(i % width)] += from[size_of(i)];
        }
      };
      add(all.o, one.o, z.heads, z.dv);
      add(all.dv, one.dv, z.heads, z.dv);
      add(all.dq, one.dq, z.key_heads, z.dk);
      add(all.dk, one.dk, z.key_heads, z.dk);
      add(all.dg, one.dg, z.heads, 1);
      add(all.dbeta, one.dbeta, z.heads, 1);
      all.s.insert(all.s.end(), one.s.begin(), one.s.end());
      all.ds0.insert(all.ds0.end(), one.ds0.begin(), one.ds0.end());
    }
  }
  return all;
}

/// A golden case, its channels padded with zeros to multiples of 8. The f64 reference on the case's
/// inputs must be the golden result, and the kernels on inputs rounded to bf16 the reference on
/// those: some cases amplify errors (beta |k|^2 far above 2), so twice what the rounding of the
/// inputs does to the result is allowed.
bool check_golden(const GoldenCase& g) {
  const GoldenArray &q = *g.find("inputs/q"), &v = *g.find("inputs/v"),
                    &beta = *g.find("inputs/beta");
  if (g.attribute("qk_l2norm") != 0 || beta.shape.size() != 3) {
    std::printf("skip %s: not by these kernels\n", g.name.c_str());
    return true;
  }
  const auto extent = [](const GoldenArray& a, std::size_t i) {
    return static_cast<int>(a.shape[i]);
  };
  const int dk = extent(q, 3), dv = extent(v, 3);
  const GoldenArray* offsets = g.find("inputs/offsets");
  const int documents = offsets ? static_cast<int>(offsets->values.size()) - 1 : 0;
  const DeltaSizes z{
      extent(q, 0),     extent(q, 1),     extent(q, 2), extent(v, 2),
      (dk + 7) / 8 * 8, (dv + 7) / 8 * 8, documents,    static_cast<float>(g.attribute("scale"))};
  Host h;
  HostOf<double, double> exact;
  for (int i = 0; offsets && i <= documents; ++i) {
    h.offsets.push_back(static_cast<std::int64_t>(offsets->values[size_of(i)]));
  }
  exact.offsets = h.offsets;
  // From rows of `width` to rows of `padded`; states have such rows, and more rows a matrix.
  const auto pad = [&](auto& to, auto& same, const char* name, int width, int padded,
                       int height = 1, int padded_height = 1) {
    const GoldenArray* from = g.find(name);
    if (!from) {
      return;
    }
    const std::size_t matrices = from->values.size() / size_of(width * height);
    same.assign(matrices * size_of(padded * padded_height), 0);
    for (std::size_t i = 0; i < from->values.size(); ++i) {
      const std::size_t row = i / size_of(width), matrix = row / size_of(height);
      same[(matrix * size_of(padded_height) + row % size_of(height)) * size_of(padded) +
           i % size_of(width)] = from->values[i];
    }
    to.resize(same.size());
    for (std::size_t i = 0; i < same.size(); ++i) {
      round_to(to[i], same[i]);
    }
  };
  pad(h.q, exact.q, "inputs/q", dk, z.dk);
  pad(h.k, exact.k, "inputs/k", dk, z.dk);
  pad(h.v, exact.v, "inputs/v", dv, z.dv);
  pad(h.go, exact.go, "cotangents/o", dv, z.dv);
  pad(h.beta, exact.beta, "inputs/beta", 1, 1);
  pad(h.g, exact.g, "inputs/g", 1, 1);
  pad(h.s0, exact.s0, "inputs/initial_state", dv, z.dv, dk, z.dk);
  pad(h.gs, exact.gs, "cotangents/final_state", dv, z.dv, dk, z.dk);
  const bool given = !h.s0.empty() || !h.gs.empty();
  if (given) {  // Problem takes both or none
    h.s0.resize(z.state_elements());
    h.gs.resize(z.state_elements());
  }
  Problem p(z, h);
  LS_RUN(p.forward(true, nullptr));
  LS_RUN(p.backward(true, nullptr));
  LS_RUN(cudaDeviceSynchronize());

  const DeltaResult rounded = reference_of(h, z), full = reference_of(exact, z),
                    coarse = reference_of(h, z, true);
  Check reference(g.name + ": reference"), result(g.name);
  const auto compare = [&](What what, const auto& got, const std::vector<double> DeltaResult::*of,
                           const char* name, int width, int padded, int height = 1,
                           int padded_height = 1) {
    Error kernels, rounding, golden;
    for (std::size_t i = 0; i < (rounded.*of).size(); ++i) {
      kernels.add(number(got[i]), (rounded.*of)[i]);
      rounding.add((coarse.*of)[i], (rounded.*of)[i]);
    }
    result.expect(kNames[what], kernels, std::max(kLimits[what], 2 * rounding.rms()));
    const GoldenArray* want = g.find(name);
    for (std::size_t i = 0; want && i < want->values.size(); ++i) {
      const std::size_t row = i / size_of(width), matrix = row / size_of(height);
      golden.add(
          (full.*of)[(matrix * size_of(padded_height) + row % size_of(height)) * size_of(padded) +
                     i % size_of(width)],
          want->values[i]);
    }
    if (want) {
      reference.expect(name, golden, 1e-7);  // the scale is an f32 there
    }
  };
  compare(kO, p.o.values(), &DeltaResult::o, "outputs/o", dv, z.dv);
  compare(kS, p.s_end.values(), &DeltaResult::s, "outputs/final_state", dv, z.dv, dk, z.dk);
  compare(kDq, p.dq.values(), &DeltaResult::dq, "grads/q", dk, z.dk);
  compare(kDkey, p.dk.values(), &DeltaResult::dk, "grads/k", dk, z.dk);
  compare(kDv, p.dv.values(), &DeltaResult::dv, "grads/v", dv, z.dv);
  compare(kDg, p.dg.values(), &DeltaResult::dg, "grads/g", 1, 1);
  compare(kDbeta, p.dbeta.values(), &DeltaResult::dbeta, "grads/beta", 1, 1);
  compare(kDs0, p.ds0.values(), &DeltaResult::ds0, "grads/initial_state", dv, z.dv, dk, z.dk);
  const bool same = reference.finish();
  return result.finish() && same;
}

/// Gates of about e^-.002, e^-.05 and e^-2 a token: weak, middle, strong.
struct TimedCase {
  Case shape;
  double forward, both;  // bars in ms, or 0
};
std::vector<int> even_documents(int tokens, int documents) {
  return std::vector<int>(size_of(documents - 1), tokens / documents);
}
/// From a few tokens to several thousand, none a multiple of 64.
std::vector<int> ragged_documents(int tokens) {
  std::vector<int> to;
  const Random random(7);
  for (int sum = 0, i = 0;; ++i) {
    const int length = static_cast<int>(std::exp(3 + 6 * random.uniform(size_of(i)))) / 2 * 2 + 1;
    if (sum + length >= tokens) {
      return to;
    }
    to.push_back(length);
    sum += length;
  }
}
const std::vector<TimedCase>& timed() {
  static const std::vector<TimedCase> cases = {
      {{"A B4 T2048 H16 D128", 4, 2048, 16, 128, 128, .05, 1, 1, false, false}, .09, .40},
      {{"A weak", 4, 2048, 16, 128, 128, .002, 1, 1, false, false}, .09, .40},
      {{"A strong", 4, 2048, 16, 128, 128, 2, 1, 1, false, false}, .09, .40},
      {{"A no gate", 4, 2048, 16, 128, 128, 0, 1, 1, false, false}, .09, .40},
      {{"A packed 4x2048", 1, 8192, 16, 128, 128, .05, 1, 1, false, false, 1,
        even_documents(8192, 4)},
       .09,
       .40},
      {{"B B2 T16384 H16 D128", 2, 16384, 16, 128, 128, .05, 1, 1, false, false}, .38, 1.6},
      {{"B weak", 2, 16384, 16, 128, 128, .002, 1, 1, false, false}, .38, 1.6},
      {{"B strong", 2, 16384, 16, 128, 128, 2, 1, 1, false, false}, .38, 1.6},
      {{"B no gate", 2, 16384, 16, 128, 128, 0, 1, 1, false, false}, .38, 1.6},
      {{"B packed 2x16384", 1, 32768, 16, 128, 128, .05, 1, 1, false, false, 1,
        even_documents(32768, 2)},
       .38,
       1.6},
      {{"B packed ragged", 1, 32768, 16, 128, 128, .05, 1, 1, false, false, 1,
        ragged_documents(32768)},
       0,
       0},
      {{"B 4 key heads", 2, 16384, 16, 128, 128, .05, 1, 1, false, false, 4}, 0, 0},
      {{"C B1 T8192 H32 D128", 1, 8192, 32, 128, 128, .05, 1, 1, false, false}, 0, 0},
      {{"L B1 T32768 H64 D128", 1, 32768, 64, 128, 128, .05, 1, 1, false, false}, 1.4, 4.4},
      {{"L packed 1x32768", 1, 32768, 64, 128, 128, .05, 1, 1, false, false, 1, {32768}}, 1.4, 4.4},
      {{"W B8 T4096 H6 256/512", 8, 4096, 6, 256, 512, .05, 1, 1, false, false}, 0, 2.5},
      {{"W weak", 8, 4096, 6, 256, 512, .002, 1, 1, false, false}, 0, 2.5},
      {{"W strong", 8, 4096, 6, 256, 512, 2, 1, 1, false, false}, 0, 2.5},
      {{"W no gate", 8, 4096, 6, 256, 512, 0, 1, 1, false, false}, 0, 2.5},
      {{"W packed 8x4096", 1, 32768, 6, 256, 512, .05, 1, 1, false, false, 1,
        even_documents(32768, 8)},
       0,
       2.5},
      {{"S B8 T1024 H8 D64", 8, 1024, 8, 64, 64, .05, 1, 1, false, false}, 0, 0},
      {{"S B8 T4096 H16 D64", 8, 4096, 16, 64, 64, .05, 1, 1, false, false}, 0, 0},
      {{"S B8 T4096 H16 64/128", 8, 4096, 16, 64, 128, .05, 1, 1, false, false}, 0, 0},
      {{"S B8 T4096 H16 D32", 8, 4096, 16, 32, 32, .05, 1, 1, false, false}, 0, 0},
  };
  return cases;
}

void time_case(const TimedCase& timed_case, Report& report) {
  const Case& c = timed_case.shape;
  const DeltaSizes z = sizes_of(c);
  std::unique_ptr<Problem> p = std::make_unique<Problem>(z, random_inputs(c, z, 99));
  const auto n = static_cast<double>(z.token_heads());
  const double dk = z.dk, dv = z.dv, chunk = DeltaSizes::kChunk;
  // Every input, output and gradient once; products of the chunk form with dense tiles.
  const double in = n * (4 * dk / c.group + 2 * dv + 6), out = n * 2 * dv;
  const double flop = n * (6 * dk * dv + chunk * (4 * dk + 4 * dv));
  const double flop_back = n * (18 * dk * dv + 22 * chunk * dk + 4 * chunk * chunk);
  const auto row = [&](const char* what, double bytes, double flops, double limit, Launch launch) {
    report.row(what, c.name, time_graphs({std::move(launch)}), bytes, flops, limit);
  };
  const auto both = [&](bool keep) {
    return [&p, keep](cudaStream_t s) {
      const cudaError_t e = p->forward(keep, s);
      return e ? e : p->backward(keep, s);
    };
  };
  row("forward", in + out, flop, timed_case.forward,
      [&](cudaStream_t s) { return p->forward(false, s); });
  row("forward + backward", 3 * in + 2 * out, flop + flop_back, timed_case.both, both(false));
  row("the same, states kept", 3 * in + 2 * out, flop + flop_back, timed_case.both, both(true));
  const double states = static_cast<double>(z.records() * z.state_bytes()), kept = n * 272;
  row("  scores", n * (4 * dk + 6) + kept, 0, 0,
      [&](cudaStream_t s) { return gated_delta_scores(z, p->in(), p->kept.get(), s); });
  const double reverse_bytes = n * (4 * dk + 2 * dv) + kept + states + n * 2 * dv;
  const auto reverse = [&](void* with) {
    return [&p, with](cudaStream_t s) {
      return gated_delta_reverse(p->z, p->in(), p->go.get(), nullptr, p->kept.get(), with,
                                 p->gradients.get(), p->dv.get(), nullptr, s);
    };
  };
  row("  reverse", reverse_bytes, 0, 0, reverse(nullptr));
  row("  reverse and states", reverse_bytes + n * (4 * dv + 144) + states, 0, 0,
      reverse(p->states.get()));
  row("  gradients", n * (8 * dk + 6 * dv + 22) + 2 * states, 0, 0, [&](cudaStream_t s) {
    return gated_delta_gradients(z, p->in(), p->go.get(), p->kept.get(), p->states.get(),
                                 p->gradients.get(), p->out(), s);
  });
}

bool repeat(const Case& c, std::int64_t times) {
  const DeltaSizes z = sizes_of(c);
  Problem p(z, random_inputs(c, z, std::random_device{}()));
  return repeats_agree(
      c.name,
      [&](cudaStream_t s) {
        const cudaError_t e = p.forward(false, s);
        return e ? e : p.backward(false, s);
      },
      p.written(), times);
}

/// Sizes that the kernels do not take are an error, not a launch.
bool refuses_bad_sizes() {
  const DeltaInputs none{};
  const DeltaSizes good{1, 64, 2, 4, 64, 64, 0, 1.f};
  bool refused = true;
  const auto expect_refusal = [&](DeltaSizes z) {
    refused = refused && gated_delta_forward(z, none, nullptr, nullptr, nullptr, nullptr,
                                             nullptr) == cudaErrorInvalidValue;
  };
  DeltaSizes z = good;
  z.dk = 264;
  expect_refusal(z);
  z.dk = 60;
  expect_refusal(z);
  z = good;
  z.dv = 12;
  expect_refusal(z);
  z = good;
  z.key_heads = 3;
  expect_refusal(z);
  z = good;
  z.documents = 2;  // without offsets
  expect_refusal(z);
  Check result("bad sizes");
  result.expect("refused", refused);
  return result.finish();
}

std::vector<Case> checked_cases() {
  return {
      {"one chunk", 1, 64, 1, 128, 64, .05, 1, 1, true, true},
      {"two chunks", 1, 128, 1, 128, 128, .05, 1, 1, true, true},
      {"T 2", 2, 2, 3, 128, 128, .05, 1, 1, true, false},
      {"T 63", 2, 63, 3, 128, 128, .05, 1, 1, true, false},
      {"T 65", 2, 65, 3, 128, 128, .05, 1, 1, true, false},
      {"T 331", 2, 331, 3, 128, 128, .05, 1, 1, true, false},
      {"T 331 Dv 256", 2, 331, 3, 128, 256, .05, 1, 1, true, true},
      {"no gate", 2, 500, 3, 128, 128, 0, 1, 1, true, true},
      {"weak gate", 2, 500, 3, 128, 128, .002, 1, 1, true, true},
      {"strong gate", 2, 500, 3, 128, 128, 1, 1, 1, true, false},
      {"very strong gate", 2, 500, 3, 128, 128, 5, 1, 1, true, false},
      {"beta to 2", 2, 500, 3, 128, 128, .02, 2, 1, true, true},
      {"longer keys", 2, 500, 3, 128, 128, .5, 1, 1.4, true, false},
      // Widths: the loops of 64, 128 and 256 key columns, and what they pad.
      {"width 64/64", 2, 331, 3, 64, 64, .05, 1, 1, true, false},
      {"width 64/128 kept", 2, 331, 3, 64, 128, .05, 1, 1, true, true},
      {"width 32/32", 2, 331, 3, 32, 32, .05, 1, 1, true, false},
      {"width 8/24", 2, 70, 3, 8, 24, .05, 1, 1, true, true},
      {"width 96/80", 2, 331, 3, 96, 80, .05, 1, 1, true, false},
      {"width 256/128 one chunk", 1, 64, 1, 256, 128, .05, 1, 1, true, false},
      {"width 256/512", 2, 331, 2, 256, 512, .05, 1, 1, true, false},
      {"width 256/512 kept", 1, 200, 2, 256, 512, .05, 1, 1, true, true},
      {"width 256/512 weak", 1, 500, 2, 256, 512, .002, 1, 1, true, false},
      {"width 256/512 strong", 1, 500, 2, 256, 512, 5, 1, 1, true, false},
      {"width 192/200", 2, 131, 3, 192, 200, .05, 1, 1, true, false},
      {"width 256/64 no gate", 2, 65, 3, 256, 64, 0, 2, 1, true, false},
      // Documents and groups.
      {"packed", 1, 331, 3, 128, 128, .05, 1, 1, true, false, 1, {1, 63, 64, 65, 0, 0, 5}},
      {"packed kept", 1, 500, 3, 128, 128, .5, 1, 1, true, true, 1, {0, 130, 1, 2, 190}},
      {"packed no states", 1, 500, 3, 128, 128, .05, 1, 1, false, false, 1, {100, 101, 102}},
      {"packed one", 1, 500, 3, 128, 128, .05, 1, 1, true, false, 1, {500}},
      {"packed tokens", 1, 70, 2, 128, 128, .05, 1, 1, true, false, 1, std::vector<int>(69, 1)},
      {"packed width 32", 1, 500, 3, 32, 40, .05, 1, 1, true, false, 1, {100, 101, 102}},
      {"packed width 256", 1, 331, 2, 256, 320, .05, 1, 1, true, false, 1, {1, 63, 64, 65, 0, 5}},
      {"packed width 256 kept", 1, 331, 2, 256, 256, .05, 1, 1, true, true, 1, {130, 0, 3}},
      {"packed width 256 long", 1, 1500, 2, 256, 256, .05, 1, 1, true, false, 1, {701}},
      {"groups of 2", 2, 331, 4, 128, 128, .05, 1, 1, true, false, 2},
      {"groups of 3 width 64 packed", 1, 331, 6, 64, 64, .05, 1, 1, true, true, 3, {100, 131}},
      {"groups of 2 width 256 packed", 1, 331, 4, 256, 128, .05, 1, 1, true, false, 2, {100, 131}},
      {"large B4 T2048 H16", 4, 2048, 16, 128, 128, .05, 1, 1, true, true},
      {"large B4 T2048 H16, states again", 4, 2048, 16, 128, 128, .05, 1, 1, true, false},
      {"large 64", 4, 2048, 16, 64, 64, .05, 1, 1, true, false},
      {"large packed", 1, 8192, 16, 128, 128, .05, 1, 1, true, false, 1, ragged_documents(8192)},
      {"large 256/512", 8, 1024, 6, 256, 512, .05, 1, 1, true, false},
  };
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "check", word = argc > 2 ? argv[2] : "";
  const auto chosen = [&](const char* name) {
    return std::string(name).find(word) != std::string::npos;
  };
  bool good = true;
  if (what == "check") {
    const std::uint64_t seed = std::random_device{}();
    std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
    for (const Case& c : checked_cases()) {
      good = (!chosen(c.name) || check(c, seed)) && good;
    }
    good = refuses_bad_sizes() && good;
  } else if (what == "golden" && argc > 2) {
    good = check_all_golden(argv[2], check_golden);
  } else if (what == "repeat") {
    const std::int64_t times = argc > 2 ? std::atoll(argv[2]) : 1000;
    for (const TimedCase& c : timed()) {
      const bool middle = c.shape.name[1] == ' ' && c.shape.gate == .05;
      if (times > 0 && middle && std::strchr(c.shape.name, 'B')) {
        good = repeat(c.shape, times) && good;
      }
    }
    const Case small{"B1 T200 H2 D128", 1, 200, 2, 128, 128, .05, 1, 1, false, false};
    good = repeat(small, argc > 3 ? std::atoll(argv[3]) : 10000) && good;
  } else if (what == "time") {
    Report report("gated_delta", measure_card());
    for (const TimedCase& c : timed()) {
      if (chosen(c.shape.name)) {
        time_case(c, report);
      }
    }
    report.print();
  } else {
    std::printf(
        "gated_delta_bench check [WORD] | golden FILE | repeat [N SMALL_N] | time [WORD]\n");
    return 2;
  }
  std::printf("%s\n", good ? "all ok" : "FAILED");
  return good ? 0 : 1;
}
