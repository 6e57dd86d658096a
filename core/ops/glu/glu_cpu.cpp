// y = act(gate) * up, each [rows, f], gate and up two tensors or the halves of one. A thread owns
// rows; rows with gaps between them are fetched kAhead rows before their turn.
#include <vector>

#include "core/base/parallel_for.h"
#include "core/op/declare.h"
#include "core/ops/common/glu_rows.h"
#include "core/ops/glu/glu.h"
#include "core/tensor/rows.h"

namespace ls::ops {
namespace {

struct Halves {
  Rows gate, up;
  explicit Halves(const Glu::In<TensorView>& in)
      : gate(in.x.defined() ? in.x.slice(-1, 0, in.x.size(-1) / 2) : in.gate),
        up(in.x.defined() ? in.x.slice(-1, in.x.size(-1) / 2, in.x.size(-1)) : in.up) {}
};

constexpr Index kGrain = 1 << 13;
constexpr Index kAhead = 2;

template <class T>
void forward(const Glu::In<TensorView>& in, Glu::Out<TensorView>& out, const Glu::Attrs& a) {
  const Halves h(in);
  const Index f = h.gate.cols;
  T* y = out.y.data<T>();
  act::dispatch(a.activation, [&]<class F>() {
    parallel_for(h.gate.count, row_grain(f, kGrain), [&](Index r0, Index r1) {
      for (Index r = r0; r < r1; ++r) {
        h.gate.prefetch<T>(r + kAhead);
        h.up.prefetch<T>(r + kAhead);
        glu::forward_row<F>(h.gate.row<T>(r), h.up.row<T>(r), f, y + r * f);
      }
    });
  });
}

template <class T>
void backward(const Glu::In<TensorView>& in, const Glu::Out<TensorView>&,
              const Glu::Out<TensorView>& dout, Glu::In<TensorView>& din, const Glu::Attrs& a) {
  const Halves h(in);
  const Rows dy(dout.y);
  const Index f = h.gate.cols;
  T* dgate = nullptr;
  T* dup = nullptr;
  Index stride = f;
  std::vector<T> unwanted;  // a half that nobody asked for is computed all the same
  if (din.x.defined()) {
    dgate = din.x.data<T>();
    dup = dgate + f;
    stride = 2 * f;
  } else {
    if (!din.gate.defined() || !din.up.defined()) {
      unwanted.resize(static_cast<std::size_t>(h.gate.count * f));
    }
    dgate = din.gate.defined() ? din.gate.data<T>() : unwanted.data();
    dup = din.up.defined() ? din.up.data<T>() : unwanted.data();
  }
  act::dispatch(a.activation, [&]<class F>() {
    parallel_for(h.gate.count, row_grain(f, kGrain), [&](Index r0, Index r1) {
      for (Index r = r0; r < r1; ++r) {
        h.gate.prefetch<T>(r + kAhead);
        h.up.prefetch<T>(r + kAhead);
        dy.prefetch<T>(r + kAhead);
        glu::backward_row<F, false>(h.gate.row<T>(r), h.up.row<T>(r), dy.row<T>(r), f,
                                    dgate + r * stride, dup + r * stride, static_cast<T*>(nullptr));
      }
    });
  });
}

LS_KERNEL(Glu).reads("x gate up y", lies::rows).types<double, float, bf16>([]<class T>() {
  return std::pair(&forward<T>, &backward<T>);
});

}  // namespace
}  // namespace ls::ops
