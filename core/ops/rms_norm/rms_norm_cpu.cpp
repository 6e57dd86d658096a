// Rows of d channels in groups of n, each normalised by common/rms_rows.h; NOTES.md has the
// gradient. Forward: a thread owns rows and a buffer [2, n]. Backward: it owns whole pieces of the
// rows, of which there are kPieces whatever the thread count, each with its own sum [d] of the
// gain's gradient, and a buffer [3, n].
#include <algorithm>
#include <vector>

#include "core/base/parallel_for.h"
#include "core/op/declare.h"
#include "core/ops/common/rms_rows.h"
#include "core/ops/rms_norm/rms_norm.h"
#include "core/tensor/rows.h"

namespace ls::ops {
namespace {
using rms::Gating;
using rms::kAhead;

constexpr Index kGrain = 8192;  // elements

/// fn.operator()<gating, activation>()
template <class Fn>
void dispatch(bool gated, const RmsNorm::Attrs& a, Fn&& fn) {
  const auto with = [&]<Gating kGating>() {
    a.gate_sigmoid ? fn.template operator()<kGating, act::Sigmoid>()
                   : fn.template operator()<kGating, act::Silu>();
  };
  if (!gated) {
    fn.template operator()<Gating::kNone, act::Silu>();
  } else if (a.norm_before_gate) {
    with.template operator()<Gating::kAfter>();
  } else {
    with.template operator()<Gating::kBefore>();
  }
}

/// What the normalised channels are multiplied by.
template <class A>
std::vector<A> gains_of(const TensorView& weight, double offset, Index d) {
  std::vector<A> gain(static_cast<std::size_t>(d), A(1));
  if (weight.defined()) {
    for (Index c = 0; c < d; ++c) {
      gain[c] = static_cast<A>(offset) + weight.data<A>()[c];
    }
  }
  return gain;
}

template <class T>
void forward(const RmsNorm::In<TensorView>& in, RmsNorm::Out<TensorView>& out,
             const RmsNorm::Attrs& a) {
  using A = acc_t<T>;
  const Rows x(in.x), z(in.z.defined() ? in.z : in.x);
  const Index d = x.cols, n = a.group_size > 0 ? a.group_size : d;
  const std::vector<A> gain = gains_of<A>(in.weight, a.weight_offset, d);
  T* y = out.y.data<T>();
  A* rstd = out.rstd.data<A>();
  dispatch(in.z.defined(), a, [&]<Gating kGating, class Act>() {
    parallel_for(x.count, row_grain(d, kGrain), [&](Index r0, Index r1) {
      std::vector<A> buffer(static_cast<std::size_t>(2 * n));
      for (Index r = r0; r < r1; ++r) {
        x.prefetch<T>(r + kAhead);
        z.prefetch<T>(r + kAhead);
        for (Index c = 0; c < d; c += n) {
          rstd[(r * d + c) / n] =
              rms::forward_row<kGating, Act>(x.row<T>(r) + c, z.row<T>(r) + c, gain.data() + c, n,
                                             static_cast<A>(a.eps), buffer.data(), y + r * d + c);
        }
      }
    });
  });
}

template <class T>
void backward(const RmsNorm::In<TensorView>& in, const RmsNorm::Out<TensorView>& out,
              const RmsNorm::Out<TensorView>& dout, RmsNorm::In<TensorView>& din,
              const RmsNorm::Attrs& a) {
  using A = acc_t<T>;
  const Rows x(in.x), z(in.z.defined() ? in.z : in.x), dy(dout.y);
  const Index d = x.cols, n = a.group_size > 0 ? a.group_size : d;
  const std::vector<A> gain = gains_of<A>(in.weight, a.weight_offset, d);
  const A* rstd = out.rstd.data<A>();
  const RowsOut<T> dx(din.x), dz(din.z);
  using rms::kPieces;
  std::vector<A> sums(static_cast<std::size_t>(kPieces * d));
  dispatch(in.z.defined(), a, [&]<Gating kGating, class Act>() {
    parallel_for(kPieces, row_grain(x.count * d, kGrain * kPieces), [&](Index p0, Index p1) {
      std::vector<A> buffer(static_cast<std::size_t>(3 * n));
      std::vector<T> unwanted(static_cast<std::size_t>(2 * d));
      for (Index p = p0; p < p1; ++p) {
        A* const sum = sums.data() + p * d;
        for (Index r = x.count * p / kPieces; r < x.count * (p + 1) / kPieces; ++r) {
          x.prefetch<T>(r + kAhead);
          z.prefetch<T>(r + kAhead);
          dy.prefetch<T>(r + kAhead);
          T* const to_x = dx.defined() ? dx.row(r) : unwanted.data();
          T* const to_z = dz.defined() ? dz.row(r) : unwanted.data() + d;
          for (Index c = 0; c < d; c += n) {
            rms::backward_row<kGating, Act, false>(x.row<T>(r) + c, z.row<T>(r) + c,
                                                   gain.data() + c, rstd[(r * d + c) / n],
                                                   dy.row<T>(r) + c, static_cast<const T*>(nullptr),
                                                   n, buffer.data(), to_x + c, to_z + c, sum + c);
          }
        }
      }
    });
  });
  if (din.weight.defined()) {
    rms::add_pieces(sums.data(), d, din.weight.data<A>());
  }
}

LS_KERNEL(RmsNorm)
    .reads("x z y", lies::rows)
    .strided_grad("x z")
    .types<double, float, bf16>([]<class T>() { return std::pair(&forward<T>, &backward<T>); });

}  // namespace
}  // namespace ls::ops
