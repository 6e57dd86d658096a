#pragma once
// Kimi Delta Attention in f64 on the host, one chain (sequence and head): token by token, and by
// the chunk algebra of the kernels (NOTES_kda_hopper.md). The second gives what each kernel
// leaves behind.
#include <vector>

namespace ls::kernels {

/// A token's log decay, as the kernels bound it: log2 -12.3.
inline constexpr double kKdaLeastGate = -12.3 * 0.69314718055994530942;

/// q, k, g [T,Dk]  v [T,Dv]  beta [T]  s0 [Dk,Dv]; cotangents go [T,Dv], gs [Dk,Dv].
struct KdaChain {
  int t, dk, dv;
  double scale;
  std::vector<double> q, k, v, g, beta, s0, go, gs;
};
struct KdaResult {
  std::vector<double> o, s;  // [T,Dv], [Dk,Dv]
  std::vector<double> dq, dk, dv, dg, dbeta, ds0;
};
/// Of one chunk, as the kernels store it (rows past the end are zero).
struct KdaChunk {
  std::vector<double> reader, query,
      writer;                 // [C,Dk]: exp(G) K, scale exp(G) Q, beta exp(G_C - G) K
  std::vector<double> n, p;   // [C,C]: I - A, scores with beta
  std::vector<double> x;      // [C,Dv]
  std::vector<double> s, ds;  // [Dk,Dv]: state before the chunk; gradient of the state after it
};

KdaResult kda_by_token(const KdaChain& in);
/// Gates are bounded as by the kernels. bf16_operands: whatever they multiply as bf16 is rounded
/// first; how far that alone carries the result from the exact one, the kernels may be off too.
KdaResult kda_by_chunk(const KdaChain& in, int chunk, std::vector<KdaChunk>* kept = nullptr,
                       bool bf16_operands = false);

}  // namespace ls::kernels
