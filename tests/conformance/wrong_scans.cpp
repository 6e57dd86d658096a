// Wrong scans, each caught by the law that is meant to.
#include <doctest/doctest.h>

#include <cmath>
#include <functional>

#include "core/ops/attention/attention.h"
#include "core/ops/decayed_linear/decayed_linear.h"
#include "core/ops/delta_rule/delta_rule.h"
#include "core/ops/lstm/lstm.h"
#include "core/ops/mlstm/mlstm.h"
#include "core/ops/short_conv/short_conv.h"
#include "core/ops/token_shift/token_shift.h"
#include "tests/support/draw.h"
#include "tests/support/scan_laws.h"

using namespace ls;
using namespace ls::layers;
using namespace ls::test;

namespace {

using Linear = DecayedLinear::In<Tensor>;

/// The right passes, as the wrong ones call them.
using Forward =
    std::function<void(std::span<const Tensor> in, std::span<Tensor> out, const void* attrs)>;
using Backward =
    std::function<void(std::span<const Tensor> in, std::span<const Tensor> out,
                       std::span<const Tensor> dout, std::span<Tensor> din, const void* attrs)>;

/// A family and its op, to be made wrong.
struct Copy {
  OpInfo op;
  ScanInfo family;
  explicit Copy(const char* name)
      : op(*scan_registry().at(name)->op), family(*scan_registry().at(name)) {
    family.op = &op;
    if (!op.kernel(DeviceType::kCpu, DType::kF64)) {  // the reference is the kernel
      op.kernels.push_back(reference());
    }
  }
  Copy(const Copy&) = delete;
  Copy& operator=(const Copy&) = delete;

