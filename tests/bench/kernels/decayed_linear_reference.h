#pragma once
// Decayed linear attention in f64 on the host, one chain (sequence and head): token by token, and
// by the chunk algebra of the kernels (core/ops/decayed_linear/NOTES_hopper.md).
#include <vector>

namespace ls::kernels {

/// q, k [T,Dk]  v [T,Dv]  g [T,gates], gates 1 or Dk  s0 [Dk,Dv]; cotangents go [T,Dv], gs [Dk,Dv].
struct LinearChain {
  int t, dk, dv, gates;
  double scale;
  std::vector<double> q, k, v, g, s0, go, gs;
};
struct LinearResult {
  std::vector<double> o, s;                 // [T,Dv], [Dk,Dv]
  std::vector<double> dq, dk, dv, dg, ds0;  // as the inputs
};

LinearResult linear_by_token(const LinearChain& in);
LinearResult linear_by_chunk(const LinearChain& in, int chunk);

}  // namespace ls::kernels
