#pragma once
// The kernel behind layer_norm and group_norm: one team of threads a group of a row. It holds the
// row in registers, and gradients of weight and bias are summed beside that of x; rows that are too
// long or have groups are read several times, all but the first from cache, and weight and bias
// have a pass of their own.
#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"
#include "core/ops/common/activations.cuh"
#include "core/ops/common/norm_rows.cuh"

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
  /// u, and the gate behind the norm, of neighbours from channel c on.
  template <int kWidth>
  __device__ void read(Index r, Index c, A (&u)[kWidth], A (&behind)[kWidth]) const {
    cuda::load(x.row(r) + c, u);
    if (before || after) {
      cuda::load(z.row(r) + c, behind);
    }
    for (int i = 0; i < kWidth; ++i) {
      u[i] *= before ? act::device_silu(behind[i]) : A(1);
      behind[i] = after ? act::device_silu(behind[i]) : A(1);
    }
  }
  template <int kWidth>
  __device__ static void vector_or(const A* v, A absent, Index c, A (&to)[kWidth]) {
    if (v) {
      cuda::load(v + c, to);
    }
    for (A& x : to) {
      x = v ? x : absent;
    }
  }
  template <int kWidth>
  __device__ void gains(Index c, A (&to)[kWidth]) const {
    vector_or(weight, A(1), c, to);
  }
  template <int kWidth>
  __device__ void shifts(Index c, A (&to)[kWidth]) const {
    vector_or(bias, A(0), c, to);
  }
  __device__ Index group(Index c) const { return groups == 1 ? 0 : c / channels; }

  cuda::RowsIn<T> x, z;
  const A *weight, *bias;
  bool before, after;
  A eps;
  Index rows, cols, groups, channels;
};

template <class Op, class T, int kThreads, int kPacks>
__global__ void __launch_bounds__(common::kHeldThreads<kThreads>)
    held_mean_norm(MeanNormCall<Op, T> call, cuda::RowsTo<T> y, acc_t<T>* means, acc_t<T>* rstds) {
  using A = acc_t<T>;
  constexpr int kWidth = cuda::kPack<T>;
  using Row = common::HeldRow<kThreads, kWidth, kPacks>;
  const int cols = static_cast<int>(call.cols);
  const A count = static_cast<A>(cols);
  common::each_held_row<kThreads>(call.rows, [&](Index r, bool writes) {
    A u[kPacks][kWidth], behind[kPacks][kWidth], sum = 0;
    Row::each(cols, [&](int p, int c) {
      call.read(r, c, u[p], behind[p]);
      for (int j = 0; j < kWidth; ++j) {
        sum += u[p][j];
      }
    });
    const A mean = Row::Team::sum(sum) / count;
    A square = 0;
    Row::each(cols, [&](int p, int) {
      for (int j = 0; j < kWidth; ++j) {
        square += (u[p][j] - mean) * (u[p][j] - mean);
      }
    });
    const A rstd = A(1) / sqrt(Row::Team::sum(square) / count + call.eps);
    if (writes && Row::Team::rank() == 0) {
      means[r] = mean;
      rstds[r] = rstd;
    }
    Row::each(writes ? cols : 0, [&](int p, int c) {
      A gain[kWidth], shift[kWidth];
      call.gains(c, gain);
      call.shifts(c, shift);
      for (int j = 0; j < kWidth; ++j) {
        u[p][j] = ((u[p][j] - mean) * rstd * gain[j] + shift[j]) * behind[p][j];
      }
      cuda::store(y.row(r) + c, u[p]);
    });
  });
}

/// What else the backward pass reads, and where its gradients go.
template <class T>
struct MeanNormGradients {
  const acc_t<T>*means, *rstds;
  cuda::RowsIn<T> gy;
  cuda::RowsTo<T> gx;
  bool adds;          ///< to what lies in gx
  acc_t<T>* partial;  ///< of weight and bias, or null
};

