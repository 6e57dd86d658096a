#pragma once
// Linear scans in chunks, for any sizes and any combination of operands, as code of blocks of
// threads (core/backend/cuda/device/block.h). Of one state head, S [Dk,Dv]:
//   none:      S_t = D_t S_{t-1} + k_t (w_t v_t)^T
//   key:       S_t = D_t S_{t-1} + k_t (w_t (v_t - k_t D_t S_{t-1}))^T
//   low rank:  S_t = D_t S_{t-1} + b_t (a_t S_{t-1})^T + k_t v_t^T
// with D_t = exp(g_t + gk_t) over rows, times exp(gv_t) over columns (none only). Query heads read
// S_t, or with a bonus u S_{t-1} and (q_t . u k_t) v_t. All decays are taken pair by pair, element
// by element, in exponents that are never above 0: any decay is right, however strong.
#include "core/ops/common/block_rows.h"

namespace ls::ops::linear_scan {

using common::blocks_of;
using common::kThreads;
using common::Rows;
using common::rows_at;
using common::rows_in;
using common::rows_to;
using common::Stretch;
using common::take;
using cuda::Block;
using cuda::Tile;

inline constexpr int kTile = 32;  ///< channels of a tile
/// Tokens of a chunk.
template <class A>
inline constexpr int kTokens = sizeof(A) == 8 ? 16 : 32;

/// A chunk of at most C tokens. Where a state between two chunks lies is the number of the second
/// one's first token, of all rows' tokens, over C: no two are the same.
struct Slot {
  Index row = 0, token = 0;
  int length = 0;     ///< 0: no chunk
  Index before = -1;  ///< place of the state before it; -1: the sequence begins here
  Index after = -1;   ///< of the one after it; -1: the sequence ends here
  Index start = -1;   ///< entry of the incoming states from which its sequence starts; -1: zeros
  Index end = -1;     ///< entry of the outgoing states; -1: none
};

enum class Erase : std::uint8_t { kNone, kKey, kLowRank };

/// States [entries,H,Dk,Dv]; the last column may be a tensor of its own [entries,H,Dk].
template <class A>
struct StateRows {
  A* base = nullptr;
  A* column = nullptr;
  Index dv = 0;  ///< of base
  LS_ON_DEVICE explicit operator bool() const { return base != nullptr || column != nullptr; }
  /// `row` counts entries, heads and key channels.
  LS_ON_DEVICE A* at(Index row, Index c) const {
    if (c < dv) {
      return base ? base + row * dv + c : nullptr;
    }
    return column ? column + row : nullptr;
  }
};

/// One call; T is the type of vectors, Y that of outputs. Numbers of a token are [B,T,...], so
/// that memory does not grow with the number of documents.
template <class T, class Y>
struct Call {
  using A = acc_t<T>;
  static constexpr int C = kTokens<A>;
  Index batch = 0, tokens = 0, heads = 0, dk = 0, dv = 0;
  Index group = 1;        ///< outputs that read one state
  Index key_share = 1;    ///< state heads that share a key
  Index query_share = 1;  ///< and a query; more than 1 only where group is 1
  Index bonus_share = 1;
  Index value_dv = 0;    ///< columns of v; dv is one more where the last is all ones
  A scale = 1, eps = 0;  ///< eps: of the norm of q and k
  bool normalize = false, exclusive = false;
  Erase erase = Erase::kNone;
  Rows<const T> q, k, v, a, b, beta;
  Rows<const A> weight, g, gk, gv;  ///< g of a constant has no strides but for heads
  const A* u = nullptr;             ///< [HU,Dk]
  StateRows<const A> s0;
  // Tables.
  common::StretchTable sequences;
  Index slot_count = 0;
  Slot* slots = nullptr;
  // What `prepare` makes. Of queries [B,T,H*group,..], else [B,T,H,..].
  A* q_in = nullptr;  ///< scale q exp(G), G the running sum of the chunk's decays
  A* e_in = nullptr;  ///< the same of what reads to erase: k, or a
  A *k_out = nullptr, *b_out = nullptr;  ///< k, b times exp(G_C - G)
  A* all = nullptr;                      ///< exp(G_C), at the chunk's first token [B,T,H,Dk]
  A *p = nullptr, *pb = nullptr;         ///< [..,C]: what queries read of k's and b's writes
  A *mk = nullptr, *mb = nullptr;        ///< [..,C]: the same of what is erased
  A* solve = nullptr;                    ///< [..,C]: (I + mk w)^-1, or (I - mb)^-1
  // What `forward` makes.
  Rows<Y> o;
  StateRows<A> sT;
  A* states = nullptr;  ///< [B T / C + 1,H,Dk,Dv] by Slot::before
  A* y = nullptr;       ///< [B,T,H,Dv]: v - k D S, or a S
  // What the way back takes and makes.
  Rows<const Y> go;
  StateRows<const A> gsT;
  A* gstates = nullptr;   ///< gradients of `states`
  A* gs_first = nullptr;  ///< [sequences,H,Dk,Dv] where several start from one entry
  A* z = nullptr;         ///< gradient of y
  A* gx = nullptr;        ///< of what is written, w y
  A *gp = nullptr, *gpb = nullptr, *gmk = nullptr, *gmb = nullptr;
  A *gq = nullptr, *gk_row = nullptr, *ga = nullptr, *gb = nullptr;  ///< before heads are summed
  A* gg_tile = nullptr;                                              ///< [B,T,H,tiles]
  A* gu_slot = nullptr;                                              ///< [slots,H,Dk]
  // Gradients that are wanted.
  Rows<T> dq, dk_, dv_, da, db, dbeta;
  Rows<A> dweight, dg, dgk, dgv;
  A* du = nullptr;
  StateRows<A> ds0;

