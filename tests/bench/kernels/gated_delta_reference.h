#pragma once
// The gated delta rule in f64 on the host, one chain (sequence and head): token by token, and by
// the chunk algebra of the kernels (NOTES_gated_hopper.md). The second gives what each kernel
// leaves behind.
#include <vector>

namespace ls::kernels {

/// q, k [T,Dk]  v [T,Dv]  g, beta [T]  s0 [Dk,Dv]; cotangents go [T,Dv], gs [Dk,Dv].
struct DeltaChain {
  int t, dk, dv;
  double scale;
  std::vector<double> q, k, v, g, beta, s0, go, gs;
};
struct DeltaResult {
  std::vector<double> o, s;  // [T,Dv], [Dk,Dv]
  std::vector<double> dq, dk, dv, dg, dbeta, ds0;
};
/// Of one chunk, as the kernels store it (rows past the end are zero).
struct DeltaChunk {
  std::vector<double> n, p;   // [C,C]: T * D, strictly lower; scale * tril(Q K^T * D)
  std::vector<double> x, e;   // [C,Dv]: W = beta X; dV = beta E
  std::vector<double> s, ds;  // [Dk,Dv]: state before the chunk; gradient of the state after it
};

DeltaResult delta_by_token(const DeltaChain& in);
/// bf16_operands: whatever the kernels multiply as bf16 is rounded first; how far that alone
/// carries the result from the exact one, the kernels may be off too.
DeltaResult delta_by_chunk(const DeltaChain& in, int chunk, std::vector<DeltaChunk>* kept = nullptr,
                           bool bf16_operands = false);

}  // namespace ls::kernels
