// Logits of one chunk of tokens at a time, in acc: a product, one block a token for its softmax,
// which leaves the gradient of the logits, and two products that take it further. The block reads
// its logits once where they fit the memory that it shares.
//   logits [C,V] acc   dlogits [C,V] T, the same memory where T is acc   x [N,D]   weight [V,D]
#include "core/ops/linear_cross_entropy/linear_cross_entropy.h"

#include "core/op/op.h"
#include "core/ops/common/place.cuh"
#include "core/ops/common/products.cuh"

namespace ls::ops {
namespace {

using Op = LinearCrossEntropy;

__global__ void __launch_bounds__(1024)
    check_kernel(const std::int64_t* targets, Index n, Index classes, Index ignored,
                 ErrorFlag* flag, std::int32_t source) {
  for (Index i = threadIdx.x; i < n; i += blockDim.x) {
    const Index target = targets[i];
    if (target != ignored && (target < 0 || target >= classes)) {
      raise_error(flag, source, i, target);
    }
  }
}

/// The weight's gradient was put in its place for this one of the loss.
template <class A>
__global__ void one_kernel(const A* gradient, ErrorFlag* flag, std::int32_t source) {
  if (*gradient != A(1)) {
    raise_error(flag, source, 0, static_cast<Index>(*gradient));
  }
}

template <class A>
__global__ void __launch_bounds__(1024) sum_kernel(const A* per_token, Index n, A* loss) {
  double sum = 0;
  for (Index i = threadIdx.x; i < n; i += blockDim.x) {
    sum += static_cast<double>(per_token[i]);
  }
  sum = cuda::Team<1024>::sum(sum);
  if (threadIdx.x == 0) {
    *loss = static_cast<A>(sum);
  }
}

/// Results of one chunk of tokens.
template <class A>
struct Chunk {
  const std::int64_t* targets;
  A* per_token;
  std::int64_t* predicted;
  Index rows;
};

/// One token of f32 logits, kept in shared memory between passes; dlogits may be null.
template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads)
    kept_softmax_kernel(Chunk<float> chunk, int classes, Index ignored, const float* logits,
                        T* dlogits) {
  extern __shared__ float4 kept_packs[];
  float* const kept = reinterpret_cast<float*>(kept_packs);
  using Team = cuda::Team<kThreads>;
  const Index r = blockIdx.x;
  const float4* const row = reinterpret_cast<const float4*>(logits + r * classes);
  const int packs = classes / 4, rank = static_cast<int>(threadIdx.x);
  common::Place<float> mine;
#pragma unroll 4
  for (int p = rank; p < packs; p += kThreads) {
    const float4 x = row[p];
    kept_packs[p] = x;
    const float each[4] = {x.x, x.y, x.z, x.w};
    for (int i = 0; i < 4; ++i) {
      const common::Place<float> here{each[i], 4 * p + i};
      mine = here.before(mine) ? here : mine;
    }
  }
  const int best = static_cast<int>(common::first_of(mine, Team()));
  const Index target = chunk.targets[r];
  const bool counts = target >= 0 && target < classes && target != ignored;
  Team::sync();
  const float top = kept[best], at_target = counts ? kept[target] : 0.f;
  Team::sync();    // before logits become their exponentials
  float rest = 0;  // besides the best class
#pragma unroll 4
  for (int p = rank; p < packs; p += kThreads) {
    float4 x = kept_packs[p];
    float* const each = &x.x;
    for (int i = 0; i < 4; ++i) {
      each[i] = __expf(each[i] - top);
      rest += 4 * p + i == best ? 0.f : each[i];
    }
    kept_packs[p] = x;
  }
  rest = Team::sum(rest);
  if (rank == 0) {
    chunk.per_token[r] = counts ? top - at_target + log1pf(rest) : 0.f;
    chunk.predicted[r] = counts ? best : ignored;
  }
  if (!dlogits) {
    return;
  }
  const float factor = counts ? 1.f / (1.f + rest) : 0.f;
#pragma unroll 4
  for (int p = rank; p < packs; p += kThreads) {
    const float4 x = kept_packs[p];
    float each[4] = {x.x, x.y, x.z, x.w};
    for (int i = 0; i < 4; ++i) {
      // p - 1 of the target, which may be nearly sure.
      const float others = target == best ? rest : 1.f + rest - each[i];
      each[i] = counts ? factor * (4 * p + i == target ? -others : each[i]) : 0.f;
    }
    cuda::store(dlogits + r * classes + 4 * p, each);
  }
}

template <class T>
struct Kernel {
  using A = acc_t<T>;
  using Chunk = ops::Chunk<A>;
  static constexpr DType kType = dtype_of_v<T>, kAcc = dtype_of_v<A>;