  Kernel& reference() { return op.references[static_cast<std::size_t>(DType::kF64)]; }
  /// Those that run in f64.
  template <class F>
  void for_kernels(F&& f) {
    for (Kernel& k : op.kernels) {
      if (k.dtype == DType::kF64) {
        f(k);
      }
    }
  }
  /// Replaces the f64 forward pass; `f` gets the right one to call.
  template <class F>
  void forward(F f) {
    for_kernels([&](Kernel& k) {
      k.forward = [f, own = k.forward](std::span<const Tensor> in, std::span<Tensor> out,
                                       std::span<Tensor> kept, const void* attrs) {
        const Forward right = [&](std::span<const Tensor> x, std::span<Tensor> y, const void* a) {
          own(x, y, kept, a);
        };
        f(right, in, out, attrs);
      };
    });
  }
  template <class F>
  void backward(F f) {
    for_kernels([&](Kernel& k) { break_backward(k, f); });
  }
  template <class F>
  static void break_backward(Kernel& k, F f) {
    k.backward = [f, own = k.backward](std::span<const Tensor> in, std::span<const Tensor> out,
                                       std::span<const Tensor> dout, std::span<Tensor> din,
                                       std::span<const Tensor> kept, const void* attrs) {
      const Backward right = [&](std::span<const Tensor> x, std::span<const Tensor> y,
                                 std::span<const Tensor> dy, std::span<Tensor> dx,
                                 const void* a) { own(x, y, dy, dx, kept, a); };
      f(right, in, out, dout, din, attrs);
    };
  }
};

/// The place of an input of decayed_linear.
std::size_t at(const char* input) {
  return static_cast<std::size_t>(op_info<DecayedLinear>().input_index(input));
}

std::vector<Tensor> list(std::span<const Tensor> tensors) {
  return {tensors.begin(), tensors.end()};
}

/// Inputs of tokens [a, b); the members q, k, v, g of decayed_linear.
std::vector<Tensor> tokens(std::span<const Tensor> in, Index a, Index b) {
  std::vector<Tensor> out = list(in);
  for (std::size_t i = 0; i < 4; ++i) {
    if (out[i].defined()) {
      out[i] = out[i].slice(1, a, b);
    }
  }
  return out;
}

ScanCase linear_case() {
  ScanCaseList<ops::DecayedLinear> cases;
  Draw draw("wrong families");
  Linear in{.q = draw.normal({2, 43, 2, 4}),
            .k = draw.normal({2, 43, 2, 4}),
            .v = draw.normal({2, 43, 2, 3})};
  in.g = draw.uniform({2, 43, 2}, -0.5, 0);
  in.s0 = draw.normal({2, 2, 4, 3});
  cases.add("linear", in).mask([](Linear& x, Index a, Index b) {
    x.k.slice(1, a, b).zero_();
    x.g.slice(1, a, b).zero_();
  });
  return cases.cases[0];
}

ScanCase delta_case() {
  ScanCaseList<ops::DeltaRule> cases;
  Draw draw("wrong families, delta");
  ops::DeltaRule::In<Tensor> in{.q = draw.normal({1, 43, 2, 4}),
                                .k = draw.unit_rows({1, 43, 2, 4}),
                                .v = draw.normal({1, 43, 2, 3}),
                                .beta = draw.uniform({1, 43, 2}, 0, 1.5)};
  in.s0 = draw.normal({1, 2, 4, 3});
  cases.add("delta", in).mask([](ops::DeltaRule::In<Tensor>& x, Index a, Index b) {
    x.beta.slice(1, a, b).zero_();
  });
  return cases.cases[0];
}

ScanCase mlstm_case() {
  ScanCaseList<ops::Mlstm> cases;
  Draw draw("wrong families, mlstm");
  const ops::Mlstm::In<Tensor> in{.q = draw.uniform({1, 43, 2, 4}, 0.1, 1),
                                  .k = draw.uniform({1, 43, 2, 4}, 0.1, 1),
                                  .v = draw.normal({1, 43, 2, 3}),
                                  .i = draw.normal({1, 43, 2}),
                                  .f = draw.uniform({1, 43, 2}, -0.01, 0),
                                  .c0 = draw.normal({1, 2, 4, 3}),
                                  .n0 = draw.uniform({1, 2, 4}, 0, 1),
                                  .m0 = draw.normal({1, 2})};
  cases.add("mlstm", in);
  return cases.cases[0];
}

ScanCase attention_case(Index window) {
  ScanCaseList<ops::Attention> cases;
  Draw draw("wrong families, attention");
  ops::Attention::Attrs attrs;
  attrs.scale = 0.4;
  attrs.window = window;
  cases.add("attention",
            {.q = draw.normal({2, 43, 2, 4}),
             .k = draw.normal({2, 43, 1, 4}),
             .v = draw.normal({2, 43, 1, 3})},
            attrs);
  return cases.cases[0];
}

ScanCase conv_case() {
  ScanCaseList<ops::ShortConv> cases;
  Draw draw("wrong families, short_conv");
  cases.add(
      "short_conv",
      {.x = draw.normal({2, 43, 5}), .weight = draw.normal({5, 4}), .s0 = draw.normal({2, 5, 3})});
  return cases.cases[0];
}

ScanCase shift_case() {
  ScanCaseList<ops::TokenShift> cases;
  Draw draw("wrong families, token_shift");
  cases.add("token_shift", {.x = draw.normal({2, 43, 5}), .s0 = draw.normal({2, 5})});
  return cases.cases[0];
}

ScanCase lstm_case() {
  ScanCaseList<ops::Lstm> cases;
  Draw draw("wrong families, lstm");
  cases.add("lstm", {.gx = draw.normal({2, 43, 16}),
                     .r = draw.normal({2, 8, 2}, 0.3),
                     .h0 = draw.uniform({2, 4}, -1, 1),
                     .c0 = draw.normal({2, 4})});
  return cases.cases[0];
}

/// The laws that report a fault, each once.
std::string broken(const ScanInfo& family, const ScanCase& c) {
  std::string laws;
  for (const std::string& line : check_scan(family, c, DType::kF64)) {
    const std::string law = line.substr(0, line.find_first_of(" :")) + " ";
    if (laws.find(law) == std::string::npos) {
      laws += law;
    }
  }
  return laws;
}

bool has(const std::string& laws, const char* law) {
  return laws.find(std::string(law) + " ") != std::string::npos;
}

}  // namespace

