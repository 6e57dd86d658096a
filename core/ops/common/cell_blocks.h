#pragma once
// What nonlinear cells (lstm, gru) share as code of blocks of threads: a block walks one sequence
// and head; weights are read transposed forward, so that threads read side by side, and lie in
// shared memory where they fit. Gradients of weights are products over all tokens, in segments.
#include "core/ops/common/block_rows.h"

namespace ls::ops::common {

inline constexpr int kCellThreads = 512;
inline constexpr int kCellTile = 32;
inline constexpr Index kSegment = 1024;  ///< tokens of a sum of gradients

/// Cells with recurrent weights r [heads,gates*d,d]; a row of gates is blocks of D = heads d units.
template <class A>
struct CellShape {
  Index batch = 0, tokens = 0, heads = 0, d = 0, gates = 0;
  const A* r = nullptr;
  A* rt = nullptr;  ///< [heads,d,gates*d]
  StretchTable sequences;

  CellShape() = default;
  CellShape(const char* op, const TensorView& x, const TensorView& weights,
            const TensorView& offsets, Index entries)
      : batch(x.size(0)),
        tokens(x.size(1)),
        heads(weights.size(0)),
        d(weights.size(2)),
        gates(d > 0 ? weights.size(1) / d : 0),
        r(elements<A>(weights)),
        sequences(op, batch, tokens, offsets, entries) {}
  LS_ON_DEVICE Index width() const { return heads * d; }
  LS_ON_DEVICE Index rows() const { return gates * d; }
  LS_ON_DEVICE Index all() const { return batch * tokens; }
  /// Weights of a head that a block keeps on chip, in elements; 0 where they do not fit.
  LS_ON_DEVICE Index kept() const {
    constexpr Index kBytes = 160 << 10;
    return rows() * d * Index{sizeof(A)} <= kBytes ? rows() * d : 0;
  }
  /// Where row x of a head's product lies in a row of gates.
  LS_ON_DEVICE Index place(Index head, Index x) const { return x / d * width() + head * d + x % d; }
};

template <class A>
LS_ON_DEVICE A cell_sigmoid(A x) {
  // Of -|x|, so that nothing overflows.
  const A e = std::exp(x < 0 ? x : -x);
  return (x < 0 ? e : A(1)) / (1 + e);
}

/// rt = r, transposed by heads.
template <class A>
struct TransposeWeights {
  struct Shared {};
  LS_ON_DEVICE static void run(const cuda::Block& block, const CellShape<A>& c, Shared*) {
    const Index size = c.rows() * c.d;
    each_of(block, c.heads * size, [&](Index i) {
      const Index head = i / size, from = i % size / c.rows(), row = i % c.rows();
      c.rt[i] = c.r[head * size + row * c.d + from];
    });
  }
};

/// sum over from of weights(from, row) h(from), weights [d,rows] where `h` has d.
template <class A>
LS_ON_DEVICE A cell_product(const A* weights, const A* h, Index d, Index rows, Index row) {
  A sum = 0;
  LS_UNROLL(8)
  for (Index from = 0; from < d; ++from) {
    sum += weights[from * rows + row] * h[from];
  }
  return sum;
}
/// Copies the weights of a head to `kept` where they fit; where they are read.
template <class A>
LS_ON_DEVICE const A* keep_weights(const cuda::Block& block, const CellShape<A>& c, const A* all,
                                   Index head, A* kept) {
  const A* const own = all + head * c.rows() * c.d;
  if (c.kept() == 0) {
    return own;
  }
  block.each(static_cast<int>(c.kept()), [&](int i) { kept[i] = own[i]; });
  return kept;
}

/// A call of WeightGradients: the gradient of rows [first, first + rows) of every head's weights,
/// from dx [tokens,..], gradients of products, and y [tokens,D], what was multiplied.
template <class A>
struct WeightCall {
  CellShape<A> shape;
  const A* dx = nullptr;  ///< row of a token: `stride` elements, gate g of head e at gate(g, e)
  const A* y = nullptr;
  Index stride = 0, first = 0, rows = 0;
  A* partial = nullptr;  ///< [segments,heads,rows,d]
  A* dr = nullptr;       ///< [heads,gates*d,d]
  LS_ON_DEVICE Index segments() const { return (shape.all() + kSegment - 1) / kSegment; }
};

/// A block is a tile of rows and of d, a head and a segment.
template <class A>
struct WeightGradients {
  struct Shared {
    cuda::Tile<A, kCellTile, kCellTile> x, y, sum;
  };
  LS_ON_DEVICE static void run(const cuda::Block& block, const WeightCall<A>& c, Shared* m) {
    const CellShape<A>& s = c.shape;
    const Index tiles = (s.d + kCellTile - 1) / kCellTile;
    const Index r0 = block.x / tiles * kCellTile, d0 = block.x % tiles * kCellTile;
    const Index head = block.y, begin = block.z * kSegment;
    const Index end = begin + kSegment < s.all() ? begin + kSegment : s.all();
    cuda::fill(block, m->sum, [](int, int) { return A(0); });
    for (Index t0 = begin; t0 < end; t0 += kCellTile) {
      block.sync();
      cuda::fill(block, m->x, [&](int t, int r) {
        const bool there = t0 + t < end && r0 + r < c.rows;
        return there ? c.dx[(t0 + t) * c.stride + s.place(head, r0 + r)] : A(0);
      });
      cuda::fill(block, m->y, [&](int t, int u) {
        const bool there = t0 + t < end && d0 + u < s.d;
        return there ? c.y[(t0 + t) * s.width() + head * s.d + d0 + u] : A(0);
      });
      block.sync();
      cuda::product<A, kCellTile, kCellTile, kCellTile>(
          block, [&](int r, int t) { return m->x(t, r); }, [&](int t, int u) { return m->y(t, u); },
          [&](int r, int u, A sum) { m->sum(r, u) += sum; });
    }
    block.sync();
    block.each(kCellTile * kCellTile, [&](int e) {
      const Index r = r0 + e / kCellTile, u = d0 + e % kCellTile;
      if (r < c.rows && u < s.d) {
        c.partial[((block.z * s.heads + head) * c.rows + r) * s.d + u] =
            m->sum(e / kCellTile, e % kCellTile);
      }
    });
  }
};
template <class A>
struct SumWeights {
  struct Shared {};
  LS_ON_DEVICE static void run(const cuda::Block& block, const WeightCall<A>& c, Shared*) {
    const CellShape<A>& s = c.shape;
    const Index size = s.heads * c.rows * s.d;
    each_of(block, size, [&](Index i) {
      A sum = 0;
      for (Index n = 0; n < c.segments(); ++n) {
        sum += c.partial[n * size + i];
      }
      const Index head = i / (c.rows * s.d), within = i % (c.rows * s.d);
      c.dr[(head * s.rows() + c.first) * s.d + within] = sum;
    });
  }
};
template <class A, class Machine>
void weight_gradients(Machine& machine, WeightCall<A> c) {
  const CellShape<A>& s = c.shape;
  const Index tiles = blocks_of(c.rows, kCellTile) * blocks_of(s.d, kCellTile);
  take(machine, c.segments() * s.heads * c.rows * s.d, c.partial);
  machine.template launch<WeightGradients<A>>({tiles, s.heads, c.segments()}, c);
  machine.template launch<SumWeights<A>>({blocks_of(s.heads * c.rows * s.d, kThreads), 1, 1}, c);
}

/// to[x] = sum over all tokens of from[token,x]; segments first, then their sums.
template <class A>
struct ColumnCall {
  const A* from = nullptr;
  A *partial = nullptr, *to = nullptr;
  Index tokens = 0, width = 0;
  LS_ON_DEVICE Index segments() const { return (tokens + kSegment - 1) / kSegment; }
};
template <class A>
struct ColumnSegments {
  struct Shared {};
  LS_ON_DEVICE static void run(const cuda::Block& block, const ColumnCall<A>& c, Shared*) {
    const Index begin = block.y * kSegment;
    const Index end = begin + kSegment < c.tokens ? begin + kSegment : c.tokens;
    each_of(block, c.width, [&](Index x) {
      A sum = 0;
      for (Index t = begin; t < end; ++t) {
        sum += c.from[t * c.width + x];
      }
      c.partial[block.y * c.width + x] = sum;
    });
  }
};
template <class A>
struct ColumnTotals {
  struct Shared {};
  LS_ON_DEVICE static void run(const cuda::Block& block, const ColumnCall<A>& c, Shared*) {
    each_of(block, c.width, [&](Index x) {
      A sum = 0;
      for (Index n = 0; n < c.segments(); ++n) {
        sum += c.partial[n * c.width + x];
      }
      c.to[x] = sum;
    });
  }
};
template <class A, class Machine>
void sum_columns(Machine& machine, const A* from, Index tokens, Index width, A* to) {
  ColumnCall<A> c{from, nullptr, to, tokens, width};
  take(machine, c.segments() * width, c.partial);
  machine.template launch<ColumnSegments<A>>({blocks_of(width, kThreads), c.segments(), 1}, c);
  machine.template launch<ColumnTotals<A>>({blocks_of(width, kThreads), 1, 1}, c);
}

}  // namespace ls::ops::common
