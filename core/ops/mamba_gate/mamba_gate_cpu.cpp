// g = -exp(a_log) softplus(x + dt_bias), x and g [rows, heads]. Forward: a thread owns blocks of
// rows. Backward: one thread goes through all blocks, with sums [heads] for the gradients of a_log
// and dt_bias; the gradient of a_log is sum(dg g).
#include "core/ops/mamba_gate/mamba_gate.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/backend/cpu/simd_math.h"
#include "core/base/parallel_for.h"

namespace ls::ops {
namespace {

// Rows are short, a number for each head, so that functions run over blocks of many rows.
constexpr Index kBlock = 512;  // elements, about

/// Inputs of one call: z = x + dt_bias, g = -exp(a_log) softplus(z).
template <class In, class Real>
struct Call {
  Tensor x, a_log, bias;
  Index heads, rows, block;  // block: rows
  std::vector<Real> scale;   // -exp(a_log)
  explicit Call(const MambaGate::In<Tensor>& in)
      : x(in.x.contiguous()),
        a_log(in.a_log.contiguous()),
        bias(in.dt_bias.defined() ? in.dt_bias.contiguous()
                                  : Tensor::zeros(a_log.shape(), a_log.dtype())),
        heads(a_log.numel()),
        rows(x.numel() / std::max<Index>(1, heads)),
        block(row_grain(heads, kBlock)) {
    for (Index h = 0; h < heads; ++h) {
      scale.push_back(-std::exp(std::as_const(a_log).template data<Real>()[h]));
    }
  }
  void load(Index r0, Index r1, Real* __restrict z) const {
    const In* from = std::as_const(x).template data<In>() + r0 * heads;
    const Real* b = std::as_const(bias).template data<Real>();
    for (Index r = 0; r < r1 - r0; ++r) {
      for (Index h = 0; h < heads; ++h) {
        z[r * heads + h] = convert<Real>(from[r * heads + h]) + b[h];
      }
    }
  }
};

template <class In, class Real>
void forward(const MambaGate::In<Tensor>& in, MambaGate::Out<Tensor>& out,
             const MambaGate::Attrs&) {
  const Call<In, Real> call(in);
  const Index heads = call.heads;
  Real* const g = out.g.data<Real>();
  parallel_for(call.rows, 4 * call.block, [&](Index first, Index last) {
    for (Index r0 = first; r0 < last; r0 += call.block) {
      const Index r1 = std::min(last, r0 + call.block), n = (r1 - r0) * heads;
      Real* __restrict to = g + r0 * heads;
      call.load(r0, r1, to);
      for (Index i = 0; i < n; ++i) {
        to[i] = simd::softplus(to[i]);
      }
      for (Index i = 0; i < n; i += heads) {
        for (Index h = 0; h < heads; ++h) {
          to[i + h] *= call.scale[h];
        }
      }
    }
  });
}

template <class In, class Real>
void backward(const MambaGate::In<Tensor>& in, const MambaGate::Out<Tensor>&,
              const MambaGate::Out<Tensor>& dout, MambaGate::In<Tensor>& din,
              const MambaGate::Attrs&) {
  const Call<In, Real> call(in);
  const Index heads = call.heads;
  const Tensor dg = dout.g.contiguous();
  std::vector<Real> da(static_cast<std::size_t>(heads)), db(static_cast<std::size_t>(heads));
  std::vector<Real> buffer(static_cast<std::size_t>(2 * call.block * heads));
  Real* __restrict const value = buffer.data();
  Real* __restrict const slope = value + call.block * heads;
  In* const dx = din.x.defined() ? din.x.data<In>() : nullptr;
  // In one order: the sums do not depend on the threads.
  for (Index r0 = 0; r0 < call.rows; r0 += call.block) {
    const Index r1 = std::min(call.rows, r0 + call.block), n = (r1 - r0) * heads;
    const Real* d = dg.data<Real>() + r0 * heads;
    call.load(r0, r1, value);
    for (Index i = 0; i < n; ++i) {
      slope[i] = simd::sigmoid(value[i]);
      value[i] = simd::softplus(value[i]);
    }
    for (Index i = 0; i < n; i += heads) {
      for (Index h = 0; h < heads; ++h) {
        const auto at = static_cast<std::size_t>(h);
        const Real through = d[i + h] * call.scale[at], dz = through * slope[i + h];
        da[at] += through * value[i + h];
        db[at] += dz;
        if (dx) {
          dx[r0 * heads + i + h] = convert<In>(dz);
        }
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

LS_KERNEL(MambaGate).types<double, float, bf16>([]<class T>() {
  return std::pair(&forward<T, acc_t<T>>, &backward<T, acc_t<T>>);
});

}  // namespace
}  // namespace ls::ops
