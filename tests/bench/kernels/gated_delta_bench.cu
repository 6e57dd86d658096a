// Checks the gated delta rule's kernels against f64 on the host, then times them.
//   gated_delta_bench check | time | repeat | all
// Check: relative RMS error of every output and gradient; outputs and workspaces start as NaN.
#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gated_delta.h"
#include "gated_delta_reference.h"

namespace ls::kernels {
cudaError_t gated_delta_scores(const DeltaSizes&, const DeltaInputs&, void*, cudaStream_t);
cudaError_t gated_delta_reverse(const DeltaSizes&, const DeltaInputs&, const __nv_bfloat16*,
                                const float*, const void*, void*, void*, __nv_bfloat16*, float*,
                                cudaStream_t);
cudaError_t gated_delta_gradients(const DeltaSizes&, const DeltaInputs&, const __nv_bfloat16*,
                                  const void*, void*, void*, const DeltaGradients&, cudaStream_t);
}  // namespace ls::kernels

namespace {

using namespace ls::kernels;
using bf16 = __nv_bfloat16;

void require(cudaError_t error, const char* what, int line) {
  if (error != cudaSuccess) {
    std::printf("line %d: %s: %s\n", line, what, cudaGetErrorString(error));
    std::exit(2);
  }
}
#define LS_RUN(x) require((x), #x, __LINE__)

/// Device memory with a guard behind it; every byte 0xff (a NaN in f32 and bf16) at first.
template <class T>
class Buffer {
 public:
  explicit Buffer(std::size_t n) : n_(n) {
    LS_RUN(cudaMalloc(&p_, bytes() + kGuard));
    poison();
  }
  explicit Buffer(const std::vector<T>& from) : Buffer(from.size()) {
    LS_RUN(cudaMemcpy(p_, from.data(), bytes(), cudaMemcpyHostToDevice));
  }
  ~Buffer() { cudaFree(p_); }
  Buffer(const Buffer&) = delete;
  void poison() { LS_RUN(cudaMemset(p_, 0xff, bytes() + kGuard)); }
  T* get() const { return static_cast<T*>(p_); }
  std::size_t bytes() const { return n_ * sizeof(T); }
  std::vector<T> read() const {
    std::vector<T> to(n_);
    LS_RUN(cudaMemcpy(to.data(), p_, bytes(), cudaMemcpyDeviceToHost));
    return to;
  }
  bool guard_intact() const {
    std::vector<unsigned char> g(kGuard);
    LS_RUN(cudaMemcpy(g.data(), static_cast<char*>(p_) + bytes(), kGuard, cudaMemcpyDeviceToHost));
    return std::all_of(g.begin(), g.end(), [](unsigned char c) { return c == 0xff; });
  }