  static Chunk chunk_of(const Op::In<TensorView>& in, Op::Out<TensorView>& out, Index first,
                        Index rows) {
    return {in.targets.data<std::int64_t>() + first, out.per_token.data<A>() + first,
            out.predicted.data<std::int64_t>() + first, rows};
  }
  /// Softmax of logits; they become their gradients in `dlogits` where that is given.
  static void softmax(const Chunk& chunk, Index classes, Index ignored, const A* logits,
                      T* dlogits) {
    if constexpr (std::is_same_v<A, float>) {
      const Index bytes = classes * Index{sizeof(float)};
      constexpr Index kSpare = 1024;  // for sums over the block
      if (classes > 0 && classes % 4 == 0 && bytes + kSpare <= cuda::queue().shared_bytes) {
        constexpr Index kFew = 16384;
        const auto run = [&](auto kernel, unsigned threads) {
          cuda::launch(kernel, dim3(static_cast<unsigned>(chunk.rows)), dim3(threads),
                       static_cast<int>(bytes), chunk, static_cast<int>(classes), ignored, logits,
                       dlogits);
        };
        return classes > kFew ? run(&kept_softmax_kernel<T, 1024>, 1024)
                              : run(&kept_softmax_kernel<T, 256>, 256);
      }
    }
    cuda::for_each_row<A>(
        chunk.rows, classes, [=] __device__(Index r, bool writes, auto team, auto width) {
          constexpr int kWidth = decltype(width)::value;
          const A* const row = logits + r * classes;
          common::Place<A> mine;
          team.template each<kWidth>(classes, [&](Index c) {
            A x[kWidth];
            cuda::load(row + c, x);
            for (int i = 0; i < kWidth; ++i) {
              const common::Place<A> here{x[i], c + i};
              mine = here.before(mine) ? here : mine;
            }
          });
          const Index best = common::first_of(mine, team);
          const A top = row[best];
          A rest = 0;  // besides the best class
          team.template each<kWidth>(classes, [&](Index c) {
            A x[kWidth];
            cuda::load(row + c, x);
            for (int i = 0; i < kWidth; ++i) {
              rest += c + i == best ? A(0) : exp(x[i] - top);
            }
          });
          rest = team.sum(rest);
          const Index target = chunk.targets[r];
          const bool counts = target >= 0 && target < classes && target != ignored;
          const A at_target = counts ? row[target] : A(0);
          team.sync();  // all have read it before it is written over
          if (writes && team.rank() == 0) {
            chunk.per_token[r] = counts ? top - at_target + log1p(rest) : A(0);
            chunk.predicted[r] = counts ? best : ignored;
          }
          const A factor = A(1) / (A(1) + rest);
          team.template each<kWidth>(writes && dlogits ? classes : 0, [&](Index c) {
            A x[kWidth];
            cuda::load(row + c, x);
            for (int i = 0; i < kWidth; ++i) {
              const A e = exp(x[i] - top);
              // p - 1 of the target, which may be nearly sure.
              const A others = target == best ? rest : A(1) + rest - e;
              x[i] = counts ? factor * (c + i == target ? -others : e) : A(0);
            }
            cuda::store(dlogits + r * classes + c, x);
          });
        });
  }
  /// So many that the product with the weight, which is read and whose gradient is read and written
  /// once a chunk, costs little beside the logits; of narrow models so few that logits stay in the
  /// second cache.
  static Index chunk_rows(Index rows, Index classes, Index d) {
    constexpr Index kElements = Index{1} << 27, kCached = Index{1} << 23, kFewest = 128,
                    kNarrow = 128;
    const Index most = d <= kNarrow ? kCached : kElements;
    return std::max<Index>(1,
                           std::min(rows, std::max(kFewest, most / std::max<Index>(1, classes))));
  }

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const Index n = in.x.size(0), d = in.x.size(1), classes = in.weight.size(0);
    static const std::int32_t kBadTarget = error_source("linear_cross_entropy: target");
    cuda::launch(&check_kernel, dim3(1), dim3(1024), 0, in.targets.data<std::int64_t>(), n, classes,
                 a.ignore_index, cuda::queue().error_flag, kBadTarget);
    const Index most = chunk_rows(n, classes, d);
    const bool apart = kType != kAcc && a.gradients;
    const cuda::Scratch logits(most * classes * Index{sizeof(A)});
    const cuda::Scratch rounded(apart ? most * classes * Index{sizeof(T)} : 0);
    void* const gradient = apart ? rounded.data() : logits.data();
    const cuda::Matrix w = row_matrix(in.weight);
    for (Index first = 0; first < n; first += most) {
      const Index rows = std::min(most, n - first);
      const cuda::Matrix x = row_matrix(in.x.slice(0, first, first + rows));
      multiply(kType, x, transposed(w), rows, classes, d, kAcc, logits.data());
      softmax(chunk_of(in, out, first, rows), classes, a.ignore_index, logits.as<A>(),
              a.gradients ? static_cast<T*>(gradient) : nullptr);
      if (a.gradients) {
        const cuda::Matrix g{gradient, std::max<Index>(1, classes)};
        multiply(kType, g, w, rows, d, classes, kType, out.dx.data<T>() + first * d);
        multiply(kType, transposed(g), x, classes, d, rows, kAcc, out.dw.raw(),
                 first > 0 || out.dw.adds() ? 1 : 0);
      }
    }
    if (n == 0 && a.gradients && !out.dw.adds()) {
      cuda::check(cudaMemsetAsync(out.dw.raw(), 0, static_cast<std::size_t>(out.dw.bytes()),
                                  cuda::queue().stream),
                  "a fill");
    }
    cuda::launch(&sum_kernel<A>, dim3(1), dim3(1024), 0,
                 static_cast<const A*>(out.per_token.data<A>()), n, out.loss.data<A>());
  }

