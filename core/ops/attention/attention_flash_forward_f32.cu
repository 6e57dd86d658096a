// Forward of attention on tensor cores, f32.
#include "core/ops/attention/attention_flash_forward.cuh"

namespace ls::ops::attention::flash {

template void find_bounds<float>(const Call<float>&, int2*, int4*);
template bool keep<float>(const Call<float>&);
template int splits_of<float>(const Call<float>&, int);
template void forward<float>(const Call<float>&, const Extra&);

}  // namespace ls::ops::attention::flash
