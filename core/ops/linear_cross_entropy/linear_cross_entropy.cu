// Logits of one chunk of tokens at a time, in acc: a product, one block a token for its softmax,
// which leaves the gradient of the logits, and two products that take it further.
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

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static constexpr DType kType = dtype_of_v<T>, kAcc = dtype_of_v<A>;

  /// Results of one chunk of tokens.
  struct Chunk {
    const std::int64_t* targets;
    A* per_token;
    std::int64_t* predicted;
    Index rows;
  };
  static Chunk chunk_of(const Op::In<TensorView>& in, Op::Out<TensorView>& out, Index first,
                        Index rows) {
    return {in.targets.data<std::int64_t>() + first, out.per_token.data<A>() + first,
            out.predicted.data<std::int64_t>() + first, rows};
  }
  /// Softmax of logits; they become their gradients in `dlogits` where that is given.
  static void softmax(const Chunk& chunk, Index classes, Index ignored, const A* logits,
                      T* dlogits) {
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
  static Index chunk_rows(Index rows, Index classes) {
    constexpr Index kElements = Index{1} << 26, kFewest = 128;
    return std::max<Index>(
        1, std::min(rows, std::max(kFewest, kElements / std::max<Index>(1, classes))));
  }

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const Index n = in.x.size(0), d = in.x.size(1), classes = in.weight.size(0);
    static const std::int32_t kBadTarget = error_source("linear_cross_entropy: target");
    cuda::launch(&check_kernel, dim3(1), dim3(1024), 0, in.targets.data<std::int64_t>(), n, classes,
                 a.ignore_index, cuda::queue().error_flag, kBadTarget);
    const Index most = chunk_rows(n, classes);
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
