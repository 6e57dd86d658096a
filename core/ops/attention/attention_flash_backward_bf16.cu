// Backward of attention on tensor cores, bf16.
#include "core/ops/attention/attention_flash_backward.cuh"

namespace ls::ops::attention::flash {

template void prepare_backward<bf16>(const Call<bf16>&, const Extra&);
template void query_gradients<bf16>(const Call<bf16>&, const Extra&);
template void key_gradients<bf16>(const Call<bf16>&, const Extra&);

}  // namespace ls::ops::attention::flash
