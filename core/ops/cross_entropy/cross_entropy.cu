// One team of threads a token, which reads its logits twice or three times, all but the first from
// cache. Costs of tokens go through memory and are summed by one block, in f64.
#include "core/ops/cross_entropy/cross_entropy.h"

#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"

namespace ls::ops {
namespace {

using Op = CrossEntropy;
using Reduction = Op::Reduction;

template <class T>
struct Call {
  using A = acc_t<T>;
  Call(const Op::In<TensorView>& in, const Op::Attrs& a)
      : logits(in.logits),
        targets(in.targets.data<std::int64_t>()),
        weights(in.weights.defined() ? in.weights.data<A>() : nullptr),
        tokens(in.targets.numel()),
        classes(in.logits.size(-1)),
        ignored(a.ignore_index),
        smooth(static_cast<A>(a.label_smoothing)),
        z_loss(static_cast<A>(a.z_loss)),
        cap(static_cast<A>(a.softcap)),
        scale(static_cast<A>(a.logit_scale)) {}
  __device__ A score(A logit) const {
    const A u = scale * logit;
    return cap > A(0) ? cap * tanh(u / cap) : u;
  }
  __device__ A score(Index r, Index c) const { return score(cuda::to_acc<A>(logits.row(r)[c])); }
  template <int kWidth>
  __device__ void scores(Index r, Index c, A (&to)[kWidth]) const {
    cuda::load(logits.row(r) + c, to);
    for (A& x : to) {
      x = score(x);
    }
  }
  /// d score / d logit.
  __device__ A slope(A score) const {
    const A t = cap > A(0) ? score / cap : A(0);
    return scale * (A(1) - t * t);
  }
  /// 0 where the target is ignored.
  __device__ A weight(Index r) const {
    return targets[r] == ignored ? A(0) : weights ? weights[r] : A(1);
  }
  template <int kWidth, class Team>
  __device__ A lse(Index r, Team team) const {
    // Greatest score of this thread so far, and the sum of exp(score - greatest).
    A top = -INFINITY, sum = 0;
    team.template each<kWidth>(classes, [&](Index c) {
      A x[kWidth], greater = top;
      scores(r, c, x);
      for (const A one : x) {
        greater = cuda::Greater()(greater, one);
      }
      sum *= top > -INFINITY ? exp(top - greater) : A(0);
      top = greater;
      for (const A one : x) {
        sum += one > -INFINITY ? exp(one - top) : A(0);
      }
    });
    const A greatest = team.max(top);
    sum *= top > -INFINITY ? exp(top - greatest) : A(0);
    return greatest + log(team.sum(sum));
  }

  cuda::RowsIn<T> logits;
  const std::int64_t* targets;
  const A* weights;
  Index tokens, classes, ignored;
  A smooth, z_loss, cap, scale;
};

/// Sums of costs and weights over tokens.
struct Totals {
  double cost, weight;
};
template <class T>
__global__ void __launch_bounds__(1024)
    total_kernel(Call<T> call, const acc_t<T>* costs, Totals* totals) {
  double cost = 0, weight = 0;
  for (Index r = threadIdx.x; r < call.tokens; r += blockDim.x) {
    cost += costs ? static_cast<double>(costs[r]) : 0;
    weight += static_cast<double>(call.weight(r));
  }
  using All = cuda::Team<1024>;
  cost = All::sum(cost);
  weight = All::sum(weight);
  if (threadIdx.x == 0) {
    *totals = {cost, weight};
  }
}

template <class T>
struct Kernel {
  using A = acc_t<T>;

