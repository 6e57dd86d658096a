#include "core/ops/layer_norm/layer_norm.h"

#include "core/op/remade.h"
#include "core/ops/common/mean_norm_reference.h"

namespace ls::ops {
namespace {

template <class Real>
using Reference = MeanNormReference<LayerNorm, Real>;

LS_OP(LayerNorm, "layer_norm", "layer norm, gated")
    .in("x[...,D] weight[D]:acc? bias[D]:acc? z[...,D]?")
    .out("y[...,D] mean[...]:acc rstd[...]:acc")
    .saves("x weight bias z mean rstd")
    .reference<Reference>()
    .cost(Reference<double>::cost);
LS_REMADE(LayerNorm, "y");

}  // namespace
}  // namespace ls::ops
