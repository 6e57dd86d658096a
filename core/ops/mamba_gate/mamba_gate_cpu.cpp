#include "core/ops/mamba_gate/mamba_gate.h"

#include <cmath>

#include "core/backend/cpu/parallel_for.h"

namespace ls {
namespace {

template <class Real>
Real softplus(Real x) {
  return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
}
template <class Real>
Real sigmoid(Real x) {
  const Real e = std::exp(-std::abs(x));
  return x >= 0 ? Real(1) / (Real(1) + e) : e / (Real(1) + e);
}

// `In` is the element type of x, `Real` that of everything else.
template <class In, class Real>
void gate_forward(const MambaGate::In<Tensor>& in, MambaGate::Out<Tensor>& out,
                  const MambaGate::Attrs&) {
  const Tensor x = in.x.contiguous();
  const Tensor a = in.a_log.contiguous();
  const Tensor bias =
      in.dt_bias.defined() ? in.dt_bias.contiguous() : Tensor::zeros(a.shape(), a.dtype());
  const Index h = a.numel(), rows = x.numel() / h;
  std::vector<Real> scale(static_cast<std::size_t>(h));
  for (Index i = 0; i < h; ++i) {
    scale[static_cast<std::size_t>(i)] = -std::exp(a.data<Real>()[i]);
  }
  const In* xp = x.data<In>();
  const Real* bp = bias.data<Real>();
  Real* gp = out.g.data<Real>();
  parallel_for(rows, 512, [&](Index r0, Index r1) {
    for (Index r = r0; r < r1; ++r) {
      for (Index i = 0; i < h; ++i) {
        gp[r * h + i] =
            scale[static_cast<std::size_t>(i)] * softplus(convert<Real>(xp[r * h + i]) + bp[i]);
      }
    }
  });
}

template <class In, class Real>
void gate_backward(const MambaGate::In<Tensor>& in, const MambaGate::Out<Tensor>&,
                   const MambaGate::Out<Tensor>& dout, MambaGate::In<Tensor>& din,
                   const MambaGate::Attrs&) {
  const Tensor x = in.x.contiguous();
  const Tensor a = in.a_log.contiguous();
  const Tensor bias =
      in.dt_bias.defined() ? in.dt_bias.contiguous() : Tensor::zeros(a.shape(), a.dtype());
  const Tensor dg = dout.g.contiguous();
  const Index h = a.numel(), rows = x.numel() / h;
  const In* xp = x.data<In>();
  const Real* bp = bias.data<Real>();
  const Real* dp = dg.data<Real>();
  std::vector<Real> da(static_cast<std::size_t>(h)), db(static_cast<std::size_t>(h)),
      scale(static_cast<std::size_t>(h));
  for (Index i = 0; i < h; ++i) {
    scale[static_cast<std::size_t>(i)] = -std::exp(a.data<Real>()[i]);
  }
  In* dx = din.x.defined() ? din.x.data<In>() : nullptr;
  for (Index r = 0; r < rows; ++r) {
    for (Index i = 0; i < h; ++i) {
      const auto j = static_cast<std::size_t>(i);
      const Real z = convert<Real>(xp[r * h + i]) + bp[i];
      const Real d = dp[r * h + i] * scale[j];
      const Real dz = d * sigmoid(z);
      da[j] += d * softplus(z);
      db[j] += dz;
      if (dx) {
        dx[r * h + i] = convert<In>(dz);
      }
    }
  }
  if (din.a_log.defined()) {
    std::copy(da.begin(), da.end(), din.a_log.data<Real>());
  }
  if (din.dt_bias.defined()) {
    std::copy(db.begin(), db.end(), din.dt_bias.data<Real>());
  }
}

LS_KERNEL(MambaGate)
    .forward<double>(&gate_forward<double, acc_t<double>>)
    .backward<double>(&gate_backward<double, acc_t<double>>)
    .forward<float>(&gate_forward<float, acc_t<float>>)
    .backward<float>(&gate_backward<float, acc_t<float>>)
    .forward<bf16>(&gate_forward<bf16, acc_t<bf16>>)
    .backward<bf16>(&gate_backward<bf16, acc_t<bf16>>);

}  // namespace
}  // namespace ls