/// A gradient goes to its place, or is added to what lies there.
template <int kWidth, class T, class A>
__device__ void put_gradient(T* to, bool adds, A (&from)[kWidth]) {
  if (adds) {
    A there[kWidth];
    cuda::load(to, there);
    for (int j = 0; j < kWidth; ++j) {
      from[j] += there[j];
    }
  }
  cuda::store(to, from);
}

/// As MeanNormKernel::backward says, of one group, without a gate and with gradients of y alone.
template <class Op, class T, int kThreads, int kPacks>
__global__ void __launch_bounds__(common::kHeldThreads<kThreads>)
    held_mean_norm_backward(MeanNormCall<Op, T> call, MeanNormGradients<T> at) {
  using A = acc_t<T>;
  constexpr int kWidth = cuda::kPack<T>;
  using Row = common::HeldRow<kThreads, kWidth, kPacks>;
  const int cols = static_cast<int>(call.cols);
  const A count = static_cast<A>(cols);
  A sums[2][kPacks][kWidth] = {};
  A gain[kPacks][kWidth];
  Row::each(cols, [&](int p, int c) { call.gains(c, gain[p]); });
  common::each_held_row<kThreads>(call.rows, [&](Index r, bool writes) {
    common::HeldPacks<T, kPacks> xs, dys;
    const A mean = at.means[r], rstd = at.rstds[r];
    A sum = 0, product = 0;
    Row::each(cols, [&](int p, int c) {
      xs[p] = cuda::load_pack<kWidth>(call.x.row(r) + c);
      dys[p] = cuda::load_pack<kWidth>(at.gy.row(r) + c);
      A n[kWidth], dn[kWidth];
      cuda::unpack(xs[p], n);
      cuda::unpack(dys[p], dn);
      for (int j = 0; j < kWidth; ++j) {
        sum += dn[j] * gain[p][j];
        product += dn[j] * gain[p][j] * ((n[j] - mean) * rstd);
      }
    });
    const A mean_dn = Row::Team::sum(sum) / count, mean_product = Row::Team::sum(product) / count;
    Row::each(writes ? cols : 0, [&](int p, int c) {
      A n[kWidth], dy[kWidth];
      cuda::unpack(xs[p], n);
      cuda::unpack(dys[p], dy);
      for (int j = 0; j < kWidth; ++j) {
        n[j] = (n[j] - mean) * rstd;
        sums[0][p][j] += dy[j] * n[j];
        sums[1][p][j] += dy[j];
        dy[j] = rstd * (dy[j] * gain[p][j] - mean_dn - n[j] * mean_product);
      }
      if (at.gx) {
        put_gradient(at.gx.row(r) + c, at.adds, dy);
      }
    });
  });
  if (at.partial) {
    common::add_up_teams<kThreads, kWidth, kPacks, 2>(cols, sums, at.partial);
  }
}

template <class Op, class T>
struct MeanNormKernel {
  using A = acc_t<T>;
  using In = typename Op::template In<TensorView>;
  using Out = typename Op::template Out<TensorView>;
  using Attrs = typename Op::Attrs;
  using Call = MeanNormCall<Op, T>;

