// Forward of attention on tensor cores, bf16.
#include "core/ops/attention/attention_flash_forward.cuh"

namespace ls::ops::attention::flash {

template void find_bounds<bf16>(const Call<bf16>&, int2*, int4*);
template bool keep<bf16>(const Call<bf16>&);
template void copy_rows<bf16>(const Rows<const bf16>&, const Rows<bf16>&, Index, Index, Index,
                              Index);
template int splits_of<bf16>(const Call<bf16>&, int);
template void forward<bf16>(const Call<bf16>&, const Extra&);

}  // namespace ls::ops::attention::flash
