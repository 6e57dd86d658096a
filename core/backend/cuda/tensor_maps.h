#pragma once
// Tensor maps of [B,T,H,D] bf16 tensors for the copy engine, encoded on the host.
#include <cuda.h>
#include <cuda_runtime_api.h>

namespace ls::kernels {

/// Boxes of 64 tokens and 128 bytes of one head of [B,T,H,columns], in the layout of
/// device/tile.cuh. Coordinates: column, head, token, sequence. Tokens past the end of a sequence
/// read as zeros.
inline cudaError_t encode_boxes(CUtensorMap* map, CUtensorMapDataType type, int element_bytes,
                                const void* data, int batch, int tokens, int heads, int columns) {
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static const Encode encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry,
                                                               12000, cudaEnableDefault, &found);
    return error == cudaSuccess && found == cudaDriverEntryPointSuccess
               ? reinterpret_cast<Encode>(entry)
               : nullptr;
  }();
  if (!encode) {
    return cudaErrorNotSupported;
  }
  const auto size = [](int n) { return static_cast<cuuint64_t>(n); };
  const cuuint64_t extents[] = {size(columns), size(heads), size(tokens), size(batch)};
  const cuuint64_t row = size(columns) * size(element_bytes);
  const cuuint64_t strides[] = {row, row * size(heads), row * size(heads) * size(tokens)};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(128 / element_bytes), 1, 64, 1};
  const cuuint32_t steps[] = {1, 1, 1, 1};
  const CUresult result =
      encode(map, type, 4, const_cast<void*>(data), extents, strides, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

/// bf16: boxes of 64 columns.
inline cudaError_t encode_rows(CUtensorMap* map, const void* data, int batch, int tokens, int heads,
                               int columns) {
  return encode_boxes(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, data, batch, tokens, heads,
                      columns);
}
/// f32: boxes of 32 columns.
inline cudaError_t encode_gates(CUtensorMap* map, const float* data, int batch, int tokens,
                                int heads, int columns) {
  return encode_boxes(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4, data, batch, tokens, heads, columns);
}

}  // namespace ls::kernels
