// Launches of the forward loop at Dk 256 (gated_delta_wide.cuh).
#include "core/ops/delta_rule/gated_delta_wide.cuh"

namespace ls::kernels::gated_delta {
namespace {

template <wide::Loop kLoop>
__global__ void __launch_bounds__(wide::kThreads, 1)
    wide_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                const __grid_constant__ CUtensorMap v, const __grid_constant__ CUtensorMap o,
                const __grid_constant__ forward::Arguments args, int pairs) {
#if LS_HOPPER_CODE
  extern __shared__ __align__(1024) unsigned char raw[];
  wide::run<kLoop>(*reinterpret_cast<wide::Shared*>(raw), static_cast<int>(blockIdx.x), q, k, v, o,
                   args, pairs);
#endif
}

}  // namespace

/// There is no room for O and X in one loop: states are one more.
cudaError_t gated_delta_wide_forward(const DeltaSizes& z, const DeltaInputs& in, bf16* o,
                                     float* s_end, const void* kept, void* states,
                                     cudaStream_t stream) {
  CUtensorMap q, k, v, out;
  if (const cudaError_t e = encode_rows(&q, in.q, z.batch, z.tokens, z.key_heads, z.dk)) return e;
  if (const cudaError_t e = encode_rows(&k, in.k, z.batch, z.tokens, z.key_heads, z.dk)) return e;
  if (const cudaError_t e = encode_rows(&v, in.v, z.batch, z.tokens, z.heads, z.dv, in.v_steps)) {
    return e;
  }
  if (const cudaError_t e = encode_rows(&out, o, z.batch, z.tokens, z.heads, z.dv)) return e;
  const forward::Arguments args = forward::arguments(z, in, o, s_end, kept, states);
  int processors = 0;
  if (const cudaError_t e = processor_count(&processors)) return e;
  // The pairs that would begin a last round on at most half of the processors are taken apart.
  const int all = z.sequences() * z.heads * args.slices / 2, last = all % processors;
  const int pairs = 2 * last <= processors ? all - last : all;
  const auto blocks = static_cast<unsigned>(pairs + 2 * (all - pairs));
  const auto launch = [&](auto kernel) {
    constexpr int kBytes = sizeof(wide::Shared);
    if (const cudaError_t e = allow_shared(kernel, kBytes)) return e;
    kernel<<<blocks, wide::kThreads, kBytes, stream>>>(q, k, v, out, args, pairs);
    return cudaGetLastError();
  };
  const cudaError_t e = launch(wide_kernel<wide::Loop::kForward>);
  return e || !states ? e : launch(wide_kernel<wide::Loop::kStates>);
}

}  // namespace ls::kernels::gated_delta
