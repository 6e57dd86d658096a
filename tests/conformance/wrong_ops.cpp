// Wrong ops, each caught by the check that is meant to.
#include <doctest/doctest.h>

#include <cmath>
#include <set>
#include <utility>

#include "core/base/parallel_for.h"
#include "core/base/rng.h"
#include "core/tensor/rows.h"
#include "tests/support/op_checks.h"

using namespace ls;
using namespace ls::test;

namespace {

/// y = factor x w (w per channel), total = sum of x^2 of each head.
enum class Fault {
  kNone,
  kMissedTail,
  kOffByOne,
  kUnwritten,
  kUnwrittenGradient,
  kStale,
  kNan,
  kSwapped,
  kFactor,
  kForgotten,
  kDroppedOutput,
  kFactorInKernel,
  kPastEnd,
  kInPlace,
  kInPlaceGradient,
  kNoStrides,
  kGradientNoStrides,
  kThreads,
  kSubset,
  kAbsent,
  kPlaceNoStrides,
  kPlaceOverrun,
  kErrorKind,
  kErrorText,
  kNoCost,
  kNegativeCost,
  kInfiniteCost,
};

template <Fault F>
struct Toy {
  template <class T>
  struct In {
    T x, w;
  };
  template <class T>
  struct Out {
    T y, total;
  };
  struct Attrs {
    double factor = 1;
    void fields(auto&& f) const { f("factor", factor, "what x is multiplied by"); }
  };
};

/// The right loops, in which `F` breaks one thing. Only mistakes of derivation are in the
/// reference; the others are in the kernel.
template <Fault F, class T, bool kernel>
struct Loops {
  using Op = Toy<F>;
  using In = typename Op::template In<TensorView>;
  using Out = typename Op::template Out<TensorView>;
  using A = acc_t<T>;
  static constexpr bool has(Fault f) { return kernel && F == f; }

  static void forward(const In& in, Out& out, const typename Op::Attrs& a) {
    const TensorView &x = in.x, &w = in.w;
    const Index heads = x.size(2), d = x.size(3), n = x.numel();
    const T* xp = static_cast<const T*>(std::as_const(x).raw());
    const auto* wp = static_cast<const A*>(std::as_const(w).raw());
    T* y = out.y.template data<T>();
    A* total = out.total.template data<A>();
    Index end = n;
    if (has(Fault::kMissedTail)) {
      end = n / 8 * 8;
      std::fill(y + end, y + n, convert<T>(A(0)));
    }
    if (has(Fault::kUnwritten)) {
      end = n - 1;
    }
    if (has(Fault::kPastEnd)) {
      static bool done = false;  // the first call is on guarded buffers, later ones are not
      end = std::exchange(done, true) ? n : n + 1;
    }
    static std::vector<double> stale;
    std::vector<double> fresh(static_cast<std::size_t>(heads));
    if (has(Fault::kStale)) {
      stale.resize(fresh.size());
    }
    std::vector<double>& sums = has(Fault::kStale) ? stale : fresh;
    const Index shift = has(Fault::kOffByOne) ? 1 : 0;
    for (Index i = 0; i < end; ++i) {
      const A v = convert<A>(xp[std::min(i, n - 1)]);
      y[i] = convert<T>(static_cast<A>(a.factor) * v * wp[(i + shift) % d]);
      if (i < n) {
        sums[static_cast<std::size_t>(i / d % heads)] +=
            static_cast<double>(v) * static_cast<double>(v);
      }
    }
    if (has(Fault::kSwapped)) {
      const Index tokens = x.size(1);
      const std::vector<T> right(y, y + n);
      for (Index i = 0; i < n; ++i) {  // [B,T,H,D] as if it were [B,H,T,D]
        const Index t = i / d / heads % tokens, h = i / d % heads, b = i / d / heads / tokens;
        y[i] = right[static_cast<std::size_t>(((b * heads + h) * tokens + t) * d + i % d)];
      }
    }
    if (has(Fault::kNan)) {
      y[n / 2] = convert<T>(static_cast<A>(NAN));
    }
    if (has(Fault::kInPlace)) {
      const_cast<T*>(xp)[0] = convert<T>(A(1));
    }
    for (Index h = 0; h < heads; ++h) {
      total[h] = static_cast<A>(sums[static_cast<std::size_t>(h)]);
      if (has(Fault::kThreads) && num_threads() == 3) {
        total[h] = std::nextafter(total[h], A(0));
      }
    }
  }