  LS_ON_DEVICE bool erases() const { return erase != Erase::kNone; }
  LS_ON_DEVICE bool low_rank() const { return erase == Erase::kLowRank; }
  LS_ON_DEVICE Index key_tiles() const { return (dk + kTile - 1) / kTile; }
  LS_ON_DEVICE Index value_tiles() const { return (dv + kTile - 1) / kTile; }
  LS_ON_DEVICE Index key_heads() const { return heads / key_share; }
  LS_ON_DEVICE Index out_heads() const { return heads * group; }
  LS_ON_DEVICE Index key_of(Index h) const { return h / key_share; }
  LS_ON_DEVICE Index query_of(Index h, Index j) const {
    return query_share > 1 ? h / query_share : h * group + j;
  }
  /// Place of a token of a slot among those of all rows.
  LS_ON_DEVICE Index token_of(const Slot& s, int i = 0) const {
    return s.row * tokens + s.token + i;
  }
  LS_ON_DEVICE Index of_state(const Slot& s, int i, Index h) const {
    return token_of(s, i) * heads + h;
  }
  LS_ON_DEVICE Index of_query(const Slot& s, int i, Index h, Index j) const {
    return token_of(s, i) * out_heads() + h * group + j;
  }
  LS_ON_DEVICE A weight_of(const Slot& s, int i, Index h) const {
    if (beta) {
      return convert<A>(*beta.at(s.row, s.token + i, h));
    }
    return weight ? *weight.at(s.row, s.token + i, h) : A(1);
  }
  LS_ON_DEVICE A value_of(const Slot& s, int i, Index h, Index c) const {
    return c < value_dv ? convert<A>(v.at(s.row, s.token + i, h)[c]) : A(1);
  }
  /// The state before a slot.
  LS_ON_DEVICE A state_before(const Slot& s, Index h, Index i, Index c) const {
    if (s.before >= 0) {
      return states[((s.before * heads + h) * dk + i) * dv + c];
    }
    const A* const from = s.start >= 0 ? s0.at((s.start * heads + h) * dk + i, c) : nullptr;
    return from ? *from : A(0);
  }
  LS_ON_DEVICE A gradient_after(const Slot& s, Index h, Index i, Index c) const {
    if (s.after >= 0) {
      return gstates[((s.after * heads + h) * dk + i) * dv + c];
    }
    const A* const from = s.end >= 0 ? gsT.at((s.end * heads + h) * dk + i, c) : nullptr;
    return from ? *from : A(0);
  }
};

/// The n-th chunk of a sequence.
template <class T, class Y>
LS_ON_DEVICE Slot slot_of(const Call<T, Y>& call, const Stretch& s, Index n) {
  constexpr int C = Call<T, Y>::C;
  const Index begin = n * C, rest = s.length - begin;
  const Index first = s.row * call.tokens + s.token + begin;
  const bool last = rest <= C;
  return {s.row,
          s.token + begin,
          static_cast<int>(last ? rest : C),
          n > 0 ? first / C : -1,
          last ? -1 : (first + C) / C,
          s.start,
          last ? s.end : -1};
}
LS_ON_DEVICE inline Index slots_of(const Stretch& s, int tokens) {
  return (s.length + tokens - 1) / tokens;
}

/// The slots of a sequence, those of others behind them.
template <class T, class Y>
struct MakeSlots {
  struct Shared {};
  LS_ON_DEVICE static void run(const Block& block, const Call<T, Y>& call, Shared*) {
    constexpr int C = Call<T, Y>::C;
    block.each(static_cast<int>(call.slot_count), [&](int i) { call.slots[i] = Slot{}; });
    block.sync();
    block.each(static_cast<int>(call.sequences.count), [&](int i) {
      const Stretch& s = call.sequences.at[i];
      const Index first = (s.row * call.tokens + s.token) / C + i;
      for (Index z = 0; z < slots_of(s, C); ++z) {
        call.slots[first + z] = slot_of(call, s, z);
      }
    });
  }
};

}  // namespace ls::ops::linear_scan
