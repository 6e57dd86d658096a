// Forward of Kimi Delta Attention: records of every chunk, then the loop over chunks.
#include "core/ops/delta_rule/kda_forward.cuh"

namespace ls::kernels::kda {

namespace {

template <bool kCuts>
__global__ void __launch_bounds__(kda_loop::kThreads, 1)
    kda_outputs_kernel(const __grid_constant__ CUtensorMap v, const __grid_constant__ CUtensorMap o,
                       const __grid_constant__ kda_loop::Arguments args) {
#if LS_HOPPER_CODE
  extern __shared__ __align__(1024) unsigned char raw[];
  kda_loop::run<true, kCuts>(raw, static_cast<int>(blockIdx.x), v, o, args);
#endif
}

}  // namespace

cudaError_t kda_outputs(const KdaSizes& z, const KdaInputs& in, bf16* o, float* s_end,
                        const void* kept, cudaStream_t stream) {
  CUtensorMap v, out;
  if (const cudaError_t e = encode_rows(&v, in.v, z.batch, z.tokens, z.heads, kDv, in.v_steps)) {
    return e;
  }
  if (const cudaError_t e = encode_rows(&out, o, z.batch, z.tokens, z.heads, kDv)) return e;
  constexpr int kBytes = sizeof(kda_loop::Shared<true>);
  static_assert(kBytes <= 227 * 1024);
  const auto kernel = in.offsets ? &kda_outputs_kernel<true> : &kda_outputs_kernel<false>;
  if (const cudaError_t e = allow_shared(kernel, kBytes)) return e;
  kernel<<<z.chains() * kSlices, kda_loop::kThreads, kBytes, stream>>>(
      v, out, kda_loop::arguments(z, in, o, s_end, kept, nullptr));
  return cudaGetLastError();
}

cudaError_t kda_forward(const KdaSizes& z, const KdaInputs& in, bf16* o, float* s_end, void* kept,
                        cudaStream_t stream) {
  if (!z.valid()) return cudaErrorInvalidValue;
  if (z.records() == 0) return pass_state(z.state_elements(), in.s0, s_end, stream);
  if (const cudaError_t e = kda_prepare(z, in, kept, stream)) return e;
  return kda_outputs(z, in, o, s_end, kept, stream);
}

}  // namespace ls::kernels::kda