  static void forward(const In& in, Out& out, const Attrs& a) {
    const Call call(in, a);
    const cuda::RowsTo<T> y(out.y);
    A* const means = out.mean.template data<A>();
    A* const rstds = out.rstd.template data<A>();
    const bool held =
        call.groups == 1 && common::with_held_rows<T>(call.cols, [&]<int kThreads, int kPacks>() {
          cuda::launch(&held_mean_norm<Op, T, kThreads, kPacks>,
                       common::held_blocks<kThreads>(call.rows, false),
                       dim3(common::kHeldThreads<kThreads>), 0, call, y, means, rstds);
        });
    if (held) {
      return;
    }
    cuda::for_each_row<T>(call.rows * call.groups, call.channels,
                          [=] __device__(Index i, bool writes, auto team, auto width) {
                            constexpr int kWidth = decltype(width)::value;
                            const Index r = i / call.groups,
                                        first = i % call.groups * call.channels;
                            const A count = static_cast<A>(call.channels);
                            A sum = 0;
                            team.template each<kWidth>(call.channels, [&](Index c) {
                              A u[kWidth], behind[kWidth];
                              call.read(r, first + c, u, behind);
                              for (int j = 0; j < kWidth; ++j) {
                                sum += u[j];
                              }
                            });
                            const A mean = team.sum(sum) / count;
                            A square = 0;
                            team.template each<kWidth>(call.channels, [&](Index c) {
                              A u[kWidth], behind[kWidth];
                              call.read(r, first + c, u, behind);
                              for (int j = 0; j < kWidth; ++j) {
                                square += (u[j] - mean) * (u[j] - mean);
                              }
                            });
                            const A rstd = A(1) / sqrt(team.sum(square) / count + call.eps);
                            if (writes && team.rank() == 0) {
                              means[i] = mean;
                              rstds[i] = rstd;
                            }
                            team.template each<kWidth>(writes ? call.channels : 0, [&](Index c) {
                              A u[kWidth], behind[kWidth], gain[kWidth], shift[kWidth];
                              call.read(r, first + c, u, behind);
                              call.gains(first + c, gain);
                              call.shifts(first + c, shift);
                              for (int j = 0; j < kWidth; ++j) {
                                u[j] = ((u[j] - mean) * rstd * gain[j] + shift[j]) * behind[j];
                              }
                              cuda::store(y.row(r) + first + c, u);
                            });
                          });
  }

