// Backward of attention on tensor cores, f32.
#include "core/ops/attention/attention_flash_backward.cuh"

namespace ls::ops::attention::flash {

template void prepare_backward<float>(const Call<float>&, const Extra&);
template void query_gradients<float>(const Call<float>&, const Extra&);
template void key_gradients<float>(const Call<float>&, const Extra&);

}  // namespace ls::ops::attention::flash
