// sum = x + residual and y = sum rstd weight, both [rows, d], in one pass; NOTES.md of rms_norm has
// the gradient. Forward: a thread owns rows. Backward: it owns whole pieces of the rows, of which
// there are kPieces whatever the thread count, each with its own sum [d] of the weight's gradient.
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/base/parallel_for.h"
#include "core/op/declare.h"
#include "core/ops/add_rms_norm/add_rms_norm.h"
#include "core/ops/common/rms_rows.h"
#include "core/tensor/rows.h"
#include "core/tensor/tensor.h"

namespace ls::ops {
namespace {

using Op = AddRmsNorm;

template <class T>
void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
  using A = acc_t<T>;
  const Rows x(in.x), residual(in.residual);
  const A* __restrict w = in.weight.data<A>();
  const Index d = x.cols;
  T* sum = out.sum.data<T>();
  T* y = out.y.data<T>();
  A* rstd = out.rstd.data<A>();
  parallel_for(x.count, row_grain(d), [&](Index r0, Index r1) {
    for (Index r = r0; r < r1; ++r) {
      const T* __restrict xp = x.row<T>(r);
      const T* __restrict rp = residual.row<T>(r);
      T* __restrict sp = sum + r * d;
      T* __restrict yp = y + r * d;
      A square = 0;
#pragma omp simd reduction(+ : square)
      for (Index c = 0; c < d; ++c) {
        sp[c] = convert<T>(convert<A>(xp[c]) + convert<A>(rp[c]));
        const A v = convert<A>(sp[c]);
        square += v * v;
      }
      const A k = A(1) / std::sqrt(square / static_cast<A>(d) + static_cast<A>(a.eps));
      rstd[r] = k;
      for (Index c = 0; c < d; ++c) {
        yp[c] = convert<T>(convert<A>(sp[c]) * k * w[c]);
      }
    }
  });
}

template <class T>
void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
              const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
  using A = acc_t<T>;
  const A* w = in.weight.data<A>();
  const T* sum = out.sum.data<T>();
  const A* rstd = out.rstd.data<A>();
  const Index d = out.sum.size(-1), rows = d > 0 ? out.sum.numel() / d : 0;
  const Tensor zero = dout.y.defined() ? Tensor() : Tensor::zeros({1, d}, out.sum.dtype());
  const Rows dy(dout.y.defined() ? dout.y : TensorView(zero)),
      dsum(dout.sum.defined() ? dout.sum : out.sum);
  TensorView& wanted = din.x.defined() ? din.x : din.residual;
  T* const dx = wanted.defined() ? wanted.data<T>() : nullptr;
  using rms::kPieces;
  std::vector<A> sums(static_cast<std::size_t>(kPieces * d));
  parallel_for(kPieces, row_grain(rows * d, 8192 * kPieces), [&](Index p0, Index p1) {
    std::vector<A> buffer(static_cast<std::size_t>(3 * d));
    std::vector<T> unwanted(static_cast<std::size_t>(d));
    for (Index p = p0; p < p1; ++p) {
      for (Index r = rows * p / kPieces; r < rows * (p + 1) / kPieces; ++r) {
        const auto row = [&]<bool kExtra>() {
          rms::backward_row<rms::Gating::kNone, act::Silu, kExtra>(
              sum + r * d, static_cast<const T*>(nullptr), w, rstd[r],
              dy.row<T>(dout.y.defined() ? r : 0), dsum.row<T>(r), d, buffer.data(),
              dx ? dx + r * d : unwanted.data(), static_cast<T*>(nullptr), sums.data() + p * d);
        };
        dout.sum.defined() ? row.template operator()<true>() : row.template operator()<false>();
      }
    }
  });
  if (din.weight.defined()) {
    rms::add_pieces(sums.data(), d, din.weight.data<A>());
  }
}

LS_KERNEL(AddRmsNorm)
    .reads("x residual sum y", lies::rows)
    .types<double, float, bf16>([]<class T>() { return std::pair(&forward<T>, &backward<T>); });

}  // namespace
}  // namespace ls::ops