  static void total(const Call<T>& call, const A* costs, Totals* totals) {
    cuda::launch(&total_kernel<T>, dim3(1), dim3(1024), 0, call, costs, totals);
  }

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const Call<T> call(in, a);
    const bool reduces = a.reduction != Reduction::kNone;
    const cuda::Scratch memory(reduces ? call.tokens * Index{sizeof(A)} : 0);
    A* const costs = reduces ? memory.as<A>() : out.losses.data<A>();
    A* const lses = out.lse.data<A>();
    static const std::int32_t kBadTarget = error_source("cross_entropy: target");
    ErrorFlag* const flag = cuda::queue().error_flag;
    const std::int32_t bad = kBadTarget;
    cuda::for_each_row<T>(
        call.tokens, call.classes, [=] __device__(Index r, bool writes, auto team, auto width) {
          constexpr int kWidth = decltype(width)::value;
          const A lse = call.template lse<kWidth>(r, team);
          A sum = 0;
          team.template each<kWidth>(call.smooth > A(0) ? call.classes : 0, [&](Index c) {
            A x[kWidth];
            call.scores(r, c, x);
            for (const A one : x) {
              sum += one;
            }
          });
          const A mean = team.sum(sum) / static_cast<A>(call.classes);
          if (!writes || team.rank() != 0) {
            return;
          }
          const Index target = call.targets[r];
          A cost = 0;
          if (target != call.ignored && (target < 0 || target >= call.classes)) {
            raise_error(flag, bad, r, target);
          } else if (target != call.ignored) {
            cost = call.weight(r) * (lse - (A(1) - call.smooth) * call.score(r, target) -
                                     call.smooth * mean + call.z_loss * lse * lse);
          }
          costs[r] = cost;
          lses[r] = lse;
        });
    if (reduces) {
      const cuda::Scratch totals(sizeof(Totals));
      total(call, costs, totals.as<Totals>());
      write_loss(totals.as<Totals>(), a.reduction == Reduction::kMean, out.loss.data<A>());
    }
  }

  static void write_loss(const Totals* totals, bool is_mean, A* loss) {
    cuda::for_each<1>(cuda::RowShape(1, 1), [=] __device__(Index, Index, auto) {
      const double share = totals->weight > 0 ? 1 / totals->weight : 0;
      *loss = static_cast<A>(totals->cost * (is_mean ? share : 1));
    });
  }

  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const Call<T> call(in, a);
    const cuda::Scratch memory(sizeof(Totals));
    const Totals* const totals = memory.as<Totals>();
    const bool is_mean = a.reduction == Reduction::kMean;
    if (is_mean) {
      total(call, nullptr, memory.as<Totals>());
    }
    const A* const gloss = dout.loss.defined() ? dout.loss.data<A>() : nullptr;
    const A* const glosses = dout.losses.defined() ? dout.losses.data<A>() : nullptr;
    const A* const glse = dout.lse.defined() ? dout.lse.data<A>() : nullptr;
    const cuda::RowsTo<T> dlogits(din.logits);
    cuda::for_each_row<T>(
        call.tokens, call.classes, [=] __device__(Index r, bool writes, auto team, auto width) {
          constexpr int kWidth = decltype(width)::value;
          const A lse = call.template lse<kWidth>(r, team), weight = call.weight(r);
          const Index target = call.targets[r];
          A dcost = 0;
          if (gloss) {
            const double share = !is_mean ? 1 : totals->weight > 0 ? 1 / totals->weight : 0;
            dcost = *gloss * static_cast<A>(share) * weight;
          } else if (glosses) {
            dcost = glosses[r] * weight;
          }
          const A dlse = glse ? glse[r] : A(0), even = call.smooth / static_cast<A>(call.classes);
          team.template each<kWidth>(writes ? call.classes : 0, [&](Index c) {
            A x[kWidth];
            call.scores(r, c, x);
            for (int i = 0; i < kWidth; ++i) {
              const A p = exp(x[i] - lse), at_target = c + i == target ? A(1) - call.smooth : A(0);
              const A slope = p - at_target - even + A(2) * call.z_loss * lse * p;
              x[i] = (dcost * slope + dlse * p) * call.slope(x[i]);
            }
            cuda::store(dlogits.row(r) + c, x);
          });
        });
  }
};

LS_KERNEL(CrossEntropy)
    .on(DeviceType::kCuda)
    .reads("logits", lies::rows)
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
