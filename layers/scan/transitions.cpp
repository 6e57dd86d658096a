#include "layers/scan/transitions.h"

#include "autograd/call.h"
#include "autograd/functional.h"
#include "autograd/tape.h"
#include "core/ops/matmul/matmul.h"
#include "core/ops/mul/mul.h"
#include "core/ops/running_max/running_max.h"
#include "core/ops/scale_add/scale_add.h"

namespace ls::layers {
namespace {

using ag::Var;
using Vars = Transition::Vars;

Tensor product(const Tensor& a, const Tensor& b) {
  return call_op<ops::Matmul>({.a = a, .b = b}).c;
}
Tensor sum(const Tensor& a, const Tensor& b) {
  return a.clone().add_(b);
}

/// factor x + base, a factor for all elements behind its axes; base may be absent.
Var scaled(const Var& factor, const Var& x, const Var& base = {}) {
  const Index groups = factor.size(-1), n = x.value().numel(), all = factor.value().numel();
  if (n == 0) {
    return base.defined() ? base : x;
  }
  const Index rows = all / groups;
  const Shape flat{rows, n / rows};
  const auto rows_of = [&](const Var& v) { return v.defined() ? ag::reshape(v, flat) : Var(); };
  return ag::reshape(
      ag::call<ops::ScaleAdd>(
          {.x = rows_of(x), .factor = ag::reshape(factor, {rows, groups}), .base = rows_of(base)})
          .y,
      x.shape());
}

// ---- decay

Vars decay_act(const Vars& written, const Vars& decay, const Vars& states, Index) {
  Vars out;
  for (std::size_t i = 0; i < states.size(); ++i) {
    out.push_back(scaled(decay[0], states[i], written[i]));
  }
  return out;
}
Tensors decay_join(const Tensors& a, const Tensors& b) {
  return {call_op<ops::Mul>({.a = a[0], .b = b[0]}).y};
}
Tensor ones_like(const Tensor& state) {
  return Tensor::full(state.shape(), state.dtype(), 1, state.device());
}
Tensor ones_column(const Tensor& state) {
  return Tensor::full(with_columns(state.shape(), 1), state.dtype(), 1, state.device());
}

// ---- dense, shift

/// [...,P,Q] with the leading axes of m [...,P,P].
Var columns(const Var& x, const Var& m) {
  const Index elements = m.value().numel();
  return ag::reshape(
      x, with_columns(m.shape(), elements > 0 ? x.value().numel() * m.size(-1) / elements : 0));
}
Vars dense_act(const Vars& written, const Vars& m, const Vars& states, Index) {
  const Var moved = ag::call<ops::Matmul>({.a = m[0], .b = columns(states[0], m[0])}).c;
  return {ag::add(ag::reshape(moved, states[0].shape()), written[0])};
}
Tensors dense_join(const Tensors& a, const Tensors& b) {
  return {product(b[0], a[0])};
}
/// Unit matrices in place of the last two axes.
Tensor unit_matrices(const Tensor& state) {
  const Index n = state.size(-2);
  const Shape shape = with_columns(state.shape(), n);
  std::vector<double> eye(static_cast<std::size_t>(n * n), 0);
  for (Index i = 0; i < n; ++i) {
    eye[static_cast<std::size_t>(i * (n + 1))] = 1;
  }
  Tensor unit = Tensor::from(eye, {n, n}).to(state.dtype()).to(state.device());
  while (unit.rank() < shape.rank()) {
    unit = unit.unsqueeze(0);
  }
  return unit.expand(shape).clone();
}

Vars shift_act(const Vars& written, const Vars& m, const Vars& states, Index) {
  Shape rows{m[0].size(0), 1, m[0].size(-1)};
  const Index each = rows[0] * rows[2];
  rows[1] = each > 0 ? states[0].value().numel() / each : 0;
  const Var moved = ag::call<ops::Matmul>({.a = ag::reshape(states[0], rows), .b = m[0]}).c;
  return {ag::add(ag::reshape(moved, states[0].shape()), written[0])};
}
Tensors shift_join(const Tensors& a, const Tensors& b) {
  return {product(a[0], b[0])};
}

// ---- concatenation

Vars concat_act(const Vars& written, const Vars&, const Vars& states, Index window) {
  Vars out;
  for (std::size_t i = 0; i < states.size(); ++i) {
    const Var all = ag::concat({states[i], written[i]}, 1);
    const Index rows = all.size(1), kept = window >= 0 ? std::min(rows, window) : rows;
    out.push_back(ag::slice(all, 1, rows - kept, rows));
  }
  return out;
}
Tensors concat_join(const Tensors&, const Tensors&) {
  return {};
}
/// Of rows of the states that are still kept: those that left the window have no gradient.
Tensors concat_adjoint(const Tensors& written, const Tensors& dstates) {
  Tensors d;
  for (std::size_t i = 0; i < dstates.size(); ++i) {
    d.push_back(dstates[i].slice(1, 0, dstates[i].size(1) - written[i].size(1)));
  }
  return d;
}

// ---- running maximum

Vars max_act(const Vars& written, const Vars& g, const Vars& states, Index) {
  const auto at = ag::call<ops::RunningMax>({.g = g[0], .a = states.back(), .b = written.back()});
  Vars out;
  for (std::size_t i = 0; i + 1 < states.size(); ++i) {
    out.push_back(scaled(at.earlier, states[i], scaled(at.later, written[i])));
  }
  out.push_back(at.m);
  return out;
}
Tensors max_join(const Tensors& a, const Tensors& b) {
  return {sum(a[0], b[0])};
}

void keep_nothing(Tensors& transition) {
  transition[0].zero_();
}

Tensors values_of(const Vars& vars) {
  Tensors out;
  for (const Var& v : vars) {
    out.push_back(v.value());
  }
  return out;
}
Vars from(const Tensors& list, std::size_t begin, std::size_t end) {
  return {list.begin() + static_cast<std::ptrdiff_t>(begin),
          list.begin() + static_cast<std::ptrdiff_t>(end)};
}

}  // namespace

Shape with_columns(Shape shape, Index n) {
  shape[shape.rank() - 1] = n;
  return shape;
}

namespace transitions {

constinit const Transition kDiagonal{.name = "diagonal",
                                     .contract = "decay[...]:acc",
                                     .act = decay_act,
                                     .join = decay_join,
                                     .forget = keep_nothing,
                                     .unit = ones_column};
constinit const Transition kElementwise{.name = "elementwise",
                                        .contract = "decay[...]:acc",
                                        .act = decay_act,
                                        .join = decay_join,
                                        .forget = keep_nothing,
                                        .unit = ones_like};
constinit const Transition kDense{.name = "dense",
                                  .contract = "M[...,P_,P_]:acc",
                                  .act = dense_act,
                                  .join = dense_join,
                                  .forget = keep_nothing,
                                  .unit = unit_matrices};
constinit const Transition kShift{.name = "shift",
                                  .contract = "M[N,W_,W_]:acc",
                                  .act = shift_act,
                                  .join = shift_join,
                                  .forget = keep_nothing};
constinit const Transition kConcatenation{.name = "concatenation",
                                          .contract = "",
                                          .act = concat_act,
                                          .join = concat_join,
                                          .adjoint = concat_adjoint};
constinit const Transition kRunningMax{.name = "running maximum",
                                       .contract = "g[N,H]:acc",
                                       .affine = false,
                                       .act = max_act,
                                       .join = max_join,
                                       .forget = [](Tensors& t) { t[0].fill_(kNothing); }};

Tensor shift_by(Index rows, Index w, Index n, DType dtype, Device& device) {
  std::vector<double> m(static_cast<std::size_t>(w * w), 0);
  for (Index j = 0; j + n < w; ++j) {
    m[static_cast<std::size_t>((j + n) * w + j)] = 1;
  }
  return Tensor::from(m, {1, w, w}).to(dtype).to(device).expand({rows, w, w}).clone();
}

}  // namespace transitions

Tensors act(const Transition& t, const Tensors& summary, const Tensors& states, Index window) {
  const ag::NoGrad no_grad;
  const std::size_t n = states.size();
  return values_of(
      t.act(from(summary, 0, n), from(summary, n, summary.size()), from(states, 0, n), window));
}

Tensors act_adjoint(const Transition& t, const Tensors& summary, const Tensors& states,
                    const Tensors& dstates, Index window) {
  const std::size_t n = dstates.size();
  const Tensors written(summary.begin(), summary.begin() + static_cast<std::ptrdiff_t>(n));
  if (t.adjoint) {
    return t.adjoint(written, dstates);
  }
  Vars at;
  for (std::size_t i = 0; i < n; ++i) {
    // Where act is affine its derivative is the same everywhere.
    at.push_back(Var::leaf(i < states.size() ? states[i] : written[i]));
  }
  const ag::EnableGrad enable;
  ag::Tape tape;
  const Vars out = t.act(from(summary, 0, n), from(summary, n, summary.size()), at, window);
  tape.backward(out, dstates);
  Tensors d;
  for (const Var& s : at) {
    d.push_back(s.grad().defined() ? s.grad()
                                   : Tensor::zeros(s.shape(), s.dtype(), s.value().device()));
  }
  return d;
}

Tensors compose(const Transition& t, const Tensors& earlier, const Tensors& later,
                std::size_t states, Index window) {
  const auto behind = static_cast<std::ptrdiff_t>(states);
  Tensors out = act(t, later, {earlier.begin(), earlier.begin() + behind}, window);
  for (Tensor& m :
       t.join({earlier.begin() + behind, earlier.end()}, {later.begin() + behind, later.end()})) {
    out.push_back(std::move(m));
  }
  return out;
}

}  // namespace ls::layers