 private:
  static constexpr std::size_t kGuard = 4096;
  std::size_t n_;
  void* p_ = nullptr;
};

struct Case {
  int batch, tokens, heads, dv;
  double gate;    // log decays are -gate * uniform(0, 2)
  double beta;    // beta uniform in (0, beta), some exactly 0
  double length;  // of keys
  bool states;    // initial state and cotangent of the last one
  bool kept;      // forward leaves the states
  const char* name;
};

double number(float x) {
  return x;
}
double number(bf16 x) {
  return __bfloat162float(x);
}
void round_to(float& to, double x) {
  to = static_cast<float>(x);
}
void round_to(bf16& to, double x) {
  to = __float2bfloat16(static_cast<float>(x));
}

struct Host {
  std::vector<bf16> q, k, v, beta, go;
  std::vector<float> g, s0, gs;
};

Host random_inputs(const Case& c, unsigned seed) {
  Host h;
  const std::size_t th = static_cast<std::size_t>(c.batch) * c.tokens * c.heads;
  const std::size_t states = static_cast<std::size_t>(c.batch) * c.heads * 128 * c.dv;
  const auto fill = [&](auto& to, std::size_t n, double size, unsigned salt) {
    to.resize(n);
    std::mt19937_64 engine(seed * 977 + salt);
    std::normal_distribution<float> normal;
    for (auto& e : to) {
      round_to(e, size * normal(engine));
    }
  };
  fill(h.q, th * 128, 1, 1);
  fill(h.k, th * 128, 1, 2);
  fill(h.v, th * c.dv, 1, 3);
  fill(h.go, th * c.dv, 1, 4);
  fill(h.s0, c.states ? states : 0, 0.3, 5);
  fill(h.gs, c.states ? states : 0, 0.3, 6);
  for (std::size_t i = 0; i < th; ++i) {
    double sum = 0;
    for (int x = 0; x < 128; ++x) {
      sum += number(h.k[i * 128 + x]) * number(h.k[i * 128 + x]);
    }
    for (int x = 0; x < 128; ++x) {
      round_to(h.k[i * 128 + x], number(h.k[i * 128 + x]) * c.length / std::sqrt(sum));
    }
  }
  std::mt19937_64 engine(seed * 977 + 7);
  std::uniform_real_distribution<double> uniform;
  h.g.resize(th);
  h.beta.resize(th);
  for (std::size_t i = 0; i < th; ++i) {
    h.g[i] = static_cast<float>(-c.gate * 2 * uniform(engine));
    round_to(h.beta[i], i % 29 == 5 ? 0 : c.beta * uniform(engine));
  }
  return h;
}

DeltaChain chain_of(const Host& h, const Case& c, int b, int head, double scale) {
  DeltaChain z{c.tokens, 128, c.dv, scale, {}, {}, {}, {}, {}, {}, {}, {}};
  const auto take = [&](std::vector<double>& to, const auto& from, int width) {
    for (int t = 0; t < c.tokens; ++t) {
      const std::size_t at =
          ((static_cast<std::size_t>(b) * c.tokens + t) * c.heads + head) * width;
      for (int x = 0; x < width; ++x) {
        to.push_back(number(from[at + x]));
      }
    }
  };
  take(z.q, h.q, 128);
  take(z.k, h.k, 128);
  take(z.v, h.v, c.dv);
  take(z.go, h.go, c.dv);
  take(z.g, h.g, 1);
  take(z.beta, h.beta, 1);
  const std::size_t size = static_cast<std::size_t>(128) * c.dv;
  const auto state = [&](std::vector<double>& to, const std::vector<float>& from) {
    to.assign(size, 0);
    for (std::size_t i = 0; i < size && c.states; ++i) {
      to[i] = from[(static_cast<std::size_t>(b) * c.heads + head) * size + i];
    }
  };
  state(z.s0, h.s0);
  state(z.gs, h.gs);
  return z;
}

struct Error {
  double difference = 0, size = 0;
  void add(double x, double ref) {
    difference += (x - ref) * (x - ref);
    size += ref * ref;
  }
  /// Relative RMS; NaN when anything was not a number or nothing was compared.
  double value() const {
    return size > 0 ? std::sqrt(difference / size) : difference == 0 ? NAN : INFINITY;
  }
};

/// Element (row, column) of a swizzled tile.
double tile_at(const std::vector<unsigned char>& m, std::size_t base, int row, int column) {
  const std::size_t at = base + row * 128 + ((column * 2) ^ ((row & 7) << 4));
  std::uint16_t bits;
  std::memcpy(&bits, m.data() + at, 2);
  std::uint32_t wide = std::uint32_t{bits} << 16;
  float f;
  std::memcpy(&f, &wide, 4);
  return f;
}

template <class F>
void in_parallel(int n, F f) {
  std::vector<std::thread> threads;
  std::atomic<int> next{0};
  for (unsigned i = 0; i < std::max(1u, std::thread::hardware_concurrency()); ++i) {
    threads.emplace_back([&] {
      for (int j; (j = next++) < n;) {
        f(j);
      }
    });
  }
  for (auto& t : threads) {
    t.join();
  }
}

bool check(const Case& c, unsigned seed) {
  const double scale = 1 / std::sqrt(128.0);
  const Host h = random_inputs(c, seed);
  const DeltaSizes z{c.batch, c.tokens, c.heads, c.dv, static_cast<float>(scale)};
  const std::size_t th = h.beta.size(), size = static_cast<std::size_t>(128) * c.dv;
  const std::size_t chains = static_cast<std::size_t>(c.batch) * c.heads;
  Buffer<bf16> q(h.q), k(h.k), v(h.v), beta(h.beta), go(h.go);
  Buffer<float> g(h.g), s0(h.s0), gs(h.gs);
  Buffer<bf16> o(th * c.dv), dq(th * 128), dk(th * 128), dv(th * c.dv), dbeta(th);
  Buffer<float> s_end(chains * size), ds0(chains * size), dg(th);
  Buffer<unsigned char> kept(z.kept_bytes()), states(z.states_bytes()),
      gradients(z.gradients_bytes());
  const DeltaInputs in{q.get(),    k.get(),
                       v.get(),    c.gate > 0 ? g.get() : nullptr,
                       beta.get(), c.states ? s0.get() : nullptr};
  const DeltaGradients out{dq.get(), dk.get(), dv.get(), dg.get(), dbeta.get(), ds0.get()};
  LS_RUN(gated_delta_forward(z, in, o.get(), s_end.get(), kept.get(),
                             c.kept ? states.get() : nullptr, nullptr));
  LS_RUN(cudaDeviceSynchronize());
  LS_RUN(gated_delta_backward(z, in, go.get(), c.states ? gs.get() : nullptr, kept.get(),
                              states.get(), c.kept, gradients.get(), out, nullptr));
  LS_RUN(cudaDeviceSynchronize());

  constexpr int kNames = 13;
  static const char* const names[kNames] = {"o",   "sT",  "dq",  "dk",  "dv",  "dg",  "dbeta",
                                            "ds0", "[N]", "[P]", "[S]", "[X]", "[dS]"};
  // bf16 operands and results; dg and dbeta are sums of differences of such.
  static const double limits[kNames] = {.006, .006, .008, .008, .008, .02, .008,
                                        .006, .006, .006, .006, .006, .006};
  Error errors[kNames];
  const auto ho = o.read(), hdq = dq.read(), hdk = dk.read(), hdv = dv.read(), hdb = dbeta.read();
  const auto hs = s_end.read(), hds = ds0.read(), hdg = dg.read();
  const auto hkept = kept.read(), hstates = states.read(), hgrad = gradients.read();
  const int checked = static_cast<int>(std::min<std::size_t>(chains, 16));
  std::vector<std::vector<Error>> parts(checked, std::vector<Error>(kNames));
  in_parallel(checked, [&](int i) {
    const int chain = static_cast<int>(i * chains / checked);
    const int b = chain / c.heads, head = chain % c.heads;
    std::vector<DeltaChunk> chunks;
    const DeltaChain given = chain_of(h, c, b, head, scale);
    const DeltaResult ref = delta_by_chunk(given, 64, &chunks);
    auto& e = parts[i];
    for (int t = 0; t < c.tokens; ++t) {
      const std::size_t at = (static_cast<std::size_t>(b) * c.tokens + t) * c.heads + head;
      for (int x = 0; x < c.dv; ++x) {
        e[0].add(number(ho[at * c.dv + x]), ref.o[static_cast<std::size_t>(t) * c.dv + x]);
        e[4].add(number(hdv[at * c.dv + x]), ref.dv[static_cast<std::size_t>(t) * c.dv + x]);
      }
      for (int x = 0; x < 128; ++x) {
        e[2].add(number(hdq[at * 128 + x]), ref.dq[static_cast<std::size_t>(t) * 128 + x]);
        e[3].add(number(hdk[at * 128 + x]), ref.dk[static_cast<std::size_t>(t) * 128 + x]);
      }
      e[5].add(hdg[at], ref.dg[t]);
      e[6].add(number(hdb[at]), ref.dbeta[t]);
    }
    for (std::size_t x = 0; x < size; ++x) {
      e[1].add(hs[chain * size + x], ref.s[x]);
      e[7].add(hds[chain * size + x], ref.ds0[x]);
    }
    const auto given_beta = [&](int n, int x) {
      return 64 * n + x < c.tokens ? given.beta[64 * n + x] : 0;
    };
    for (int n = 0; n < z.chunks(); ++n) {
      const std::size_t record = static_cast<std::size_t>(chain) * z.chunks() + n;
      const DeltaChunk& ck = chunks[n];
      for (int r = 0; r < 64; ++r) {
        for (int x = 0; x < 64; ++x) {
          e[8].add(tile_at(hkept, record * DeltaSizes::kKept, r, x),
                   given_beta(n, x) * ck.n[r * 64 + x]);
          e[9].add(tile_at(hkept, record * DeltaSizes::kKept + 8192, r, x),
                   given_beta(n, x) * ck.p[r * 64 + x]);
        }
        for (int x = 0; x < c.dv; ++x) {
          const std::size_t tile = z.records() * z.state_bytes() + record * z.value_bytes() +
                                   static_cast<std::size_t>(x / 64) * 8192;
          e[11].add(tile_at(hstates, tile, r, x % 64), ck.x[r * c.dv + x]);
        }
      }
      for (int d = 0; d < 128; ++d) {
        for (int x = 0; x < c.dv; ++x) {
          const std::size_t tile =
              record * z.state_bytes() + static_cast<std::size_t>(x / 64) * 16384 + (d / 64) * 8192;
          e[10].add(tile_at(hstates, tile, x % 64, d % 64), ck.s[d * c.dv + x]);
          e[12].add(tile_at(hgrad, tile, x % 64, d % 64), ck.ds[d * c.dv + x]);
        }
      }
    }
  });
  for (const auto& part : parts) {
    for (int i = 0; i < kNames; ++i) {
      errors[i].difference += part[i].difference;
      errors[i].size += part[i].size;
    }
  }
  bool good = true;
  std::string line, bad;
  for (int i = 0; i < kNames; ++i) {
    const double e = errors[i].value();
    char text[64];
    std::snprintf(text, sizeof text, " %s %.4f", names[i], e);
    line += text;
    const bool empty = errors[i].size == 0 && errors[i].difference == 0;
    if (!(e <= limits[i]) && !empty) {
      good = false;
      bad += std::string(" ") + names[i];
    }
  }
  const bool intact = o.guard_intact() && dq.guard_intact() && dk.guard_intact() &&
                      dv.guard_intact() && dbeta.guard_intact() && dg.guard_intact() &&
                      s_end.guard_intact() && ds0.guard_intact() && kept.guard_intact() &&
                      states.guard_intact() && gradients.guard_intact();
  std::printf("%-4s %-26s%s%s%s%s\n", good && intact ? "ok" : "BAD", c.name, line.c_str(),
              bad.empty() ? "" : "  <-", bad.c_str(), intact ? "" : "  guard overwritten");
  std::fflush(stdout);
  return good && intact;
}

template <class F>
double median_ms(F&& f, cudaStream_t stream, unsigned char* flush, std::size_t flush_bytes) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  LS_RUN(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  LS_RUN(f());
  LS_RUN(cudaStreamEndCapture(stream, &graph));
  LS_RUN(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t a, b;
  LS_RUN(cudaEventCreate(&a));
  LS_RUN(cudaEventCreate(&b));
  std::vector<float> times;
  for (int i = 0; i < 35; ++i) {
    LS_RUN(cudaMemsetAsync(flush, 0, flush_bytes, stream));
    LS_RUN(cudaEventRecord(a, stream));
    LS_RUN(cudaGraphLaunch(exec, stream));
    LS_RUN(cudaEventRecord(b, stream));
    LS_RUN(cudaEventSynchronize(b));
    float ms;
    LS_RUN(cudaEventElapsedTime(&ms, a, b));
    if (i >= 5) {
      times.push_back(ms);
    }
  }
  std::sort(times.begin(), times.end());
  cudaEventDestroy(a);
  cudaEventDestroy(b);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  return times[times.size() / 2];
}

struct Problem {
  Case c;
  Host h;
  DeltaSizes z;
  std::size_t th;
  Buffer<bf16> q, k, v, beta, go;
  Buffer<float> g;
  Buffer<bf16> o, dq, dk, dv, dbeta;
  Buffer<float> s_end, dg;
  Buffer<unsigned char> kept, states, gradients;
  explicit Problem(const Case& given)
      : c(given),
        h(random_inputs(c, 99)),
        z{c.batch, c.tokens, c.heads, c.dv, 1 / std::sqrt(128.f)},
        th(h.beta.size()),
        q(h.q),
        k(h.k),
        v(h.v),
        beta(h.beta),
        go(h.go),
        g(h.g),
        o(th * c.dv),
        dq(th * 128),
        dk(th * 128),
        dv(th * c.dv),
        dbeta(th),
        s_end(static_cast<std::size_t>(c.batch) * c.heads * 128 * c.dv),
        dg(th),
        kept(z.kept_bytes()),
        states(z.states_bytes()),
        gradients(z.gradients_bytes()) {}
  DeltaInputs in() const { return {q.get(), k.get(), v.get(), g.get(), beta.get(), nullptr}; }
  DeltaGradients out() const {
    return {dq.get(), dk.get(), dv.get(), dg.get(), dbeta.get(), nullptr};
  }
  cudaError_t forward(bool keep, cudaStream_t s) const {
    return gated_delta_forward(z, in(), o.get(), s_end.get(), kept.get(),
                               keep ? states.get() : nullptr, s);
  }
  cudaError_t backward(bool ready, cudaStream_t s) const {
    return gated_delta_backward(z, in(), go.get(), nullptr, kept.get(), states.get(), ready,
                                gradients.get(), out(), s);
  }
};

void time_case(const Case& c, unsigned char* flush, std::size_t flush_bytes) {
  const Problem p(c);
  cudaStream_t s;
  LS_RUN(cudaStreamCreate(&s));
  const auto time = [&](auto&& f) { return median_ms(f, s, flush, flush_bytes); };
  const double fwd = time([&] { return p.forward(false, s); });
  const double both = time([&] {
    const cudaError_t e = p.forward(false, s);
    return e ? e : p.backward(false, s);
  });
  const double both_kept = time([&] {
    const cudaError_t e = p.forward(true, s);
    return e ? e : p.backward(true, s);
  });
  const double scores = time([&] { return gated_delta_scores(p.z, p.in(), p.kept.get(), s); });
  const auto reverse_with = [&](void* states) {
    return time([&] {
      return gated_delta_reverse(p.z, p.in(), p.go.get(), nullptr, p.kept.get(), states,
                                 p.gradients.get(), p.dv.get(), nullptr, s);
    });
  };
  const double with_states = reverse_with(p.states.get());
  const double fwd_kept = time([&] { return p.forward(true, s); });
  const double reverse = reverse_with(nullptr);
  const double gradients = time([&] {
    return gated_delta_gradients(p.z, p.in(), p.go.get(), p.kept.get(), p.states.get(),
                                 p.gradients.get(), p.out(), s);
  });
  std::printf(
      "%-22s fwd %.4f  fwd+bwd %.4f  keeping states: fwd %.4f fwd+bwd %.4f | scores %.4f "
      "reverse and states %.4f reverse %.4f gradients %.4f\n",
      c.name, fwd, both, fwd_kept, both_kept, scores, with_states, reverse, gradients);
  std::fflush(stdout);
  LS_RUN(cudaStreamDestroy(s));
}

/// The same bits every time?
bool repeat(const Case& c, int times) {
  const Problem p(c);
  std::vector<bf16> o, dq, dk, dv, dbeta;
  std::vector<float> dg, s_end;
  for (int i = 0; i < times; ++i) {
    LS_RUN(p.forward(i % 2, nullptr));
    LS_RUN(p.backward(i % 2, nullptr));
    LS_RUN(cudaDeviceSynchronize());
    if (i == 0) {
      o = p.o.read(), dq = p.dq.read(), dk = p.dk.read(), dv = p.dv.read();
      dbeta = p.dbeta.read(), dg = p.dg.read(), s_end = p.s_end.read();
    } else if (i % 10 == 9 || i == times - 1) {
      const auto same = [](const auto& a, const auto& b) {
        return std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0;
      };
      if (!same(o, p.o.read()) || !same(dq, p.dq.read()) || !same(dk, p.dk.read()) ||
          !same(dv, p.dv.read()) || !same(dbeta, p.dbeta.read()) || !same(dg, p.dg.read()) ||
          !same(s_end, p.s_end.read())) {
        std::printf("BAD  repeat %d of %s differs\n", i, c.name);
        return false;
      }
    }
  }
  std::printf("ok   %d repeats of %s: the same bits\n", times, c.name);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "all";
  cudaDeviceProp properties;
  LS_RUN(cudaGetDeviceProperties(&properties, 0));
  std::printf("%s\n", properties.name);
  bool good = true;
  unsigned seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  if (what == "check" || what == "all") {
    const Case cases[] = {
        {1, 64, 1, 64, .05, 1, 1, false, true, "one chunk"},
        {1, 64, 1, 64, .05, 1, 1, true, true, "one chunk, states"},
        {1, 128, 1, 128, .05, 1, 1, true, true, "two chunks"},
        {2, 1, 3, 128, .05, 1, 1, true, false, "T 1"},
        {2, 63, 3, 128, .05, 1, 1, true, false, "T 63"},
        {2, 65, 3, 128, .05, 1, 1, true, false, "T 65"},
        {2, 331, 3, 128, .05, 1, 1, true, false, "T 331"},
        {2, 331, 3, 256, .05, 1, 1, true, true, "T 331 Dv 256"},
        {2, 500, 3, 128, 0, 1, 1, true, true, "no gate"},
        {2, 500, 3, 128, .002, 1, 1, true, true, "weak gate"},
        {2, 500, 3, 128, 1, 1, 1, true, false, "strong gate"},
        {2, 500, 3, 128, 5, 1, 1, true, false, "very strong gate"},
        {2, 500, 3, 128, .02, 2, 1, true, true, "beta to 2"},
        {2, 500, 3, 128, .5, 1, 1.4, true, false, "longer keys"},
        {4, 2048, 16, 128, .05, 1, 1, false, true, "B4 T2048 H16"},
    };
    for (const Case& c : cases) {
      good = check(c, seed++) && good;
    }
  }
  if (what == "repeat" || what == "all") {
    good = repeat({4, 2048, 16, 128, .05, 1, 1, false, false, "B4 T2048 H16"}, 200) && good;
    good = repeat({1, 200, 2, 128, .05, 1, 1, false, false, "B1 T200 H2"}, 2000) && good;
  }
  if (what == "time" || what == "all") {
    Buffer<unsigned char> flush(256 << 20);
    for (const Case& c : {Case{4, 2048, 16, 128, .05, 1, 1, false, false, "B4 T2048 H16 D128"},
                          Case{2, 16384, 16, 128, .05, 1, 1, false, false, "B2 T16384 H16 D128"},
                          Case{1, 8192, 32, 128, .05, 1, 1, false, false, "B1 T8192 H32 D128"}}) {
      time_case(c, flush.get(), flush.bytes());
    }
  }
  std::printf("%s\n", good ? "all ok" : "FAILED");
  return good ? 0 : 1;
}
