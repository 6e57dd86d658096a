// Sums in f64. Where the last axis goes away a team of threads makes one element of y; else a
// thread does, so that neighbouring threads read neighbours.
#include "core/ops/reduce/reduce.h"

#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"
#include "core/ops/common/place.cuh"
#include "core/ops/reduce/axes.h"

namespace ls::ops {
namespace {

using Op = Reduce;
using Kind = Op::Kind;

/// Extents and steps of some axes of a contiguous tensor, innermost first; axes that lie one behind
/// the other are one.
struct Axes {
  Index extent[kMaxRank] = {}, step[kMaxRank] = {}, count = 1;
  int rank = 0;
  void add(Index n, Index apart) {
    count *= n;
    if (n == 1) {
      return;
    }
    if (rank > 0 && apart == step[rank - 1] * extent[rank - 1]) {
      extent[rank - 1] *= n;
      return;
    }
    extent[rank] = n;
    step[rank++] = apart;
  }
  __device__ Index offset(Index i) const {
    Index at = 0;
    for (int a = 0; a < rank; ++a) {
      at += (a + 1 < rank ? i % extent[a] : i) * step[a];
      i /= extent[a];
    }
    return at;
  }
};
struct Split {
  Axes kept, gone;
  bool last_goes = true;
  Split(const Shape& shape, const Op::Attrs& a) {
    const auto reduced = reduced_axes(shape, a);
    const Shape strides = shape.contiguous_strides();
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      (reduced[axis] ? gone : kept).add(shape[axis], strides[axis]);
    }
    last_goes = kept.rank == 0 || kept.step[0] != 1;
  }
};

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const Split split(in.x.shape(), a);
    if (a.kind == Kind::kMax) {
      return greatest(split, in.x.data<T>(), out.y.data<T>(), out.index.data<std::int64_t>());
    }
    const double by = a.kind == Kind::kMean ? static_cast<double>(split.gone.count) : 1;
    sum(split, in.x.data<T>(), out.y.data<T>(), by);
  }
  static void sum(const Split& split, const T* x, T* y, double by) {
    const Axes kept = split.kept, gone = split.gone;
    if (split.last_goes) {
      cuda::for_each_row<1>(kept.count, gone.count,
                            [=] __device__(Index i, bool writes, auto team, auto) {
                              const T* const from = x + kept.offset(i);
                              double sum = 0;
                              for (Index k = team.rank(); k < gone.count; k += team.kSize) {
                                sum += cuda::to_acc<double>(from[gone.offset(k)]);
                              }
                              sum = team.sum(sum);
                              if (writes && team.rank() == 0) {
                                y[i] = cuda::from_acc<T>(static_cast<A>(sum / by));
                              }
                            });
      return;
    }
    cuda::for_each<1>(cuda::RowShape(1, kept.count), [=] __device__(Index, Index i, auto) {
      const T* const from = x + kept.offset(i);
      double sum = 0;
      for (Index k = 0; k < gone.count; ++k) {
        sum += cuda::to_acc<double>(from[gone.offset(k)]);
      }
      y[i] = cuda::from_acc<T>(static_cast<A>(sum / by));
    });
  }
  static void greatest(const Split& split, const T* x, T* y, std::int64_t* index) {
    const Axes kept = split.kept, gone = split.gone;
    cuda::for_each_row<1>(kept.count, gone.count,
                          [=] __device__(Index i, bool writes, auto team, auto) {
                            const T* const from = x + kept.offset(i);
                            common::Place<A> best;
                            for (Index k = team.rank(); k < gone.count; k += team.kSize) {
                              const common::Place<A> here{cuda::to_acc<A>(from[gone.offset(k)]), k};
                              best = here.before(best) ? here : best;
                            }
                            const Index at = common::first_of(best, team);
                            if (writes && team.rank() == 0) {
                              y[i] = from[gone.offset(at)];
                              index[i] = at;
                            }
                          });
  }
  static void backward(const Op::In<TensorView>&, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const Split split(din.x.shape(), a);
    const Axes kept = split.kept, gone = split.gone;
    const bool is_max = a.kind == Kind::kMax;
    const std::int64_t* const index = is_max ? out.index.data<std::int64_t>() : nullptr;
    const T* const gy = dout.y.data<T>();
    T* const gx = din.x.data<T>();
    const A by = a.kind == Kind::kMean ? static_cast<A>(gone.count) : A(1);
    // Neighbouring threads write neighbours.
    const bool last_goes = split.last_goes;
    const Index rows = last_goes ? kept.count : gone.count;
    const Index cols = last_goes ? gone.count : kept.count;
    cuda::for_each<1>(cuda::RowShape(rows, cols).apart(), [=] __device__(Index r, Index c, auto) {
      const Index i = last_goes ? r : c, k = last_goes ? c : r;
      const bool counts = !is_max || index[i] == k;
      gx[kept.offset(i) + gone.offset(k)] =
          cuda::from_acc<T>(counts ? cuda::to_acc<A>(gy[i]) / by : A(0));
    });
  }
};

LS_KERNEL(Reduce).on(DeviceType::kCuda).kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
