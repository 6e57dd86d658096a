#pragma once
// Softmax attention on sm_90a: calls without a cache, bf16, of operands that the copy engine can
// read where they lie.
#include "core/backend/cuda/tensor_maps.h"
#include "core/ops/attention/attention_flash_passes.cuh"

namespace ls::ops::attention::hopper {

/// Maps of rows of any strides in pieces of 16 bytes.
template <class T>
void encode(CUtensorMap& map, const Rows<T>& x, Index batch, Index tokens, Index heads, Index d) {
  const auto n = [](Index i) { return static_cast<int>(i); };
  cuda::check(kernels::encode_strided_rows(&map, x.base, n(batch), n(tokens), n(heads), n(d), x.b,
                                           x.t, x.h),
              "describing an operand of attention");
}

/// o and lse. Of `extra` with rows and stride counted in tokens: query heads are on their own.
void forward(const Call<bf16>& call, const flash::Extra& extra);
/// From the statistics of flash::prepare_backward; what is not wanted is not made.
void query_gradients(const Call<bf16>& call, const flash::Extra& extra);
void key_gradients(const Call<bf16>& call, const flash::Extra& extra);

}  // namespace ls::ops::attention::hopper
