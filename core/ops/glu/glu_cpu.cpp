// y = act(gate) * up, each [rows, f], gate and up two tensors or the halves of one. A thread owns
// rows; rows with gaps between them are fetched kAhead rows before their turn.
#include "core/base/parallel_for.h"
#include "core/ops/common/glu_rows.h"
#include "core/ops/glu/glu.h"
#include "core/tensor/rows.h"

namespace ls::ops {
namespace {

struct Halves {
  Rows gate, up;
  explicit Halves(const Glu::In<Tensor>& in)
      : gate(in.x.defined() ? in.x.slice(-1, 0, in.x.size(-1) / 2) : in.gate),
        up(in.x.defined() ? in.x.slice(-1, in.x.size(-1) / 2, in.x.size(-1)) : in.up) {}
};

constexpr Index kGrain = 1 << 13;
constexpr Index kAhead = 2;

template <class T>
void forward(const Glu::In<Tensor>& in, Glu::Out<Tensor>& out, const Glu::Attrs& a) {
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
void backward(const Glu::In<Tensor>& in, const Glu::Out<Tensor>&, const Glu::Out<Tensor>& dout,
              Glu::In<Tensor>& din, const Glu::Attrs& a) {
  const Halves h(in);
  const Rows dy(dout.y);
  const Index f = h.gate.cols;
  T* dgate = nullptr;
  T* dup = nullptr;
  Index stride = f;
  Tensor unwanted;  // a half that nobody asked for is computed all the same
  if (din.x.defined()) {
    dgate = din.x.data<T>();
    dup = dgate + f;
    stride = 2 * f;
  } else {
    if (!din.gate.defined() || !din.up.defined()) {
      unwanted = Tensor::empty({h.gate.count, f}, dtype_of_v<T>);
    }
    dgate = (din.gate.defined() ? din.gate : unwanted).data<T>();
    dup = (din.up.defined() ? din.up : unwanted).data<T>();
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

LS_KERNEL(Glu).types<double, float, bf16>([]<class T>() {
  return std::pair(&forward<T>, &backward<T>);
});

}  // namespace
}  // namespace ls::ops
