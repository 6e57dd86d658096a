#pragma once
// Softmax attention on tensor cores (sm_80 and later): passes over the pairs of a Call, any
// strides, heads of at most kMostChannels. attention_flash.cuh says how.
#include "core/ops/attention/attention_pairs.h"

namespace ls::ops::attention::flash {

inline constexpr Index kMostChannels = 128;

/// What the passes need besides the call. Queries of the heads that read one key head stand
/// together: query row r of a key head is token r / group, head r % group of the group.
struct Extra {
  const int2* bounds = nullptr;  ///< [B,Tq]: first key and end, of starts and documents; or null
  const int4* tiles =
      nullptr;  ///< of kBoundTokens queries: least first, last end, last first, least end
  float2* statistics = nullptr;  ///< [B,H,stride]: log2 of the sum of exponentials, delta; backward
  float* partial = nullptr;      ///< [splits,B,H,stride,Dv + 2]: outputs, maximum, sum; or null
  int splits = 1;                ///< of the keys, forward
  int stride = 0;                ///< of `statistics` and `partial`, rows: at least `rows`
  int rows = 0;                  ///< queries times group
  bool q_pieces = false, k_pieces = false, v_pieces = false;  ///< lie in pieces of 16 bytes
  bool o_pieces = false, go_pieces = false;
};
inline constexpr int kBoundTokens = 64;
inline constexpr int kPadded = 64;  ///< rows of statistics are a multiple of it

/// Whether rows of x may be read 16 bytes at once.
template <class T>
LS_ON_DEVICE bool in_pieces(const Rows<T>& x) {
  constexpr Index n = 16 / Index{sizeof(T)};
  return reinterpret_cast<std::uintptr_t>(x.base) % 16 == 0 && (x.b | x.t | x.h) % n == 0;
}

/// Writes `bounds` and `tiles` of a call with starts or documents.
template <class T>
void find_bounds(const Call<T>& call, int2* bounds, int4* tiles);
template <class T>
void copy_rows(const Rows<const T>& from, const Rows<T>& to, Index batch, Index tokens, Index heads,
               Index d);
/// Outgoing caches, where everything lies in pieces of 16 bytes; else false.
template <class T>
bool keep(const Call<T>& call);
/// Fills what `extra` says: o and lse, or partial sums and then those.
template <class T>
void forward(const Call<T>& call, const Extra& extra);
/// Keys are split into so many parts, so that few queries use the whole device; 1: they need not.
template <class T>
int splits_of(const Call<T>& call, int processors);
/// Statistics of the queries, and call.delta where it is there.
template <class T>
void prepare_backward(const Call<T>& call, const Extra& extra);
template <class T>
void query_gradients(const Call<T>& call, const Extra& extra);
template <class T>
void key_gradients(const Call<T>& call, const Extra& extra);

}  // namespace ls::ops::attention::flash
