// One team of threads a row finds its greatest element k times: k is small.
#include "core/ops/top_k/top_k.h"

#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"
#include "core/ops/common/place.cuh"

namespace ls::ops {
namespace {

using Op = TopK;
using common::first_of;
using common::Place;

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const RowPattern rows = *rows_of(in.x.layout());
    const Index n = rows.cols, k = a.k;
    const cuda::RowsIn<T> x(in.x);
    T* const values = out.values.data<T>();
    std::int64_t* const index = out.index.data<std::int64_t>();
    cuda::for_each_row<1>(rows.count, n, [=] __device__(Index r, bool writes, auto team, auto) {
      const T* const row = x.row(r);
      Place<A> last;
      for (Index i = 0; i < k; ++i) {
        Place<A> best;
        for (Index c = team.rank(); c < n; c += team.kSize) {
          const Place<A> here{cuda::to_acc<A>(row[c]), c};
          if ((last.at < 0 || last.before(here)) && here.before(best)) {
            best = here;
          }
        }
        const Index at = first_of(best, team);
        last = {cuda::to_acc<A>(row[at]), at};
        if (writes && team.rank() == 0) {
          values[r * k + i] = row[at];
          index[r * k + i] = at;
        }
      }
    });
  }
  static void backward(const Op::In<TensorView>&, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const Index n = din.x.size(-1), k = a.k, rows = din.x.numel() / n;
    const std::int64_t* const index = out.index.data<std::int64_t>();
    const cuda::RowsIn<T> gvalues(dout.values);
    T* const gx = din.x.data<T>();
    cuda::for_each_row<1>(rows, n, [=] __device__(Index r, bool writes, auto team, auto) {
      for (Index c = team.rank(); writes && c < n; c += team.kSize) {
        T g = cuda::from_acc<T>(A(0));
        for (Index i = 0; i < k; ++i) {
          g = index[r * k + i] == c ? gvalues.row(r)[i] : g;
        }
        gx[r * n + c] = g;
      }
    });
  }
};

LS_KERNEL(TopK)
    .on(DeviceType::kCuda)
    .reads("x values", lies::rows)
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
