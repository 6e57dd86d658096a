// Launches of the forward chunk loops (gated_delta_forward.cuh, gated_delta_wide.cuh).
#include "core/ops/delta_rule/gated_delta_forward.cuh"

namespace ls::kernels::gated_delta {

cudaError_t gated_delta_wide_forward(const DeltaSizes& z, const DeltaInputs& in, bf16* o,
                                     float* s_end, const void* kept, void* states,
                                     cudaStream_t stream);

namespace {

template <int kDk, bool kOutput, bool kStates>
__global__ void __launch_bounds__(forward::kThreads, forward::kCtas<kDk>)
    forward_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                   const __grid_constant__ CUtensorMap v, const __grid_constant__ CUtensorMap o,
                   const __grid_constant__ forward::Arguments args) {
#if LS_HOPPER_CODE
  extern __shared__ __align__(1024) unsigned char raw[];
  forward::run<kDk, kOutput, kStates>(raw, static_cast<int>(blockIdx.x), q, k, v, o, args);
#endif
}

template <int kDk, bool kStates>
cudaError_t launch(const DeltaSizes& z, const DeltaInputs& in, bf16* o, float* s_end,
                   const void* kept, void* states, cudaStream_t stream) {
  CUtensorMap q, k, v, out;
  if (const cudaError_t e = encode_rows(&q, in.q, z.batch, z.tokens, z.key_heads, z.dk)) return e;
  if (const cudaError_t e = encode_rows(&k, in.k, z.batch, z.tokens, z.key_heads, z.dk)) return e;
  if (const cudaError_t e = encode_rows(&v, in.v, z.batch, z.tokens, z.heads, z.dv, in.v_steps)) {
    return e;
  }
  if (const cudaError_t e = encode_rows(&out, o, z.batch, z.tokens, z.heads, z.dv)) return e;
  constexpr int kBytes = sizeof(forward::Shared<kDk, true, kStates>);
  static_assert(kBytes <= 227 * 1024);
  const auto kernel = forward_kernel<kDk, true, kStates>;
  if (const cudaError_t e = allow_shared(kernel, kBytes)) return e;
  const forward::Arguments args = forward::arguments(z, in, o, s_end, kept, states);
  kernel<<<static_cast<unsigned>(z.sequences() * z.heads * args.slices), forward::kThreads, kBytes,
           stream>>>(q, k, v, out, args);
  return cudaGetLastError();
}

}  // namespace

cudaError_t gated_delta_forward(const DeltaSizes& z, const DeltaInputs& in, bf16* o, float* s_end,
                                void* kept, void* states, cudaStream_t stream) {
  if (!valid(z, in)) return cudaErrorInvalidValue;
  if (no_tokens(z)) return pass_state(z.state_elements(), in.s0, s_end, stream);
  if (const cudaError_t e = gated_delta_scores(z, in, kept, stream)) return e;
  return with_width(z, [&](auto width) {
    constexpr int kDk = decltype(width)::kValue;
    if constexpr (kDk > 128) {
      return gated_delta_wide_forward(z, in, o, s_end, kept, states, stream);
    } else {
      return states ? launch<kDk, true>(z, in, o, s_end, kept, states, stream)
                    : launch<kDk, false>(z, in, o, s_end, kept, nullptr, stream);
    }
  });
}

}  // namespace ls::kernels::gated_delta