  /// du = rstd (dn - mean(dn) - n mean(dn n)) + (dmean - drstd rstd^2 n) / count, where dn is dy
  /// times gain and gate.
  static void backward(const In& in, const Out& out, const Out& dout, In& din, const Attrs& a) {
    const Call call(in, a);
    const A* const means = out.mean.template data<A>();
    const A* const rstds = out.rstd.template data<A>();
    const cuda::RowsIn<T> gy(dout.y);
    const A* const gmean = dout.mean.defined() ? dout.mean.template data<A>() : nullptr;
    const A* const grstd = dout.rstd.defined() ? dout.rstd.template data<A>() : nullptr;
    const cuda::RowsTo<T> gx(din.x), gz(din.z);
    A* const gweight = din.weight.defined() ? din.weight.template data<A>() : nullptr;
    A* const gbias = din.bias.defined() ? din.bias.template data<A>() : nullptr;
    const bool plain = call.groups == 1 && !call.z && gy && !gmean && !grstd;
    const bool adds = din.x.defined() && din.x.adds();
    if (plain && held_gradients(call, {means, rstds, gy, gx, adds, nullptr}, gweight, gbias)) {
      return;
    }
    if (gx || gz) {
      cuda::for_each_row<T>(
          call.rows * call.groups, call.channels,
          [=] __device__(Index i, bool writes, auto team, auto width) {
            constexpr int kWidth = decltype(width)::value;
            const Index r = i / call.groups, first = i % call.groups * call.channels;
            const A count = static_cast<A>(call.channels), mean = means[i], rstd = rstds[i];
            // n, and dn = dy gain [gate], of neighbours.
            const auto read = [&](Index c, A(&n)[kWidth], A(&dn)[kWidth], A(&dy)[kWidth]) {
              A behind[kWidth], gain[kWidth];
              call.read(r, c, n, behind);
              call.gains(c, gain);
              if (gy) {
                cuda::load(gy.row(r) + c, dy);
              }
              for (int j = 0; j < kWidth; ++j) {
                n[j] = (n[j] - mean) * rstd;
                dn[j] = dy[j] * behind[j] * gain[j];
              }
            };
            A sum = 0, product = 0;
            team.template each<kWidth>(call.channels, [&](Index c) {
              A n[kWidth], dn[kWidth], dy[kWidth] = {};
              read(first + c, n, dn, dy);
              for (int j = 0; j < kWidth; ++j) {
                sum += dn[j];
                product += dn[j] * n[j];
              }
            });
            const A mean_dn = team.sum(sum) / count, mean_product = team.sum(product) / count;
            const A dmean = gmean ? gmean[i] / count : A(0);
            const A drstd = grstd ? grstd[i] * rstd * rstd / count : A(0);
            team.template each<kWidth>(writes ? call.channels : 0, [&](Index c) {
              A n[kWidth], du[kWidth], dy[kWidth] = {}, gain[kWidth], shift[kWidth];
              read(first + c, n, du, dy);
              call.gains(first + c, gain);
              call.shifts(first + c, shift);
              for (int j = 0; j < kWidth; ++j) {
                du[j] = rstd * (du[j] - mean_dn - n[j] * mean_product) + dmean - drstd * n[j];
                dy[j] *= n[j] * gain[j] + shift[j];  // of a gate behind the norm
              }
              finish(call, r, first + c, du, dy, gx, adds, gz);
            });
          });
    }
    if (gweight || gbias) {
      vector_gradients(call, means, rstds, gy, gweight, gbias);
    }
  }
  /// Writes dx and dz from du and from the gradient of a gate behind the norm.
  template <int kWidth>
  __device__ static void finish(const Call& call, Index r, Index c, A (&du)[kWidth],
                                A (&dgate)[kWidth], const cuda::RowsTo<T>& gx, bool adds,
                                const cuda::RowsTo<T>& gz) {
    A z[kWidth] = {}, x[kWidth] = {};
    if (call.before || call.after) {
      cuda::load(call.z.row(r) + c, z);
      cuda::load(call.x.row(r) + c, x);
    }
    for (int j = 0; j < kWidth; ++j) {
      dgate[j] = (call.before ? du[j] * x[j] : dgate[j]) * act::device_silu_slope(z[j]);
      du[j] *= call.before ? act::device_silu(z[j]) : A(1);
    }
    if (gx) {
      put_gradient(gx.row(r) + c, adds, du);
    }
    if (gz) {
      cuda::store(gz.row(r) + c, dgate);
    }
  }
  static bool held_gradients(const Call& call, MeanNormGradients<T> at, A* gweight, A* gbias) {
    return common::with_held_rows<T>(call.cols, [&]<int kThreads, int kPacks>() {
      const dim3 blocks = common::held_blocks<kThreads>(call.rows, true);
      const bool vectors = gweight || gbias;
      const cuda::Scratch memory(vectors ? blocks.x * 2 * call.cols * Index{sizeof(A)} : 0);
      at.partial = vectors ? memory.as<A>() : nullptr;
      cuda::launch(&held_mean_norm_backward<Op, T, kThreads, kPacks>, blocks,
                   dim3(common::kHeldThreads<kThreads>), 0, call, at);
      if (vectors) {
        common::join_parts<2, A>(blocks.x, call.cols, at.partial, {{gweight, gbias}});
      }
    });
  }
  static void vector_gradients(const Call& call, const A* means, const A* rstds,
                               const cuda::RowsIn<T>& gy, A* gweight, A* gbias) {
    cuda::packed_column_sums<T, 2, A>(call.rows, call.cols, {{gweight, gbias}},
                                      [=] __device__(Index r, Index c, auto width, auto& sum) {
                                        constexpr int kWidth = decltype(width)::value;
                                        A u[kWidth], behind[kWidth], dy[kWidth] = {};
                                        call.read(r, c, u, behind);
                                        if (gy) {
                                          cuda::load(gy.row(r) + c, dy);
                                        }
                                        for (int j = 0; j < kWidth; ++j) {
                                          const Index i = r * call.groups + call.group(c + j);
                                          sum[1][j] = dy[j] * behind[j];
                                          sum[0][j] = sum[1][j] * (u[j] - means[i]) * rstds[i];
                                        }
                                      });
  }
};

}  // namespace ls::ops