  static void backward(const In& in, const Out&, const Out& dout, In& din,
                       const typename Op::Attrs& a) {
    const TensorView &x = in.x, &w = in.w;
    const Index heads = x.size(2), d = x.size(3), n = x.numel();
    const std::vector<T> no_dy(dout.y.defined() ? 0 : static_cast<std::size_t>(n), T(0.0f));
    const bool given = dout.total.defined() && F != Fault::kDroppedOutput;
    const std::vector<A> no_dtotal(given ? 0 : static_cast<std::size_t>(heads),
                                   has(Fault::kAbsent) ? A(1) : A(0));
    const T* const xp = x.template data<T>();
    const T* const gp = dout.y.defined() ? dout.y.template data<T>() : no_dy.data();
    const A* const wp = w.template data<A>();
    const A* const sp = given ? dout.total.template data<A>() : no_dtotal.data();
    const A factor = static_cast<A>(a.factor);
    std::vector<double> dw(static_cast<std::size_t>(d));
    const RowsOut<T> dx(din.x);
    for (Index i = 0; i < n; ++i) {
      const A g = convert<A>(gp[i]), v = convert<A>(xp[i]);
      dw[static_cast<std::size_t>(i % d)] += static_cast<double>(factor * g * v);
      if (din.x.defined() && !(has(Fault::kUnwrittenGradient) && i + 1 == n)) {
        A slope = factor * g * wp[i % d] + A(2) * v * sp[i / d % heads];
        if (F == Fault::kFactor || has(Fault::kFactorInKernel)) {
          slope *= A(1.001);
        }
        if (has(Fault::kPlaceNoStrides)) {
          din.x.template data<T>()[i] = convert<T>(slope);
        } else {
          dx.row(i / d)[i % d] = convert<T>(slope);
        }
        if (has(Fault::kPlaceOverrun) && !dx.dense() && i + 1 == n) {
          dx.row(i / d)[d] = convert<T>(slope);
        }
      }
    }
    if (has(Fault::kInPlaceGradient)) {
      const_cast<T*>(gp)[0] = convert<T>(A(1));
    }
    for (Index c = 0; c < d && din.w.defined(); ++c) {
      const bool lost = F == Fault::kForgotten || (has(Fault::kSubset) && !din.x.defined());
      din.w.template data<A>()[c] = lost ? A(0) : static_cast<A>(dw[static_cast<std::size_t>(c)]);
    }
  }
};

template <Fault F>
struct Register {
  template <class T>
  using Reference = Loops<F, T, false>;

