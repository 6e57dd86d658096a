// g = -exp(a_log) softplus(x + dt_bias), or low sigmoid(exp(a_log) (x + dt_bias)), x and g [rows,
// channels]. Forward: a thread owns blocks of rows. Backward: a thread owns channels and goes
// through all rows, so that the sums for the gradients of a_log and dt_bias have one order; the
// gradient of a_log is sum(dg g), or sum(dz z).
#include "core/ops/mamba_gate/mamba_gate.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/backend/cpu/simd_math.h"
#include "core/base/parallel_for.h"
#include "core/op/declare.h"
#include "core/ops/common/elements.h"

namespace ls::ops {
namespace {

// Rows may be short, a number for each head, so that functions run over blocks of many rows.
constexpr Index kBlock = 512;  // elements, about

/// Inputs of one call: z = inner (x + dt_bias), g = outer f(z) with f softplus, inner 1 and outer
/// -exp(a_log), or f the sigmoid, inner exp(a_log) and outer low.
template <class In, class Real>
struct Call {
  const In* x;
  std::vector<Real> bias;
  Index channels, heads, of_head, rows;
  bool bounded;
  std::vector<Real> inner, outer;  // by channel
  Call(const MambaGate::In<TensorView>& in, const MambaGate::Attrs& a)
      : x(in.x.template data<In>()),
        bias(static_cast<std::size_t>(in.x.size(-1))),
        channels(in.x.size(-1)),
        heads(in.a_log.numel()),
        of_head(channels / heads),
        rows(in.x.numel() / std::max<Index>(1, channels)),
        bounded(a.lower_bound < 0) {
    for (Index i = 0; i < channels; ++i) {
      const Real rate = std::exp(in.a_log.template data<Real>()[i / of_head]);
      inner.push_back(bounded ? rate : Real(1));
      outer.push_back(bounded ? Real(a.lower_bound) : -rate);
    }
    if (in.dt_bias.defined()) {
      std::copy_n(in.dt_bias.template data<Real>(), channels, bias.data());
    }
  }
  /// z of rows [r0,r1) and channels [c0,c1).
  void load(Index r0, Index r1, Index c0, Index c1, Real* __restrict z) const {
    const In* from = x + r0 * channels + c0;
    const Real* b = bias.data() + c0;
    const Index n = c1 - c0;
    for (Index r = 0; r < r1 - r0; ++r) {
      for (Index i = 0; i < n; ++i) {
        z[r * n + i] = convert<Real>(from[r * channels + i]) + b[i];
      }
      for (Index i = 0; bounded && i < n; ++i) {
        z[r * n + i] *= inner[static_cast<std::size_t>(c0 + i)];
      }
    }
  }
};

template <class In, class Real>
void forward(const MambaGate::In<TensorView>& in, MambaGate::Out<TensorView>& out,
             const MambaGate::Attrs& a) {
  const Call<In, Real> call(in, a);
  const Index channels = call.channels, block = row_grain(channels, kBlock);
  Real* const g = out.g.data<Real>();
  parallel_for(call.rows, 4 * block, [&](Index first, Index last) {
    for (Index r0 = first; r0 < last; r0 += block) {
      const Index r1 = std::min(last, r0 + block), n = (r1 - r0) * channels;
      Real* __restrict to = g + r0 * channels;
      call.load(r0, r1, 0, channels, to);
      if (call.bounded) {
        for (Index i = 0; i < n; ++i) {
          to[i] = simd::sigmoid(to[i]);
        }
      } else {
        for (Index i = 0; i < n; ++i) {
          to[i] = simd::softplus(to[i]);
        }
      }
      for (Index i = 0; i < n; i += channels) {
        for (Index c = 0; c < channels; ++c) {
          to[i + c] *= call.outer[static_cast<std::size_t>(c)];
        }
      }
    }
  });
}

/// Gradients of channels [c0,c1): dx unless null, and the sums over rows that a_log and dt_bias
/// get from each channel.
template <class In, class Real>
void gradients(const Call<In, Real>& call, const Real* dg, Index c0, Index c1, In* dx, Real* da,
               Real* db) {
  const Index n = c1 - c0, block = row_grain(n, kBlock);
  std::vector<Real> buffer(static_cast<std::size_t>(2 * block * n));
  Real* __restrict const value = buffer.data();
  Real* __restrict const slope = value + block * n;
  for (Index r0 = 0; r0 < call.rows; r0 += block) {
    const Index r1 = std::min(call.rows, r0 + block);
    call.load(r0, r1, c0, c1, value);
    // slope = f'(z), value = what a_log's gradient has in place of it: f(z), or f'(z) z.
    const Index count = (r1 - r0) * n;
    if (call.bounded) {
      for (Index i = 0; i < count; ++i) {
        slope[i] = simd::sigmoid(value[i]) * simd::sigmoid(-value[i]);
        value[i] *= slope[i];
      }
    } else {
      for (Index i = 0; i < count; ++i) {
        slope[i] = simd::sigmoid(value[i]);
        value[i] = simd::softplus(value[i]);
      }
    }
    for (Index r = 0; r < r1 - r0; ++r) {
      const Index at = (r0 + r) * call.channels + c0;
      for (Index i = 0; i < n; ++i) {
        const Real through = dg[at + i] * call.outer[static_cast<std::size_t>(c0 + i)];
        const Real dz = through * slope[r * n + i] * call.inner[static_cast<std::size_t>(c0 + i)];
        da[c0 + i] += through * value[r * n + i];
        db[c0 + i] += dz;
        if (dx) {
          dx[at + i] = convert<In>(dz);
        }
      }
    }
  }
}

template <class In, class Real>
void backward(const MambaGate::In<TensorView>& in, const MambaGate::Out<TensorView>&,
              const MambaGate::Out<TensorView>& dout, MambaGate::In<TensorView>& din,
              const MambaGate::Attrs& a) {
  const Call<In, Real> call(in, a);
  const Real* const dg = dout.g.data<Real>();
  const auto channels = static_cast<std::size_t>(call.channels);
  std::vector<Real> da(channels), db(channels);
  In* const dx = common::elements<In>(din.x);
  constexpr Index kChannels = 64;  // of a thread, at least
  parallel_for(call.channels, kChannels,
               [&](Index c0, Index c1) { gradients(call, dg, c0, c1, dx, da.data(), db.data()); });
  if (din.a_log.defined()) {
    Real* const to = din.a_log.data<Real>();
    for (Index h = 0; h < call.heads; ++h) {
      to[h] = 0;
      for (Index i = h * call.of_head; i < (h + 1) * call.of_head; ++i) {
        to[h] += da[static_cast<std::size_t>(i)];
      }
    }
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
