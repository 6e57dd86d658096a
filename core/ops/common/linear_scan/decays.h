#pragma once
// The decays of a chunk, by channel. Running sums are kept in two parts: after a very negative
// decay a plain sum would have lost the digits that differences of later ones need.
#include "core/ops/common/linear_scan/call.h"

namespace ls::ops::linear_scan {

/// Running sums G of the log-decays of kTile channels, G_{-1} = 0.
template <class A>
struct Decays {
  static constexpr int C = kTokens<A>;
  Tile<A, C, kTile> high, low;  ///< G = high + low, inclusive

  /// Sums what `high` holds, which begins to hold the sums; behind a sync, and one must follow.
  LS_ON_DEVICE void sum(const Block& block) {
    block.each(kTile, [&](int i) {
      A sum = 0, rest = 0;
      for (int t = 0; t < C; ++t) {
        const A given = high(t, i);
        const A x = given < A(-2000) ? A(-2000) : given;  // as good as -infinity, and finite
        const A next = sum + x, back = next - sum;
        rest += (sum - (next - back)) + (x - back);
        sum = next;
        high(t, i) = sum;
        low(t, i) = rest;
      }
    });
  }
  /// exp(G_t); t may be -1.
  LS_ON_DEVICE A in(int t, int i) const { return t < 0 ? A(1) : exp(high(t, i) + low(t, i)); }
  /// exp(G_t - G_s), s <= t.
  LS_ON_DEVICE A between(int t, int s, int i) const {
    return exp((high(t, i) - high(s, i)) + (low(t, i) - low(s, i)));
  }
  LS_ON_DEVICE static A exp(A x) { return std::exp(x); }
};

/// The log-decays of channels i0 .. of key rows go into `to`, 0 beyond the chunk.
template <class T, class Y>
LS_ON_DEVICE void load_row_decays(const Block& block, const Call<T, Y>& call, const Slot& s,
                                  Index h, Index i0, Decays<acc_t<T>>& to) {
  using A = acc_t<T>;
  cuda::fill(block, to.high, [&](int t, int i) {
    const Index channel = i0 + i;
    A x = 0;
    if (t < s.length && channel < call.dk) {
      x = call.g ? *call.g.at(s.row, s.token + t, h) : A(0);
      x += call.gk ? call.gk.at(s.row, s.token + t, h)[channel] : A(0);
    }
    return x;
  });
}
/// The same of value columns c0 ...
template <class T, class Y>
LS_ON_DEVICE void load_column_decays(const Block& block, const Call<T, Y>& call, const Slot& s,
                                     Index h, Index c0, Decays<acc_t<T>>& to) {
  using A = acc_t<T>;
  cuda::fill(block, to.high, [&](int t, int c) {
    const Index column = c0 + c;
    return t < s.length && column < call.dv ? call.gv.at(s.row, s.token + t, h)[column] : A(0);
  });
}

/// 1 / |row| of one head's rows of q or k, 1 where they are not normalized. A sync must follow.
template <class T, class Y>
LS_ON_DEVICE void load_norms(const Block& block, const Call<T, Y>& call, const Slot& s,
                             const Rows<const T>& x, Index h, acc_t<T>* to) {
  using A = acc_t<T>;
  block.each(Call<T, Y>::C, [&](int t) {
    to[t] = 1;
    if (call.normalize && t < s.length) {
      const T* const row = x.at(s.row, s.token + t, h);
      A sum = call.eps;
      for (Index i = 0; i < call.dk; ++i) {
        sum += convert<A>(row[i]) * convert<A>(row[i]);
      }
      to[t] = 1 / std::sqrt(sum);
    }
  });
}

/// Channels i0 .. of a chunk's rows times `factor`, 0 beyond the chunk.
template <class T, class Y, class A = acc_t<T>>
LS_ON_DEVICE void load_rows(const Block& block, const Call<T, Y>& call, const Slot& s,
                            const Rows<const T>& x, Index h, Index i0, const A* factor,
                            Tile<A, Call<T, Y>::C, kTile>& to) {
  cuda::fill(block, to, [&](int t, int i) {
    const bool there = t < s.length && i0 + i < call.dk;
    return there ? convert<A>(x.at(s.row, s.token + t, h)[i0 + i]) * (factor ? factor[t] : A(1))
                 : A(0);
  });
}

}  // namespace ls::ops::linear_scan
