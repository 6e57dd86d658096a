// y = h W^T with h = act(gate) * up, x = [gate, up]. A thread owns a block of rows and takes it
// from its gate to its product within its cache; the blocks are the same for any number of threads.
// Forward: a buffer h [rows of the block, F]. Backward: dh = dy W in such a buffer, then dx, while
// h [all rows, F] is formed again for dW = dy^T h, one product over all rows.
#include <algorithm>

#include "core/backend/cpu/gemm.h"
#include "core/base/parallel_for.h"
#include "core/op/declare.h"
#include "core/ops/common/elements.h"
#include "core/ops/common/glu_rows.h"
#include "core/ops/glu_linear/glu_linear.h"
#include "core/tensor/rows.h"
#include "core/tensor/storage.h"

namespace ls::ops {
namespace {

using Op = GluLinear;

struct Sizes {
  Index rows, hidden, width;
  Sizes(const Op::In<TensorView>& in, Index count)
      : rows(count), hidden(in.weight.size(1)), width(in.weight.size(0)) {}
  /// f(first row, number of rows) for every block, the blocks shared out over the threads. With a
  /// large W, read again for every block, all rows are one block, and f's own loops and products
  /// are shared out instead.
  template <class F>
  void for_blocks(F&& f) const {
    constexpr Index kRows = 128, kLargestW = 1 << 15;
    const Index blocks = hidden * width > kLargestW ? 1 : std::max<Index>(1, rows / kRows);
    parallel_for(blocks, 1, [&](Index first, Index last) {
      for (Index b = first; b < last; ++b) {
        const Index begin = rows * b / blocks;
        f(begin, rows * (b + 1) / blocks - begin);
      }
    });
  }
  Index grain() const { return row_grain(hidden); }
};

template <class T>
void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
  const Rows x(in.x);
  const Sizes n(in, out.y.numel() / std::max<Index>(1, in.weight.size(0)));
  const Index f = n.hidden, d = n.width;
  const T* const w = in.weight.data<T>();
  T* const y = out.y.data<T>();
  if (f == 0) {
    common::zeroed(out.y);
    return;
  }
  act::dispatch(a.activation, [&]<class F>() {
    n.for_blocks([&](Index begin, Index rows) {
      Storage storage(rows * f * Index{sizeof(T)});
      T* const hidden = static_cast<T*>(storage.data());
      parallel_for(rows, n.grain(), [&](Index r0, Index r1) {
        for (Index r = r0; r < r1; ++r) {
          const T* const gate = x.row<T>(begin + r);
          glu::forward_row<F>(gate, gate + f, f, hidden + r * f);
        }
      });
      gemm<T>(false, true, rows, d, f, 1.0, hidden, f, w, f, 0.0, y + begin * d, d);
    });
  });
}

template <class T>
void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
              const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs& a) {
  const Rows x(in.x), dy(dout.y);
  const Sizes n(in, x.count);
  const Index f = n.hidden, d = n.width;
  const T* const w = in.weight.data<T>();
  Storage hidden(n.rows * f * Index{sizeof(T)});
  T* const h = static_cast<T*>(hidden.data());
  T* const dx = din.x.defined() ? din.x.data<T>() : nullptr;
  act::dispatch(a.activation, [&]<class F>() {
    n.for_blocks([&](Index begin, Index rows) {
      Storage storage((dx ? rows : 0) * f * Index{sizeof(T)});
      T* const dh = static_cast<T*>(storage.data());
      if (dx) {
        gemm<T>(false, false, rows, f, d, 1.0, dy.row<T>(begin), dy.stride, w, f, 0.0, dh, f);
      }
      parallel_for(rows, n.grain(), [&](Index r0, Index r1) {
        for (Index r = r0; r < r1; ++r) {
          const T* const gate = x.row<T>(begin + r);
          T* const to_h = h + (begin + r) * f;
          if (dx) {
            T* const to = dx + (begin + r) * 2 * f;
            glu::backward_row<F, true>(gate, gate + f, dh + r * f, f, to, to + f, to_h);
          } else {
            glu::forward_row<F>(gate, gate + f, f, to_h);
          }
        }
      });
    });
  });
  if (din.weight.defined()) {
    gemm<T, acc_t<T>>(true, false, d, f, n.rows, 1.0, dy.row<T>(0), dy.stride, h, f,
                      din.weight.adds() ? 1.0 : 0.0, din.weight.data<acc_t<T>>(), f);
  }
}

LS_KERNEL(GluLinear)
    .reads("x", lies::rows)
    .reads("y", lies::rows_apart)
    .adds_grad("weight")
    .types<double, float, bf16>([]<class T>() { return std::pair(&forward<T>, &backward<T>); });

}  // namespace
}  // namespace ls::ops
