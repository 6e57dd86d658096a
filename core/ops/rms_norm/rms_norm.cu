// One team of threads a group of a row. It holds the row in registers, and the gradient of the
// weight is summed beside that of x; where the row is too long, or has groups, it is read twice,
// the second time from cache, and the weight has a pass of its own.
#include "core/ops/rms_norm/rms_norm.h"

#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"
#include "core/ops/common/activations.cuh"
#include "core/ops/common/norm_rows.cuh"

namespace ls::ops {
namespace {

using Op = RmsNorm;

/// Gates that kernels are compiled for: what is known then is not asked at every element.
enum class Gating { kNone, kSiluBehind, kAny };

/// u = x or x act(z) is normalised in groups of `channels`; the gate may stand behind instead.
template <class T>
struct Call {
  using A = acc_t<T>;
  Call(const Op::In<TensorView>& in, const Op::Attrs& a)
      : x(in.x),
        z(in.z),
        weight(in.weight.defined() ? in.weight.data<A>() : nullptr),
        before(z && !a.norm_before_gate),
        after(z && a.norm_before_gate),
        sigmoid(a.gate_sigmoid),
        offset(static_cast<A>(a.weight_offset)),
        eps(static_cast<A>(a.eps)),
        rows(rows_of(in.x.layout())->count),
        cols(rows_of(in.x.layout())->cols),
        channels(a.group_size > 0 ? a.group_size : cols),
        groups(channels > 0 ? cols / channels : 0) {}
  Gating gating() const {
    return !before && !after   ? Gating::kNone
           : after && !sigmoid ? Gating::kSiluBehind
                               : Gating::kAny;
  }
  /// Says once more, to the compiler, what gating() found.
  template <Gating kGating>
  __device__ void settle() {
    if constexpr (kGating != Gating::kAny) {
      before = sigmoid = false;
      after = kGating == Gating::kSiluBehind;
    }
  }
  __device__ A gate(A v) const { return sigmoid ? act::device_sigmoid(v) : act::device_silu(v); }
  __device__ A gate_slope(A v) const {
    return sigmoid ? act::device_sigmoid(v) * act::device_sigmoid(-v) : act::device_silu_slope(v);
  }
  /// u, and the gate behind the norm, of neighbours from channel c on.
  template <int kWidth>
  __device__ void read(Index r, Index c, A (&u)[kWidth], A (&behind)[kWidth]) const {
    read(x.row(r), before || after ? z.row(r) : nullptr, c, u, behind);
  }
  /// The same of a row of x and its gates, or null.
  template <int kWidth>
  __device__ void read(const T* of_x, const T* of_z, Index c, A (&u)[kWidth],
                       A (&behind)[kWidth]) const {
    cuda::load(of_x + c, u);
    if (of_z) {
      cuda::load(of_z + c, behind);
    }
    for (int i = 0; i < kWidth; ++i) {
      u[i] *= before ? gate(behind[i]) : A(1);
      behind[i] = after ? gate(behind[i]) : A(1);
    }
  }
  template <int kWidth>
  __device__ void gains(Index c, A (&to)[kWidth]) const {
    if (weight) {
      cuda::load(weight + c, to);
    }
    for (A& g : to) {
      g = weight ? offset + g : A(1);
    }
  }
  __device__ Index group(Index c) const { return groups == 1 ? 0 : c / channels; }

  /// Value and slope of the gate at v, whose sigmoid is s.
  __device__ void gate_at(A v, A s, A& value, A& slope) const {
    value = sigmoid ? s : v * s;
    slope = sigmoid ? s * (A(1) - s) : s * (A(1) + v * (A(1) - s));
  }

