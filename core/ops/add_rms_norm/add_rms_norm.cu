// One team of threads a row. The norm is that of the rounded sum. The row is held in registers, and
// the gradient of the weight summed beside that of the sum; rows that are too long are read twice,
// the second time from cache, and the weight has a pass of its own.
#include "core/ops/add_rms_norm/add_rms_norm.h"

#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"
#include "core/ops/common/norm_rows.cuh"

namespace ls::ops {
namespace {

using Op = AddRmsNorm;

template <class T>
struct Inputs {
  cuda::RowsIn<T> x, residual;
  const acc_t<T>* weight;
  acc_t<T> eps;
  Index rows, cols;
};

template <class T, int kThreads, int kPacks>
__global__ void __launch_bounds__(common::kHeldThreads<kThreads>)
    held_forward(Inputs<T> in, cuda::RowsTo<T> sum, cuda::RowsTo<T> y, acc_t<T>* rstd) {
  using A = acc_t<T>;
  constexpr int kWidth = cuda::kPack<T>;
  using Row = common::HeldRow<kThreads, kWidth, kPacks>;
  const int cols = static_cast<int>(in.cols);
  common::each_held_row<kThreads>(in.rows, [&](Index r, bool writes) {
    A v[kPacks][kWidth], square = 0;
    Row::each(cols, [&](int p, int c) {
      A u[kWidth];
      cuda::load(in.x.row(r) + c, u);
      cuda::load(in.residual.row(r) + c, v[p]);
      for (int i = 0; i < kWidth; ++i) {
        v[p][i] = cuda::to_acc<A>(cuda::from_acc<T>(v[p][i] + u[i]));
        square += v[p][i] * v[p][i];
      }
      if (writes) {
        cuda::store(sum.row(r) + c, v[p]);
      }
    });
    const A k = A(1) / sqrt(Row::Team::sum(square) / static_cast<A>(cols) + in.eps);
    if (writes && Row::Team::rank() == 0) {
      rstd[r] = k;
    }
    Row::each(writes ? cols : 0, [&](int p, int c) {
      A w[kWidth];
      cuda::load(in.weight + c, w);
      for (int i = 0; i < kWidth; ++i) {
        v[p][i] *= k * w[i];
      }
      cuda::store(y.row(r) + c, v[p]);
    });
  });
}

/// What the backward pass reads of the forward pass, and the gradients that come in.
template <class T>
struct Outputs {
  cuda::RowsIn<T> sum, gsum, gy;
  const acc_t<T>*weight, *rstd;
  Index rows, cols;
};

template <class T, int kThreads, int kPacks>
__global__ void __launch_bounds__(common::kHeldThreads<kThreads>)
    held_backward(Outputs<T> from, cuda::RowsTo<T> gx, acc_t<T>* partial) {
  using A = acc_t<T>;
  constexpr int kWidth = cuda::kPack<T>;
  using Row = common::HeldRow<kThreads, kWidth, kPacks>;
  const int cols = static_cast<int>(from.cols);
  A sums[1][kPacks][kWidth] = {};
  A weight[kPacks][kWidth];
  Row::each(cols, [&](int p, int c) { cuda::load(from.weight + c, weight[p]); });
  common::each_held_row<kThreads>(from.rows, [&](Index r, bool writes) {
    common::HeldPacks<T, kPacks> ss, dys, dss;
    const A k = from.rstd[r];
    A product = 0;
    Row::each(cols, [&](int p, int c) {
      ss[p] = cuda::load_pack<kWidth>(from.sum.row(r) + c);
      dys[p] = cuda::load_pack<kWidth>(from.gy.row(r) + c);
      if (from.gsum) {
        dss[p] = cuda::load_pack<kWidth>(from.gsum.row(r) + c);
      }
      A s[kWidth], dy[kWidth];
      cuda::unpack(ss[p], s);
      cuda::unpack(dys[p], dy);
      for (int i = 0; i < kWidth; ++i) {
        product += dy[i] * weight[p][i] * s[i];
      }
    });
    const A along = k * k * k * Row::Team::sum(product) / static_cast<A>(cols);
    Row::each(writes ? cols : 0, [&](int p, int c) {
      A s[kWidth], dy[kWidth], ds[kWidth] = {};
      cuda::unpack(ss[p], s);
      cuda::unpack(dys[p], dy);
      if (from.gsum) {
        cuda::unpack(dss[p], ds);
      }
      for (int i = 0; i < kWidth; ++i) {
        sums[0][p][i] += dy[i] * s[i] * k;
        ds[i] += k * dy[i] * weight[p][i] - s[i] * along;
      }
      if (gx) {
        cuda::store(gx.row(r) + c, ds);
      }
    });
  });
  if (partial) {
    common::add_up_teams<kThreads, kWidth, kPacks, 1>(cols, sums, partial);
  }
}

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const RowPattern rows = *rows_of(in.x.layout());
    const Index n = rows.cols;
    const cuda::RowsIn<T> x(in.x), residual(in.residual);
    const cuda::RowsTo<T> sum(out.sum), y(out.y);
    const A* const weight = in.weight.data<A>();
    A* const rstd = out.rstd.data<A>();
    const A eps = static_cast<A>(a.eps);
    const Inputs<T> inputs{x, residual, weight, eps, rows.count, n};
    if (common::with_held_rows<T>(n, [&]<int kThreads, int kPacks>() {
          cuda::launch(&held_forward<T, kThreads, kPacks>,
                       common::held_blocks<kThreads>(inputs.rows, false),
                       dim3(common::kHeldThreads<kThreads>), 0, inputs, sum, y, rstd);
        })) {
      return;
    }
    cuda::for_each_row<T>(rows.count, n,
                          [=] __device__(Index r, bool writes, auto team, auto width) {
                            constexpr int kWidth = decltype(width)::value;
                            // The rounded sum.
                            const auto added = [&](Index c, A(&to)[kWidth]) {
                              A u[kWidth];
                              cuda::load(x.row(r) + c, u);
                              cuda::load(residual.row(r) + c, to);
                              for (int i = 0; i < kWidth; ++i) {
                                to[i] = cuda::to_acc<A>(cuda::from_acc<T>(to[i] + u[i]));
                              }
                            };
                            A square = 0;
                            team.template each<kWidth>(n, [&](Index c) {
                              A v[kWidth];
                              added(c, v);
                              for (int i = 0; i < kWidth; ++i) {
                                square += v[i] * v[i];
                              }
                              if (writes) {
                                cuda::store(sum.row(r) + c, v);
                              }
                            });
                            const A k = A(1) / sqrt(team.sum(square) / static_cast<A>(n) + eps);
                            if (writes && team.rank() == 0) {
                              rstd[r] = k;
                            }
                            team.template each<kWidth>(writes ? n : 0, [&](Index c) {
                              A v[kWidth], w[kWidth];
                              added(c, v);
                              cuda::load(weight + c, w);
                              for (int i = 0; i < kWidth; ++i) {
                                v[i] *= k * w[i];
                              }
                              cuda::store(y.row(r) + c, v);
                            });
                          });
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    const Index n = out.sum.size(-1), count = n > 0 ? out.sum.numel() / n : 0;
    const cuda::RowsIn<T> sum(out.sum), gsum(dout.sum), gy(dout.y);
    const A* const weight = in.weight.data<A>();
    const A* const rstd = out.rstd.data<A>();
    const cuda::RowsTo<T> gx(din.x.defined() ? din.x : din.residual);
    A* const gweight = din.weight.defined() ? din.weight.data<A>() : nullptr;
    if (gy && held_gradients({sum, gsum, gy, weight, rstd, count, n}, gx, gweight)) {
      return;
    }
    if (gx) {
      cuda::for_each_row<T>(count, n, [=] __device__(Index r, bool writes, auto team, auto width) {
        constexpr int kWidth = decltype(width)::value;
        const T* const row = sum.row(r);
        const A k = rstd[r];
        A product = 0;
        team.template each<kWidth>(gy ? n : 0, [&](Index c) {
          A s[kWidth], dy[kWidth], w[kWidth];
          cuda::load(row + c, s);
          cuda::load(gy.row(r) + c, dy);
          cuda::load(weight + c, w);
          for (int i = 0; i < kWidth; ++i) {
            product += dy[i] * w[i] * s[i];
          }
        });
        const A along = k * k * k * team.sum(product) / static_cast<A>(n);
        team.template each<kWidth>(writes ? n : 0, [&](Index c) {
          A s[kWidth], dy[kWidth] = {}, ds[kWidth] = {}, w[kWidth];
          cuda::load(row + c, s);
          cuda::load(weight + c, w);
          if (gy) {
            cuda::load(gy.row(r) + c, dy);
          }
          if (gsum) {
            cuda::load(gsum.row(r) + c, ds);
          }
          for (int i = 0; i < kWidth; ++i) {
            ds[i] += k * dy[i] * w[i] - s[i] * along;
          }
          cuda::store(gx.row(r) + c, ds);
        });
      });
    }
    if (gweight) {
      cuda::packed_column_sums<T, 1, A>(count, n, {{gweight}},
                                        [=] __device__(Index r, Index c, auto width, auto& of_row) {
                                          constexpr int kWidth = decltype(width)::value;
                                          A s[kWidth], dy[kWidth] = {};
                                          cuda::load(sum.row(r) + c, s);
                                          if (gy) {
                                            cuda::load(gy.row(r) + c, dy);
                                          }
                                          for (int i = 0; i < kWidth; ++i) {
                                            of_row[0][i] = dy[i] * s[i] * rstd[r];
                                          }
                                        });
    }
  }
  static bool held_gradients(const Outputs<T>& from, const cuda::RowsTo<T>& gx, A* gweight) {
    return common::with_held_rows<T>(from.cols, [&]<int kThreads, int kPacks>() {
      const dim3 blocks = common::held_blocks<kThreads>(from.rows, true);
      const cuda::Scratch memory(gweight ? blocks.x * from.cols * Index{sizeof(A)} : 0);
      A* const partial = gweight ? memory.as<A>() : nullptr;
      cuda::launch(&held_backward<T, kThreads, kPacks>, blocks,
                   dim3(common::kHeldThreads<kThreads>), 0, from, gx, partial);
      if (gweight) {
        common::join_parts<1, A>(blocks.x, from.cols, partial, {{gweight}});
      }
    });
  }
};

LS_KERNEL(AddRmsNorm)
    .on(DeviceType::kCuda)
    .reads("x residual sum y", lies::rows)
    .strided_grad("x")
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