  static Cost cost(const typename Toy<F>::template In<ShapeOf>& in, const typename Toy<F>::Attrs&) {
    const auto n = static_cast<double>(in.x.numel());
    return {.bytes = F == Fault::kNegativeCost ? -n : 2 * n,
            .flops = F == Fault::kInfiniteCost ? INFINITY : n};
  }
  static void bind(const typename Toy<F>::template In<ShapeOf>& in, const typename Toy<F>::Attrs&,
                   Bindings& b) {
    const bool fits = b["D"] == b["E"];
    LS_CHECK(fits || F != Fault::kErrorKind, kConfig, "{}: argument w has {}", name(),
             in.w.describe());
    LS_CHECK(fits || F != Fault::kErrorText, kShape, "the sizes differ");
    LS_CHECK(fits, kShape, "{}: argument w has {}", name(), in.w.describe());
  }
  static const std::string& name() { return op_info<Toy<F>>().name; }
  static bool as(const char* name) {
    OpBuilder<Toy<F>> builder(name, "a toy");
    builder.in("x[B,T,H,D] w[E]:acc")
        .bind(&bind)
        .out("y[B,T,H,D] total[H]:acc")
        .saves("x w")
        .template reference<Reference>();
    if (F != Fault::kNoCost) {
      builder.cost(&cost);
    }
    KernelBuilder<Toy<F>> kernels;
    if (F == Fault::kNoStrides) {
      kernels.reads("x", lies::anyhow);
    }
    if (F == Fault::kGradientNoStrides) {
      kernels.reads("y", lies::anyhow);
    }
    kernels.strided_grad("x").template types<float>([]<class T>() {
      return std::pair(&Loops<F, T, true>::forward, &Loops<F, T, true>::backward);
    });
    return builder;
  }
};

struct Wrong {
  std::string name;
  std::string caught_by;  ///< the check that is meant to catch it
  OpCase (*make)();
};

template <Fault F>
OpCase toy_case() {
  CaseList<Toy<F>> cases;
  Draw draw("toy");
  cases.add("toy", {.x = draw.normal({2, 3, 2, 5}), .w = draw.normal({5})}, {1.5});
  return cases.cases[0];
}

template <Fault F>
Wrong wrong(const char* name, const char* caught_by) {
  Register<F>::as(name);
  return {name, caught_by, &toy_case<F>};
}

const std::vector<Wrong>& wrong_ops() {
  static const std::vector<Wrong> all = {
      wrong<Fault::kNone>("test.right", ""),
      wrong<Fault::kMissedTail>("test.missed_tail", "value"),
      wrong<Fault::kOffByOne>("test.off_by_one", "value"),
      wrong<Fault::kUnwritten>("test.unwritten", "unwritten"),
      wrong<Fault::kUnwrittenGradient>("test.unwritten_gradient", "unwritten"),
      wrong<Fault::kStale>("test.stale", "repeat"),
      wrong<Fault::kNan>("test.nan", "value"),
      wrong<Fault::kSwapped>("test.swapped", "value"),
      wrong<Fault::kFactor>("test.factor", "derivative"),
      wrong<Fault::kForgotten>("test.forgotten", "derivative"),
      wrong<Fault::kDroppedOutput>("test.dropped_output", "derivative"),
      wrong<Fault::kFactorInKernel>("test.factor_in_kernel", "value"),
      wrong<Fault::kPastEnd>("test.past_end", "guard"),
      wrong<Fault::kInPlace>("test.in_place", "inputs"),
      wrong<Fault::kInPlaceGradient>("test.in_place_gradient", "inputs"),
      wrong<Fault::kNoStrides>("test.no_strides", "strides"),
      wrong<Fault::kGradientNoStrides>("test.gradient_no_strides", "strides"),
      wrong<Fault::kThreads>("test.threads", "threads"),
      wrong<Fault::kSubset>("test.subset", "subset"),
      wrong<Fault::kAbsent>("test.absent", "absent"),
      wrong<Fault::kPlaceNoStrides>("test.place_no_strides", "places"),
      wrong<Fault::kPlaceOverrun>("test.place_overrun", "places"),
      wrong<Fault::kErrorKind>("test.error_kind", "refusal"),
      wrong<Fault::kErrorText>("test.error_text", "refusal"),
      wrong<Fault::kNoCost>("test.no_cost", "cost"),
      wrong<Fault::kNegativeCost>("test.negative_cost", "cost"),
      wrong<Fault::kInfiniteCost>("test.infinite_cost", "cost"),
  };
  return all;
}
[[maybe_unused]] const std::size_t registered = wrong_ops().size();

/// The checks that find a fault.
std::set<std::string> found(const std::vector<std::string>& faults) {
  std::set<std::string> checks;
  for (const std::string& line : faults) {
    checks.insert(line.substr(0, line.find(':')));
  }
  return checks;
}

/// The sizes here are not worth a second thread; the thread check asks for more itself.
struct OneThread {
  OneThread() { set_num_threads(1); }
  ~OneThread() { set_num_threads(0); }
};

}  // namespace

TEST_SUITE("conformance") {
  TEST_CASE("ops: wrong ones are caught by the check that is meant to") {
    const OneThread one_thread;
    for (const Wrong& w : wrong_ops()) {
      const std::vector<std::string> faults = check_op(*op_registry().at(w.name), w.make());
      std::string all;
      for (const std::string& line : faults) {
        all += "\n" + line;
      }
      CHECK_MESSAGE((w.caught_by.empty() ? faults.empty() : found(faults).count(w.caught_by) > 0),
                    w.name << " by '" << w.caught_by << "': " << all);
    }
  }
}