TEST_SUITE("conformance") {
  TEST_CASE("scan laws: right families pass where wrong ones are caught") {
    CHECK(broken(Copy("attention").family, attention_case(0)) == "");
    CHECK(broken(Copy("sliding_window").family, attention_case(7)) == "");
    CHECK(broken(Copy("short_conv").family, conv_case()) == "");
    CHECK(broken(Copy("token_shift").family, shift_case()) == "");
    CHECK(broken(Copy("lstm").family, lstm_case()) == "");
    CHECK(broken(Copy("decayed_linear").family, linear_case()) == "");
    CHECK(broken(Copy("delta_rule").family, delta_case()) == "");
    CHECK(broken(Copy("mlstm").family, mlstm_case()) == "");
  }

  TEST_CASE("scan laws: a final state one token behind") {
    Copy wrong("decayed_linear");
    wrong.forward([](const Forward& right, std::span<const Tensor> in, std::span<Tensor> out,
                     const void* attrs) {
      right(in, out, attrs);
      const Index t = in[0].size(1);
      if (t > 1 && !in[at("offsets")].defined()) {
        std::vector<Tensor> o = {Tensor::empty(out[0].slice(1, 0, t - 1).shape(), out[0].dtype()),
                                 out[1]};
        right(tokens(in, 0, t - 1), o, attrs);
      }
    });
    const std::string laws = broken(wrong.family, linear_case());
    CHECK(has(laws, "split"));
    CHECK(has(laws, "decode"));
    CHECK(has(laws, "state"));
  }

  TEST_CASE("scan laws: the last, shorter chunk does not reach the state") {
    Copy wrong("decayed_linear");
    wrong.forward([](const Forward& right, std::span<const Tensor> in, std::span<Tensor> out,
                     const void* attrs) {
      right(in, out, attrs);
      const auto& a = *static_cast<const ops::DecayedLinear::Attrs*>(attrs);
      const Index t = in[0].size(1), whole = a.chunk > 0 ? t / a.chunk * a.chunk : t;
      if (whole < t && !in[at("offsets")].defined()) {
        std::vector<Tensor> o = {Tensor::empty(out[0].slice(1, 0, whole).shape(), out[0].dtype()),
                                 out[1]};
        right(tokens(in, 0, whole), o, attrs);
      }
    });
    CHECK(broken(wrong.family, linear_case()) == "forms ");
  }

  TEST_CASE("scan laws: compose with its arguments swapped") {
    for (const char* name : {"decayed_linear", "delta_rule"}) {
      Copy wrong(name);
      wrong.family.compose = [right = wrong.family.compose](const Tensors& a, const Tensors& b,
                                                            const void* attrs) {
        return right(b, a, attrs);
      };
      CHECK(has(broken(wrong.family, name[2] == 'c' ? linear_case() : delta_case()), "summarize"));
    }
  }

  TEST_CASE("scan laws: compose that is not associative") {
    Copy wrong("decayed_linear");
    wrong.family.compose = [right = wrong.family.compose](const Tensors& a, const Tensors& b,
                                                          const void* attrs) {
      Tensors m = right(a, b, attrs);
      if (a[0].slow_at(0) != 0 && b[0].slow_at(0) != 0) {
        m[0].add_(a[0], 1e-9);
      }
      return m;
    };
    CHECK(has(broken(wrong.family, linear_case()), "associative"));
  }

  TEST_CASE("scan laws: an identity that decays") {
    Copy wrong("decayed_linear");
    wrong.family.identity = [right = wrong.family.identity](std::span<const Tensor> like,
                                                            const void* attrs) {
      Tensors id = right(like, attrs);
      id[1].fill_(1 - 1e-8);
      return id;
    };
    CHECK(has(broken(wrong.family, linear_case()), "identity"));
  }

  TEST_CASE("scan laws: a summary without its decay") {
    Copy wrong("decayed_linear");
    wrong.family.summarize = [right = wrong.family.summarize](std::span<const Tensor> in,
                                                              const void* attrs) {
      Tensors m = right(in, attrs);
      m[1].fill_(1);
      return m;
    };
    const std::string laws = broken(wrong.family, linear_case());
    CHECK(has(laws, "state"));
    CHECK(has(laws, "summarize"));
  }

  TEST_CASE("scan laws: a boundary that a little gets past") {
    Copy wrong("decayed_linear");
    wrong.family.forget = [right = wrong.family.forget](std::span<const Tensor> like,
                                                        const Tensors& fresh, const void* attrs) {
      Tensors m = right(like, fresh, attrs);
      m[1].fill_(2e-9);
      return m;
    };
    CHECK(broken(wrong.family, linear_case()) == "forget ");
  }

  TEST_CASE("scan laws: an adjoint that is not transposed") {
    Copy wrong("delta_rule");
    wrong.family.act_adjoint = [act = wrong.family.act](const Tensors& m, const Tensors&,
                                                        const Tensors& ds, const void* attrs) {
      return act({Tensor::zeros(m[0].shape(), m[0].dtype(), m[0].device()), m[1]}, ds, attrs);
    };
    const std::string laws = broken(wrong.family, delta_case());
    CHECK(has(laws, "adjoint"));
    CHECK(has(laws, "fold"));
  }

  TEST_CASE("scan laws: an adjoint that forgets the running maximum") {
    Copy wrong("mlstm");
    wrong.family.act_adjoint = [right = wrong.family.act_adjoint](
                                   const Tensors& m, const Tensors& s, const Tensors& ds,
                                   const void* attrs) {
      Tensors d = right(m, s, ds, attrs);
      d[2].zero_();
      return d;
    };
    const std::string laws = broken(wrong.family, mlstm_case());
    CHECK(has(laws, "adjoint"));
    CHECK(has(laws, "fold"));
  }

  TEST_CASE("scan laws: documents that see the ones before them") {
    Copy wrong("decayed_linear");
    wrong.forward([](const Forward& right, std::span<const Tensor> in, std::span<Tensor> out,
                     const void* attrs) {
      right(in, out, attrs);
      if (in[at("offsets")].defined() && in[at("offsets")].numel() > 2) {
        std::vector<Tensor> one = list(in),
                            o = {out[0], Tensor::empty(out[1].shape(), out[1].dtype())};
        one[at("offsets")] = Tensor();
        one[at("s0")] =
            in[at("s0")].defined() ? in[at("s0")].slice(0, 0, out[1].size(0)) : Tensor();
        right(one, o, attrs);
      }
    });
    CHECK(broken(wrong.family, linear_case()) == "reset ");
  }

  TEST_CASE("scan laws: a padded token that still decays") {
    Copy wrong("decayed_linear");
    wrong.forward([](const Forward& right, std::span<const Tensor> in, std::span<Tensor> out,
                     const void* attrs) {
      std::vector<Tensor> x = list(in);
      const Tensor& g = in[at("g")];
      x[at("g")] = g.clone().add_(Tensor::full(g.shape(), g.dtype(), -1e-6));
      right(x, out, attrs);
    });
    CHECK(has(broken(wrong.family, linear_case()), "mask"));
  }

  TEST_CASE("scan laws: a gradient that stops at the outgoing state") {
    Copy wrong("delta_rule");
    wrong.backward([](const Backward& right, std::span<const Tensor> in,
                      std::span<const Tensor> out, std::span<const Tensor> dout,
                      std::span<Tensor> din, const void* attrs) {
      const std::vector<Tensor> d = {dout[0], Tensor()};
      right(in, out, d, din, attrs);
    });
    const std::string laws = broken(wrong.family, delta_case());
    CHECK(has(laws, "split"));
    CHECK(has(laws, "fold"));
  }

  TEST_CASE("scan laws: no gradient for the first state") {
    Copy wrong("decayed_linear");
    wrong.backward([](const Backward& right, std::span<const Tensor> in,
                      std::span<const Tensor> out, std::span<const Tensor> dout,
                      std::span<Tensor> din, const void* attrs) {
      right(in, out, dout, din, attrs);
      if (din[at("s0")].defined()) {
        din[at("s0")].zero_();
      }
    });
    const std::string laws = broken(wrong.family, linear_case());
    CHECK(has(laws, "split"));
    CHECK(has(laws, "fold"));
  }

  TEST_CASE("scan laws: one token taken for none") {
    Copy wrong("decayed_linear");
    wrong.forward([](const Forward& right, std::span<const Tensor> in, std::span<Tensor> out,
                     const void* attrs) {
      right(in, out, attrs);
      if (in[0].size(1) == 1 && in[at("s0")].defined()) {
        out[1].copy_(in[at("s0")]);
      }
    });
    CHECK(has(broken(wrong.family, linear_case()), "decode"));
  }

  TEST_CASE("scan laws: kernels that agree with each other but not with the reference") {
    Copy wrong("decayed_linear");
    const auto longer = [](const void* attrs) {
      ops::DecayedLinear::Attrs a = *static_cast<const ops::DecayedLinear::Attrs*>(attrs);
      a.scale *= 1 + 1e-9;
      return a;
    };
    wrong.forward([longer](const Forward& right, std::span<const Tensor> in, std::span<Tensor> out,
                           const void* attrs) {
      const ops::DecayedLinear::Attrs a = longer(attrs);
      right(in, out, &a);
    });
    wrong.backward([longer](const Backward& right, std::span<const Tensor> in,
                            std::span<const Tensor> out, std::span<const Tensor> dout,
                            std::span<Tensor> din, const void* attrs) {
      const ops::DecayedLinear::Attrs a = longer(attrs);
      right(in, out, dout, din, &a);
    });
    CHECK(broken(wrong.family, linear_case()) == "reference reads ");
  }

  TEST_CASE("scan laws: a gradient a little too large, in kernel and reference") {
    Copy wrong("delta_rule");
    const auto larger = [](const Backward& right, std::span<const Tensor> in,
                           std::span<const Tensor> out, std::span<const Tensor> dout,
                           std::span<Tensor> din, const void* attrs) {
      right(in, out, dout, din, attrs);
      din[3].mul_(1.001);
    };
    wrong.backward(larger);
    Copy::break_backward(wrong.reference(), larger);
    CHECK(broken(wrong.family, delta_case()) == "derivative ");
  }

  TEST_CASE("scan laws: a window one token wider than its state") {
    Copy wrong("sliding_window");
    wrong.forward([](const Forward& right, std::span<const Tensor> in, std::span<Tensor> out,
                     const void* attrs) {
      right(in, out, attrs);
      ops::Attention::Attrs wide = *static_cast<const ops::Attention::Attrs*>(attrs);
      wide.window += 1;
      std::vector<Tensor> o =
          run_forward(*op_registry().at("attention"), in, static_cast<const void*>(&wide));
      out[0].copy_(o[0]);
    });
    const std::string laws = broken(wrong.family, attention_case(7));
    CHECK(has(laws, "split"));
    CHECK(has(laws, "decode"));
  }

  TEST_CASE("scan laws: attention that looks back into the document before") {
    for (const Index window : {0, 7}) {
      Copy wrong(window > 0 ? "sliding_window" : "attention");
      wrong.forward([](const Forward& right, std::span<const Tensor> in, std::span<Tensor> out,
                       const void* attrs) {
        std::vector<Tensor> x = list(in);
        x[static_cast<std::size_t>(op_info<ops::Attention>().input_index("start"))] = Tensor();
        right(x, out, attrs);
      });
      CHECK(has(broken(wrong.family, attention_case(window)), "reset"));
    }
  }

  TEST_CASE("scan laws: keys and values composed in the wrong order") {
    Copy wrong("attention");
    wrong.family.compose = [right = wrong.family.compose](const Tensors& a, const Tensors& b,
                                                          const void* attrs) {
      return right(b, a, attrs);
    };
    CHECK(has(broken(wrong.family, attention_case(0)), "summarize"));
  }

  TEST_CASE("scan laws: a window's gradient that goes to the wrong rows") {
    for (const char* name : {"short_conv", "sliding_window"}) {
      Copy wrong(name);
      const bool conv = wrong.family.states.size() == 1;
      wrong.family.act_adjoint = [conv, right = wrong.family.act_adjoint](
                                     const Tensors& m, const Tensors& s, const Tensors& ds,
                                     const void* attrs) {
        Tensors d = conv ? ds : right(m, s, ds, attrs);
        for (std::size_t i = 0; i < ds.size() && !conv; ++i) {  // the newest rows, not the oldest
          d[i] = ds[i].slice(1, ds[i].size(1) - d[i].size(1), ds[i].size(1));
        }
        return d;
      };
      const std::string laws = broken(wrong.family, conv ? conv_case() : attention_case(30));
      CHECK(has(laws, "adjoint"));
      CHECK(has(laws, "fold"));
    }
  }

  TEST_CASE("scan laws: the token before the first is not read") {
    Copy wrong("token_shift");
    wrong.forward([](const Forward& right, std::span<const Tensor> in, std::span<Tensor> out,
                     const void* attrs) {
      std::vector<Tensor> x = list(in);
      x[1] = Tensor();
      right(x, out, attrs);
    });
    const std::string laws = broken(wrong.family, shift_case());
    CHECK(has(laws, "split"));
    CHECK(has(laws, "decode"));
  }

  TEST_CASE("scan laws: a cell value that does not cross the cut, forward or backward") {
    for (const bool forward : {true, false}) {
      Copy wrong("lstm");
      if (forward) {
        wrong.forward([](const Forward& right, std::span<const Tensor> in, std::span<Tensor> out,
                         const void* attrs) {
          std::vector<Tensor> x = list(in);
          x[static_cast<std::size_t>(op_info<ops::Lstm>().input_index("c0"))] = Tensor();
          right(x, out, attrs);
        });
      } else {
        wrong.backward([](const Backward& right, std::span<const Tensor> in,
                          std::span<const Tensor> out, std::span<const Tensor> dout,
                          std::span<Tensor> din, const void* attrs) {
          std::vector<Tensor> d = list(dout);
          d[static_cast<std::size_t>(op_info<ops::Lstm>().output_index("cT"))] = Tensor();
          right(in, out, d, din, attrs);
        });
      }
      const std::string laws = broken(wrong.family, lstm_case());
      CHECK(has(laws, "split"));
      CHECK(has(laws, "decode"));
    }
  }

  TEST_CASE("scan laws: NaN is never right") {
    Copy wrong("decayed_linear");
    wrong.forward([](const Forward& right, std::span<const Tensor> in, std::span<Tensor> out,
                     const void* attrs) {
      right(in, out, attrs);
      out[0].fill_(NAN);
    });
    const std::string laws = broken(wrong.family, linear_case());
    CHECK(has(laws, "zero-state"));
    CHECK(has(laws, "forms"));
  }

  TEST_CASE("scan laws: an exception is a fault") {
    Copy wrong("decayed_linear");
    wrong.family.act = [](const Tensors&, const Tensors&, const void*) -> Tensors {
      LS_FAIL(kInternal, "no act");
    };
    CHECK(has(broken(wrong.family, linear_case()), "exception"));
  }
}
