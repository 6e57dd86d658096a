// The loops of common/mean_norm.h with one group a row; NOTES.md has the gradient.
#include "core/ops/layer_norm/layer_norm.h"

#include "core/ops/common/mean_norm.h"

namespace ls::ops {
namespace {

MeanNormArgs args(const LayerNorm::Attrs& a) {
  return {.groups = 1, .eps = a.eps, .norm_before_gate = a.norm_before_gate};
}

template <class T>
struct Kernel {
  static void forward(const LayerNorm::In<Tensor>& in, LayerNorm::Out<Tensor>& out,
                      const LayerNorm::Attrs& a) {
    mean_norm_forward<T>(in, out, args(a));
  }
  static void backward(const LayerNorm::In<Tensor>& in, const LayerNorm::Out<Tensor>& out,
                       const LayerNorm::Out<Tensor>& dout, LayerNorm::In<Tensor>& din,
                       const LayerNorm::Attrs& a) {
    mean_norm_backward<T>(in, out, dout, din, args(a));
  }
};

LS_KERNEL(LayerNorm).kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
