#pragma once
// Token-by-token kernels read and change a state [Dk,Dv] by tiles of columns that fit in registers.
#include "core/base/types.h"

namespace ls::ops::common {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

/// One vector register of a row of a state.
template <class A>
struct Lanes {
  static constexpr Index kCount = kVectorBytes / Index{sizeof(A)};
  typedef A Vector __attribute__((vector_size(kVectorBytes)));
  typedef A Unaligned __attribute__((vector_size(kVectorBytes), aligned(alignof(A)), may_alias));
  static Vector load(const A* p) { return *reinterpret_cast<const Unaligned*>(p); }
  static void store(A* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }
};

/// A tile of columns: NV vectors wide, or (NV = 0) `cols` columns, fewer than one vector.
template <class A, int NV>
class Columns {
  using L = Lanes<A>;
  static constexpr int kVectors = NV > 0 ? NV : 1;

 public:
  explicit Columns(Index cols) : cols_(cols) {}
  /// Sums start at zero.
  void clear() {
    for (int j = 0; j < kVectors; ++j) {
      sum_[j] = typename L::Vector{};
    }
  }
  void add(A f, const A* row) {
    for (int j = 0; j < kVectors; ++j) {
      sum_[j] += f * load(row, j);
    }
  }
  /// row = decay * from + f * x, and the sum takes read * row.
  void update(A decay, const A* from, A f, const Columns& x, A read, A* row) {
    for (int j = 0; j < kVectors; ++j) {
      const typename L::Vector s = decay * load(from, j) + f * x.sum_[j];
      store(row, j, s);
      sum_[j] += read * s;
    }
  }
  /// row = decay * columns * from + f * x, and the sum takes read * row.
  void update(A decay, const A* columns, const A* from, A f, const Columns& x, A read, A* row) {
    for (int j = 0; j < kVectors; ++j) {
      const typename L::Vector s = decay * load(columns, j) * load(from, j) + f * x.sum_[j];
      store(row, j, s);
      sum_[j] += read * s;
    }
  }
  /// row = f * x, and the sum takes read * row: the first token of a zero state.
  void begin(A f, const Columns& x, A read, A* row) {
    for (int j = 0; j < kVectors; ++j) {
      const typename L::Vector s = f * x.sum_[j];
      store(row, j, s);
      sum_[j] += read * s;
    }
  }
  void read(const A* row) {
    for (int j = 0; j < kVectors; ++j) {
      sum_[j] = load(row, j);
    }
  }
  void write(A* row) const {
    for (int j = 0; j < kVectors; ++j) {
      store(row, j, sum_[j]);
    }
  }

 private:
  typename L::Vector load(const A* p, int j) const {
    if constexpr (NV > 0) {
      return L::load(p + j * L::kCount);
    } else {
      typename L::Vector v{};
      for (Index i = 0; i < cols_; ++i) {
        v[i] = p[i];
      }
      return v;
    }
  }
  void store(A* p, int j, typename L::Vector v) const {
    if constexpr (NV > 0) {
      L::store(p + j * L::kCount, v);
    } else {
      for (Index i = 0; i < cols_; ++i) {
        p[i] = v[i];
      }
    }
  }
  Index cols_;
  typename L::Vector sum_[kVectors];
};

/// f.template operator()<NV>(first column, columns) for the tiles of a state with `columns`
/// columns.
template <class A, class F>
void for_columns(Index columns, F&& f) {
  constexpr Index kCount = Lanes<A>::kCount;
  Index c = 0;
  for (; columns - c >= 4 * kCount; c += 4 * kCount) {
    f.template operator()<4>(c, 4 * kCount);
  }
  for (; columns - c >= kCount; c += kCount) {
    f.template operator()<1>(c, kCount);
  }
  if (c < columns) {
    f.template operator()<0>(c, columns - c);
  }
}

}  // namespace ls::ops::common
