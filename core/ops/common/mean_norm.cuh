#pragma once
// The kernel behind layer_norm and group_norm: one team of threads a group of a row, which reads it
// three times, all but the first from cache. Gradients of weight and bias are summed over rows in a
// pass of their own.
#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"
#include "core/ops/common/activations.cuh"

namespace ls::ops {

/// u = x or x silu(z), n = (u - mean) rstd by groups of channels, v = n weight + bias, y = v or
/// v silu(z). Op is LayerNorm or GroupNorm.
template <class Op, class T>
struct MeanNormCall {
  using A = acc_t<T>;
  MeanNormCall(const typename Op::template In<TensorView>& in, const typename Op::Attrs& a)
      : x(in.x),
        z(in.z),
        weight(in.weight.defined() ? in.weight.template data<A>() : nullptr),
        bias(in.bias.defined() ? in.bias.template data<A>() : nullptr),
        before(z && !a.norm_before_gate),
        after(z && a.norm_before_gate),
        eps(static_cast<A>(a.eps)),
        rows(rows_of(in.x.layout())->count),
        cols(rows_of(in.x.layout())->cols),
        groups(a.num_groups),
        channels(cols / groups) {}
  __device__ A at_x(Index r, Index c) const { return cuda::to_acc<A>(x.row(r)[c]); }
  __device__ A at_z(Index r, Index c) const { return cuda::to_acc<A>(z.row(r)[c]); }
  __device__ A input(Index r, Index c) const {
    return before ? at_x(r, c) * act::device_silu(at_z(r, c)) : at_x(r, c);
  }
  __device__ A gain(Index c) const { return weight ? weight[c] : A(1); }
  __device__ A shift(Index c) const { return bias ? bias[c] : A(0); }

  cuda::RowsIn<T> x, z;
  const A *weight, *bias;
  bool before, after;
  A eps;
  Index rows, cols, groups, channels;
};

template <class Op, class T>
struct MeanNormKernel {
  using A = acc_t<T>;
  using In = typename Op::template In<TensorView>;
  using Out = typename Op::template Out<TensorView>;
  using Attrs = typename Op::Attrs;

  static void forward(const In& in, Out& out, const Attrs& a) {
    const MeanNormCall<Op, T> call(in, a);
    T* const y = out.y.template data<T>();
    A* const means = out.mean.template data<A>();
    A* const rstds = out.rstd.template data<A>();
    cuda::for_each_row(
        call.rows * call.groups, call.channels, [=] __device__(Index i, bool writes, auto team) {
          const Index r = i / call.groups, first = i % call.groups * call.channels;
          const Index end = first + call.channels;
          const A count = static_cast<A>(call.channels);
          A sum = 0;
          for (Index c = first + team.rank(); c < end; c += team.kSize) {
            sum += call.input(r, c);
          }
          const A mean = team.sum(sum) / count;
          A square = 0;
          for (Index c = first + team.rank(); c < end; c += team.kSize) {
            const A u = call.input(r, c) - mean;
            square += u * u;
          }
          const A rstd = A(1) / sqrt(team.sum(square) / count + call.eps);
          if (writes && team.rank() == 0) {
            means[i] = mean;
            rstds[i] = rstd;
          }
          for (Index c = first + team.rank(); writes && c < end; c += team.kSize) {
            const A v = (call.input(r, c) - mean) * rstd * call.gain(c) + call.shift(c);
            y[r * call.cols + c] =
                cuda::from_acc<T>(call.after ? v * act::device_silu(call.at_z(r, c)) : v);
          }
        });
  }

  /// du = rstd (dn - mean(dn) - n mean(dn n)) + (dmean - drstd rstd^2 n) / count, where dn is dy
  /// times gain and gate.
  static void backward(const In& in, const Out& out, const Out& dout, In& din, const Attrs& a) {
    const MeanNormCall<Op, T> call(in, a);
    const A* const means = out.mean.template data<A>();
    const A* const rstds = out.rstd.template data<A>();
    const cuda::RowsIn<T> gy(dout.y);
    const A* const gmean = dout.mean.defined() ? dout.mean.template data<A>() : nullptr;
    const A* const grstd = dout.rstd.defined() ? dout.rstd.template data<A>() : nullptr;
    const cuda::RowsTo<T> gx(din.x), gz(din.z);
    if (gx || gz) {
      cuda::for_each_row(
          call.rows * call.groups, call.channels, [=] __device__(Index i, bool writes, auto team) {
            const Index r = i / call.groups, first = i % call.groups * call.channels;
            const Index end = first + call.channels;
            const A count = static_cast<A>(call.channels), mean = means[i], rstd = rstds[i];
            const auto dv = [&](Index c) {
              const A dy = gy ? cuda::to_acc<A>(gy.row(r)[c]) : A(0);
              return call.after ? dy * act::device_silu(call.at_z(r, c)) : dy;
            };
            A sum = 0, product = 0;
            for (Index c = first + team.rank(); c < end; c += team.kSize) {
              const A dn = dv(c) * call.gain(c);
              sum += dn;
              product += dn * (call.input(r, c) - mean) * rstd;
            }
            const A mean_dn = team.sum(sum) / count, mean_product = team.sum(product) / count;
            const A dmean = gmean ? gmean[i] / count : A(0);
            const A drstd = grstd ? grstd[i] * rstd * rstd / count : A(0);
            for (Index c = first + team.rank(); writes && c < end; c += team.kSize) {
              const A n = (call.input(r, c) - mean) * rstd;
              const A du =
                  rstd * (dv(c) * call.gain(c) - mean_dn - n * mean_product) + dmean - drstd * n;
              if (gx) {
                const A dx = call.before ? du * act::device_silu(call.at_z(r, c)) : du;
                gx.row(r)[c] = cuda::from_acc<T>(dx);
              }
              if (gz) {
                const A dy = gy ? cuda::to_acc<A>(gy.row(r)[c]) : A(0);
                const A dgate =
                    call.before ? du * call.at_x(r, c) : dy * (n * call.gain(c) + call.shift(c));
                gz.row(r)[c] = cuda::from_acc<T>(dgate * act::device_silu_slope(call.at_z(r, c)));
              }
            }
          });
    }
    A* const gweight = din.weight.defined() ? din.weight.template data<A>() : nullptr;
    A* const gbias = din.bias.defined() ? din.bias.template data<A>() : nullptr;
    if (gweight || gbias) {
      cuda::column_sums<2, A>(
          call.rows, call.cols, {{gweight, gbias}}, [=] __device__(Index r, Index c, A(&sum)[2]) {
            const Index i = r * call.groups + c / call.channels;
            const A dy = gy ? cuda::to_acc<A>(gy.row(r)[c]) : A(0);
            const A dv = call.after ? dy * act::device_silu(call.at_z(r, c)) : dy;
            sum[0] = dv * (call.input(r, c) - means[i]) * rstds[i];
            sum[1] = dv;
          });
    }
  }
};

}  // namespace ls::ops
