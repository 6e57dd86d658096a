// Summary of a stretch: the sum of its logs of forget gates g [B,H], and what it makes of a memory
// in which there was nothing: C [B,H,Dk,Dv], n [B,H,Dk], and with a running maximum m [B,H], as the
// states are kept. Two that follow one another are brought to the larger maximum and added:
//   m = max(g_b + m_a, m_b),  C = exp(g_b + m_a - m) C_a + exp(m_b - m) C_b
// and so is a state; its action on m is not affine.
#include "core/ops/mlstm/mlstm.h"

#include <cmath>

#include "core/tensor/dispatch.h"
#include "core/tensor/view.h"
#include "layers/scan/scan.h"

namespace ls::layers {
namespace {

using Op = ops::Mlstm;

/// Sums of f [B,T,H] over the tokens: [B,H].
Tensor total(const Tensor& f) {
  Tensor out = Tensor::zeros({f.size(0), f.size(2)}, f.dtype());
  dispatch_float(f.dtype(), [&]<class A>() {
    const View<const A, 3> of(f);
    View<A, 2> to(out);
    for (Index b = 0; b < f.size(0); ++b) {
      for (Index h = 0; h < f.size(2); ++h) {
        double sum = 0;
        for (Index t = 0; t < f.size(1); ++t) {
          sum += convert<double>(of(b, t, h));
        }
        to(b, h) = convert<A>(sum);
      }
    }
  });
  return out;
}

/// f(element) for all heads, in the type of x.
template <class F>
Tensor by_head(const Tensor& like, F&& f) {
  Tensor out = Tensor::empty(like.shape(), like.dtype());
  dispatch_float(like.dtype(), [&]<class A>() {
    for (Index i = 0; i < out.numel(); ++i) {
      out.data<A>()[i] = convert<A>(f(i));
    }
  });
  return out;
}

/// a x + b y, factors by head; y may be absent.
Tensor mix(const Tensor& a, const Tensor& x, const Tensor& b = {}, const Tensor& y = {}) {
  Tensor out = x.clone();
  const Tensor plus = y.defined() ? y.contiguous() : y;
  const Index n = a.numel() > 0 ? x.numel() / a.numel() : 0;
  dispatch_float(x.dtype(), [&]<class A>() {
    A* const to = out.data<A>();
    for (Index i = 0; i < x.numel(); ++i) {
      const double f = a.slow_at(i / n) * convert<double>(to[i]);
      const double g = y.defined() ? b.slow_at(i / n) * convert<double>(plus.data<A>()[i]) : 0.0;
      to[i] = convert<A>(f + g);
    }
  });
  return out;
}

/// Scalar products by head, like [B,H].
Tensor dots(const Tensor& like, const Tensor& x, const Tensor& y) {
  const auto a = x.to_vector<double>(), b = y.to_vector<double>();
  const std::size_t n = like.numel() > 0 ? a.size() / static_cast<std::size_t>(like.numel()) : 0;
  return by_head(like, [&](Index head) {
    double sum = 0;
    for (std::size_t i = static_cast<std::size_t>(head) * n, last = i + n; i < last; ++i) {
      sum += a[i] * b[i];
    }
    return sum;
  });
}

/// Two memories at one maximum.
struct Joint {
  Tensor m, earlier, later;  ///< [B,H]; factors of both
  Joint(const Tensor& g, const Tensor& m_earlier, const Tensor& m_later) {
    const auto largest = [&](Index i) {
      return std::max(g.slow_at(i) + m_earlier.slow_at(i), m_later.slow_at(i));
    };
    m = by_head(g, largest);
    earlier = by_head(
        g, [&](Index i) { return std::exp(g.slow_at(i) + (m_earlier.slow_at(i) - largest(i))); });
    later = by_head(g, [&](Index i) { return std::exp(m_later.slow_at(i) - largest(i)); });
  }
};

Tensor exponentials(const Tensor& x) {
  return by_head(x, [&](Index i) { return std::exp(x.slow_at(i)); });
}
Tensor sum(const Tensor& a, const Tensor& b) {
  Tensor out = a.clone();
  out.add_(b);
  return out;
}

/// (g, C, n, m).
struct Stabilized {
  static Tensors summarize(Op::In<Tensor> in, const Op::Attrs& attrs) {
    in.m0 = Tensor::full({in.v.size(0), in.v.size(2)}, in.f.dtype(), Op::kNothing);
    const auto out = call_op<Op>(in, attrs);
    return {total(in.f), out.cT, out.nT, out.mT};
  }
  static Tensors identity(const Op::In<Tensor>& like, const Op::Attrs&) {
    const DType t = like.f.dtype();
    const Index b = like.v.size(0), h = like.v.size(2), dk = like.k.size(3), dv = like.v.size(3);
    return {Tensor::zeros({b, h}, t), Tensor::zeros({b, h, dk, dv}, t),
            Tensor::zeros({b, h, dk}, t), Tensor::full({b, h}, t, Op::kNothing)};
  }
  static Tensors compose(const Tensors& a, const Tensors& b) {
    const Joint z(b[0], a[3], b[3]);
    return {sum(a[0], b[0]), mix(z.earlier, a[1], z.later, b[1]),
            mix(z.earlier, a[2], z.later, b[2]), z.m};
  }
  static Tensors act(const Tensors& x, const Tensors& s) {
    const Joint z(x[0], s[2], x[3]);
    return {mix(z.earlier, s[0], z.later, x[1]), mix(z.earlier, s[1], z.later, x[2]), z.m};
  }
  /// m moves the outgoing maximum where it is the larger one, and then the factor of what the
  /// stretch wrote; else the factor of the state.
  static Tensors act_adjoint(const Tensors& x, const Tensors& s, const Tensors& ds) {
    const Joint z(x[0], s[2], x[3]);
    const Tensor kept = sum(dots(z.m, s[0], ds[0]), dots(z.m, s[1], ds[1]));
    const Tensor written = sum(dots(z.m, x[1], ds[0]), dots(z.m, x[2], ds[1]));
    const Tensor dm = by_head(z.m, [&](Index i) {
      return x[0].slow_at(i) + s[2].slow_at(i) > x[3].slow_at(i)
                 ? ds[2].slow_at(i) - z.later.slow_at(i) * written.slow_at(i)
                 : z.earlier.slow_at(i) * kept.slow_at(i);
    });
    return {mix(z.earlier, ds[0]), mix(z.earlier, ds[1]), dm};
  }
  static Tensors forget(const Op::In<Tensor>& like, const Tensors& fresh, const Op::Attrs& attrs) {
    Tensors x = identity(like, attrs);
    x[0].fill_(Op::kNothing);
    for (std::size_t i = 0; i < fresh.size(); ++i) {
      x[i + 1] = fresh_state(fresh[i], x[i + 1].shape(), x[i + 1].dtype());
    }
    return x;
  }
};

/// (g, C, n).
struct Plain {
  static Tensors summarize(const Op::In<Tensor>& in, const Op::Attrs& attrs) {
    const auto out = call_op<Op>(in, attrs);
    return {total(in.f), out.cT, out.nT};
  }
  static Tensors identity(const Op::In<Tensor>& like, const Op::Attrs& attrs) {
    Tensors id = Stabilized::identity(like, attrs);
    id.pop_back();
    return id;
  }
  static Tensors compose(const Tensors& a, const Tensors& b) {
    const Tensors to = act(b, {a[1], a[2]});
    return {sum(a[0], b[0]), to[0], to[1]};
  }
  static Tensors act(const Tensors& x, const Tensors& s) {
    const Tensor kept = exponentials(x[0]);
    return {sum(mix(kept, s[0]), x[1]), sum(mix(kept, s[1]), x[2])};
  }
  static Tensors act_adjoint(const Tensors& x, const Tensors& ds) {
    const Tensor kept = exponentials(x[0]);
    return {mix(kept, ds[0]), mix(kept, ds[1])};
  }
  static Tensors forget(const Op::In<Tensor>& like, const Tensors& fresh, const Op::Attrs& attrs) {
    Tensors x = Stabilized::forget(like, {fresh[0], fresh[1], {}}, attrs);
    x.pop_back();
    return x;
  }
};

LS_SCAN(Op, "mlstm", "C = exp(f) C + exp(i) k v^T, n alike, both times exp(-m); m = max(f + m, i)")
    .family("mlstm", FamilyKind::kFixed)
    .applies([](const Op::Attrs& a) { return a.stabilize; })
    .state("C", "c0", "cT", StatePart::kMatrix)
    .state("n", "n0", "nT", StatePart::kVector)
    .state("m", "m0", "mT", StatePart::kVector)
    .chunked()
    .parallel()
    .summary<Stabilized>();

LS_SCAN(Op, "mlstm_sigmoid", "C = exp(f) C + exp(i) k v^T, n alike; i <= 0")
    .family("mlstm", FamilyKind::kFixed)
    .applies([](const Op::Attrs& a) { return !a.stabilize; })
    .state("C", "c0", "cT", StatePart::kMatrix)
    .state("n", "n0", "nT", StatePart::kVector)
    .chunked()
    .parallel()
    .summary<Plain>();

}  // namespace
}  // namespace ls::layers
