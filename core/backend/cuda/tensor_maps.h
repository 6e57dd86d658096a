#pragma once
// Tensor maps of [B,T,H,D] bf16 tensors for the copy engine, encoded on the host.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include "core/backend/cuda/row_steps.h"

namespace ls::kernels {

/// What a map is made of: extents, and in bytes how far heads, tokens and sequences lie apart.
struct Boxes {
  CUtensorMapDataType type;
  int element_bytes, batch, tokens, heads, columns;
  cuuint64_t head_bytes, token_bytes, sequence_bytes;
};
/// Boxes of 64 tokens and 128 bytes of one head of [B,T,H,columns], in the layout of
/// device/tile.cuh. Coordinates: column, head, token, sequence. Tokens past the end of a sequence
/// read as zeros.
inline cudaError_t encode_boxes(CUtensorMap* map, const void* data, const Boxes& x) {
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
  const cuuint64_t extents[] = {size(x.columns), size(x.heads), size(x.tokens), size(x.batch)};
  const cuuint64_t strides[] = {x.head_bytes, x.token_bytes, x.sequence_bytes};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(128 / x.element_bytes), 1, 64, 1};
  const cuuint32_t steps[] = {1, 1, 1, 1};
  const CUresult result =
      encode(map, x.type, 4, const_cast<void*>(data), extents, strides, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}
/// The same without gaps.
inline cudaError_t encode_boxes(CUtensorMap* map, CUtensorMapDataType type, int element_bytes,
                                const void* data, int batch, int tokens, int heads, int columns) {
  const auto size = [](int n) { return static_cast<cuuint64_t>(n); };
  const cuuint64_t row = size(columns) * size(element_bytes);
  return encode_boxes(map, data,
                      {type, element_bytes, batch, tokens, heads, columns, row, row * size(heads),
                       row * size(heads) * size(tokens)});
}

/// bf16 rows of heads, tokens and sequences that lie so many elements apart, multiples of 8; boxes
/// of 64 columns.
inline cudaError_t encode_strided_rows(CUtensorMap* map, const void* data, int batch, int tokens,
                                       int heads, int columns, long long sequence_stride,
                                       long long token_stride, long long head_stride) {
  const auto bytes = [](long long n) { return static_cast<cuuint64_t>(n) * 2; };
  return encode_boxes(map, data,
                      {CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, batch, tokens, heads, columns,
                       bytes(head_stride), bytes(token_stride), bytes(sequence_stride)});
}
/// bf16: boxes of 64 columns.
inline cudaError_t encode_rows(CUtensorMap* map, const void* data, int batch, int tokens, int heads,
                               int columns) {
  return encode_boxes(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, data, batch, tokens, heads,
                      columns);
}
/// The same of rows with gaps between them, multiples of 8 elements.
inline cudaError_t encode_rows(CUtensorMap* map, const void* data, int batch, int tokens, int heads,
                               int columns, const RowSteps& steps) {
  const RowSteps s = steps.of(tokens, heads, columns);
  return encode_strided_rows(map, data, batch, tokens, heads, columns, s.sequence, s.token, s.head);
}
/// f32: boxes of 32 columns.
inline cudaError_t encode_gates(CUtensorMap* map, const float* data, int batch, int tokens,
                                int heads, int columns) {
  return encode_boxes(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4, data, batch, tokens, heads, columns);
}

}  // namespace ls::kernels