  template <class U>
  static void scale(const U* from, const A* by, Index n, TensorView& result) {
    U* const to = result.data<U>();
    cuda::for_each<1>(cuda::RowShape(1, n), [=] __device__(Index, Index i, auto) {
      to[i] = cuda::from_acc<U>((by ? *by : A(0)) * cuda::to_acc<A>(from[i]));
    });
  }
  static void backward(const Op::In<TensorView>&, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    LS_CHECK(a.gradients, kInternal, "linear_cross_entropy ran without gradients");
    const A* const by = dout.loss.defined() ? dout.loss.data<A>() : nullptr;
    if (!out.dw.defined() && by) {
      static const std::int32_t kNotOne =
          error_source("linear_cross_entropy: gradient of the loss, which must be 1");
      cuda::launch(&one_kernel<A>, dim3(1), dim3(1), 0, by, cuda::queue().error_flag, kNotOne);
    }
    if (din.x.defined()) {
      scale(out.dx.data<T>(), by, out.dx.numel(), din.x);
    }
    if (din.weight.defined()) {
      scale(out.dw.data<A>(), by, out.dw.numel(), din.weight);
    }
  }
};

LS_KERNEL(LinearCrossEntropy)
    .on(DeviceType::kCuda)
    .adds_grad("dw")
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