  cuda::RowsIn<T> x;
  cuda::PiecesIn<T> z;
  const A* weight;
  bool before, after, sigmoid;
  A offset, eps;
  Index rows, cols, channels, groups;
};

template <class T, int kThreads, int kPacks, Gating kGating>
__global__ void __launch_bounds__(common::kHeldThreads<kThreads>)
    held_forward(Call<T> call, cuda::RowsTo<T> y, acc_t<T>* rstd) {
  using A = acc_t<T>;
  constexpr int kWidth = cuda::kPack<T>;
  using Row = common::HeldRow<kThreads, kWidth, kPacks>;
  call.template settle<kGating>();
  const int cols = static_cast<int>(call.cols);
  common::each_held_row<kThreads>(call.rows, [&](Index r, bool writes) {
    A u[kPacks][kWidth], behind[kPacks][kWidth], square = 0;
    const T *const of_x = call.x.row(r), *const of_z =
                                             call.before || call.after ? call.z.row(r) : nullptr;
    Row::each(cols, [&](int p, int c) {
      call.read(of_x, of_z, c, u[p], behind[p]);
      for (int j = 0; j < kWidth; ++j) {
        square += u[p][j] * u[p][j];
      }
    });
    const A k = A(1) / sqrt(Row::Team::sum(square) / static_cast<A>(cols) + call.eps);
    if (writes && Row::Team::rank() == 0) {
      rstd[r] = k;
    }
    Row::each(writes ? cols : 0, [&](int p, int c) {
      A gain[kWidth];
      call.gains(c, gain);
      for (int j = 0; j < kWidth; ++j) {
        u[p][j] *= k * gain[j] * behind[p][j];
      }
      cuda::store(y.row(r) + c, u[p]);
    });
  });
}

/// As Kernel::backward says; partial sums of the weight's gradient, or null.
template <class T, int kThreads, int kPacks, Gating kGating>
__global__ void __launch_bounds__(common::kHeldThreads<kThreads>, 2)
    held_backward(Call<T> call, const acc_t<T>* rstd, cuda::RowsIn<T> gy, cuda::RowsTo<T> gx,
                  cuda::RowsTo<T> gz, acc_t<T>* partial) {
  using A = acc_t<T>;
  constexpr int kWidth = cuda::kPack<T>;
  using Row = common::HeldRow<kThreads, kWidth, kPacks>;
  call.template settle<kGating>();
  const int cols = static_cast<int>(call.cols);
  const bool gated = call.before || call.after;
  A sums[1][kPacks][kWidth] = {};
  A gain[kPacks][kWidth];
  Row::each(cols, [&](int p, int c) { call.gains(c, gain[p]); });
  common::each_held_row<kThreads>(call.rows, [&](Index r, bool writes) {
    common::HeldPacks<T, kPacks> xs, zs, dys;
    A sigmoids[kPacks][kWidth];
    const A k = rstd[r];
    const T* const z = gated ? call.z.row(r) : nullptr;
    // x, the gate with its slope (1 and 0 where there is none) and dy of one pack.
    const auto unpacked = [&](int p, A(&x)[kWidth], A(&gate)[kWidth], A(&slope)[kWidth],
                              A(&dy)[kWidth]) {
      cuda::unpack(xs[p], x);
      cuda::unpack(dys[p], dy);
      if (gated) {
        cuda::unpack(zs[p], gate);
      }
      for (int j = 0; j < kWidth; ++j) {
        if (gated) {
          call.gate_at(gate[j], sigmoids[p][j], gate[j], slope[j]);
        } else {
          gate[j] = 1;
          slope[j] = 0;
        }
      }
    };
    A product = 0;
    Row::each(cols, [&](int p, int c) {
      xs[p] = cuda::load_pack<kWidth>(call.x.row(r) + c);
      dys[p] = cuda::load_pack<kWidth>(gy.row(r) + c);
      if (gated) {
        zs[p] = cuda::load_pack<kWidth>(z + c);
        cuda::unpack(zs[p], sigmoids[p]);
        for (A& v : sigmoids[p]) {
          v = act::device_sigmoid(v);
        }
      }
      A x[kWidth], gate[kWidth], slope[kWidth], dy[kWidth];
      unpacked(p, x, gate, slope, dy);
      for (int j = 0; j < kWidth; ++j) {
        product += dy[j] * gain[p][j] * gate[j] * x[j];
      }
    });
    const A along = k * k * k * Row::Team::sum(product) / static_cast<A>(cols);
    T* const to_z = gz ? gz.row(r) : nullptr;
    Row::each(writes ? cols : 0, [&](int p, int c) {
      A x[kWidth], gate[kWidth], slope[kWidth], dy[kWidth];
      unpacked(p, x, gate, slope, dy);
      for (int j = 0; j < kWidth; ++j) {
        const A gated_dy = dy[j] * gate[j], u = call.before ? x[j] * gate[j] : x[j];
        sums[0][p][j] += gated_dy * x[j] * k;
        const A du = k * gain[p][j] * (call.before ? dy[j] : gated_dy) - u * along;
        slope[j] *= call.before ? du * x[j] : dy[j] * gain[p][j] * x[j] * k;
        x[j] = call.before ? du * gate[j] : du;
      }
      if (gx) {
        cuda::store(gx.row(r) + c, x);
      }
      if (to_z) {
        cuda::store(to_z + c, slope);
      }
    });
  });
  if (partial) {
    common::add_up_teams<kThreads, kWidth, kPacks, 1>(cols, sums, partial);
  }
}

/// run.operator()<gating>().
template <class T, class Run>
void with_gating(const Call<T>& call, Run run) {
  switch (call.gating()) {
    case Gating::kNone:
      return run.template operator()<Gating::kNone>();
    case Gating::kSiluBehind:
      return run.template operator()<Gating::kSiluBehind>();
    case Gating::kAny:
      return run.template operator()<Gating::kAny>();
  }
}

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const Call<T> call(in, a);
    const cuda::RowsTo<T> y(out.y);
    A* const rstd = out.rstd.data<A>();
    const bool held =
        call.groups == 1 && common::with_held_rows<T>(call.cols, [&]<int kThreads, int kPacks>() {
          with_gating(call, [&]<Gating kGating>() {
            cuda::launch(&held_forward<T, kThreads, kPacks, kGating>,
                         common::held_blocks<kThreads>(call.rows, false),
                         dim3(common::kHeldThreads<kThreads>), 0, call, y, rstd);
          });
        });
    if (held) {
      return;
    }
    cuda::for_each_row<T>(
        call.rows * call.groups, call.channels,
        [=] __device__(Index i, bool writes, auto team, auto width) {
          constexpr int kWidth = decltype(width)::value;
          const Index r = i / call.groups, first = i % call.groups * call.channels;
          A square = 0;
          team.template each<kWidth>(call.channels, [&](Index c) {
            A u[kWidth], behind[kWidth];
            call.read(r, first + c, u, behind);
            for (int j = 0; j < kWidth; ++j) {
              square += u[j] * u[j];
            }
          });
          const A k = A(1) / sqrt(team.sum(square) / static_cast<A>(call.channels) + call.eps);
          if (writes && team.rank() == 0) {
            rstd[i] = k;
          }
          team.template each<kWidth>(writes ? call.channels : 0, [&](Index c) {
            A u[kWidth], behind[kWidth], gain[kWidth];
            call.read(r, first + c, u, behind);
            call.gains(first + c, gain);
            for (int j = 0; j < kWidth; ++j) {
              u[j] *= k * gain[j] * behind[j];
            }
            cuda::store(y.row(r) + first + c, u);
          });
        });
  }
  /// y = u rstd gain [gate]: du = rstd (e - u rstd^2 mean(e u)), where e = dy gain [gate].
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const Call<T> call(in, a);
    const A* const rstd = out.rstd.data<A>();
    const cuda::RowsIn<T> gy(dout.y);
    const cuda::RowsTo<T> gx(din.x), gz(din.z);
    A* const gweight = din.weight.defined() ? din.weight.data<A>() : nullptr;
    if (call.groups == 1 && held_gradients(call, rstd, gy, gx, gz, gweight)) {
      return;
    }
    if (gx || gz) {
      cuda::for_each_row<T>(
          call.rows * call.groups, call.channels,
          [=] __device__(Index i, bool writes, auto team, auto width) {
            constexpr int kWidth = decltype(width)::value;
            const Index r = i / call.groups, first = i % call.groups * call.channels;
            const A k = rstd[i];
            A sum = 0;
            team.template each<kWidth>(call.channels, [&](Index c) {
              A u[kWidth], behind[kWidth], dy[kWidth], gain[kWidth];
              call.read(r, first + c, u, behind);
              cuda::load(gy.row(r) + first + c, dy);
              call.gains(first + c, gain);
              for (int j = 0; j < kWidth; ++j) {
                sum += dy[j] * gain[j] * behind[j] * u[j];
              }
            });
            const A along = k * k * k * team.sum(sum) / static_cast<A>(call.channels);
            team.template each<kWidth>(writes ? call.channels : 0, [&](Index c) {
              A u[kWidth], behind[kWidth], dy[kWidth], gate[kWidth], gain[kWidth];
              call.read(r, first + c, u, behind);
              cuda::load(gy.row(r) + first + c, dy);
              call.gains(first + c, gain);
              for (int j = 0; j < kWidth; ++j) {
                dy[j] *= gain[j];
                gate[j] = dy[j] * u[j] * k;  // the gate's gradient where it stands behind
                dy[j] = k * dy[j] * behind[j] - u[j] * along;
              }
              finish(call, r, first + c, dy, gate, gx, gz);
            });
          });
    }
    if (gweight) {
      weight_gradient(call, rstd, gy, gweight);
    }
  }
  static bool held_gradients(const Call<T>& call, const A* rstd, const cuda::RowsIn<T>& gy,
                             const cuda::RowsTo<T>& gx, const cuda::RowsTo<T>& gz, A* gweight) {
    return common::with_held_rows<T>(call.cols, [&]<int kThreads, int kPacks>() {
      const dim3 blocks = common::held_blocks<kThreads>(call.rows, true);
      const cuda::Scratch memory(gweight ? blocks.x * call.cols * Index{sizeof(A)} : 0);
      A* const partial = gweight ? memory.as<A>() : nullptr;
      with_gating(call, [&]<Gating kGating>() {
        cuda::launch(&held_backward<T, kThreads, kPacks, kGating>, blocks,
                     dim3(common::kHeldThreads<kThreads>), 0, call, rstd, gy, gx, gz, partial);
      });
      if (gweight) {
        common::join_parts<1, A>(blocks.x, call.cols, partial, {{gweight}});
      }
    });
  }
  /// Writes dx and dz from du and from the gradient of a gate behind the norm.
  template <int kWidth>
  __device__ static void finish(const Call<T>& call, Index r, Index c, A (&du)[kWidth],
                                A (&dgate)[kWidth], const cuda::RowsTo<T>& gx,
                                const cuda::RowsTo<T>& gz) {
    A z[kWidth] = {}, x[kWidth] = {};
    if (call.before || call.after) {
      cuda::load(call.z.row(r) + c, z);
      cuda::load(call.x.row(r) + c, x);
    }
    for (int j = 0; j < kWidth; ++j) {
      dgate[j] = (call.before ? du[j] * x[j] : dgate[j]) * call.gate_slope(z[j]);
      du[j] *= call.before ? call.gate(z[j]) : A(1);
    }
    if (gx) {
      cuda::store(gx.row(r) + c, du);
    }
    if (gz) {
      cuda::store(gz.row(r) + c, dgate);
    }
  }
  static void weight_gradient(const Call<T>& call, const A* rstd, const cuda::RowsIn<T>& gy,
                              A* gweight) {
    cuda::packed_column_sums<T, 1, A>(
        call.rows, call.cols, {{gweight}}, [=] __device__(Index r, Index c, auto width, auto& sum) {
          constexpr int kWidth = decltype(width)::value;
          A u[kWidth], behind[kWidth], dy[kWidth];
          call.read(r, c, u, behind);
          cuda::load(gy.row(r) + c, dy);
          for (int j = 0; j < kWidth; ++j) {
            const Index group = (c + j) / call.channels;
            sum[0][j] = dy[j] * u[j] * behind[j] * rstd[r * call.groups + group];
          }
        });
  }
};

LS_KERNEL(RmsNorm)
    .on(DeviceType::kCuda)
    .reads("x y", lies::rows)
    .reads("z", &cuda::PiecesIn<bf16>::lies)
    .strided_grad("x z")
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
