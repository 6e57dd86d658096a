#pragma once
// Loops over rows of the last axis: elementwise, one team of threads a row, and sums over rows.
#include <algorithm>

#include "core/backend/cuda/device/convert.cuh"
#include "core/backend/cuda/device/reduce.cuh"
#include "core/backend/cuda/launch.h"
#include "core/tensor/rows.h"

namespace ls::cuda {

/// An operand made of rows (lies::rows). Absent: all rows are null.
template <class T>
struct RowsIn {
  const T* base = nullptr;
  Index stride = 0;
  RowsIn() = default;
  RowsIn(const T* first, Index apart) : base(first), stride(apart) {}
  explicit RowsIn(const TensorView& t) {
    if (t.defined()) {
      base = t.data<T>();
      stride = rows_of(t.layout())->stride;
    }
  }
  __host__ __device__ explicit operator bool() const { return base != nullptr; }
  const __host__ __device__ T* row(Index r) const { return base + r * stride; }
};

/// Where row r begins of rows that lie in pieces; a 64-bit division costs as much as the row.
__host__ __device__ inline Index in_pieces(Index r, Index per_piece, Index stride, Index cols) {
  if (per_piece == 1) {
    return r * stride;
  }
  const bool small = r >> 32 == 0 && per_piece >> 32 == 0;
  const Index piece =
      small ? Index{static_cast<unsigned>(r) / static_cast<unsigned>(per_piece)} : r / per_piece;
  return piece * stride + (r - piece * per_piece) * cols;
}

/// A result made of rows, which may lie in pieces (pieces_of).
template <class T>
struct RowsTo {
  T* base = nullptr;
  Index cols = 0, stride = 0, per_piece = 1;
  RowsTo() = default;
  explicit RowsTo(TensorView& t) {
    if (!t.defined()) {
      return;
    }
    const Pieces p = *pieces_of(t);
    base = t.data<T>();
    cols = t.rank() > 0 ? t.size(-1) : 1;
    const bool dense = p.stride == p.length;
    per_piece = dense ? 1 : std::max<Index>(1, p.length / std::max<Index>(1, cols));
    stride = dense ? cols : p.stride;
  }
  __host__ __device__ explicit operator bool() const { return base != nullptr; }
  __host__ __device__ T* row(Index r) const { return base + in_pieces(r, per_piece, stride, cols); }
};

/// An operand of rows that lie in pieces, as a slice of heads does.
template <class T>
struct PiecesIn {
  const T* base = nullptr;
  Index cols = 0, stride = 0, per_piece = 1;
  PiecesIn() = default;
  explicit PiecesIn(const TensorView& t) {
    if (t.defined()) {
      const Pieces p = *pieces_of(t.layout());
      base = t.data<T>();
      cols = t.rank() > 0 ? t.size(-1) : 1;
      const bool dense = p.stride == p.length;
      per_piece = dense ? 1 : std::max<Index>(1, p.length / std::max<Index>(1, cols));
      stride = dense ? cols : p.stride;
    }
  }
  static bool lies(const Layout& x) { return pieces_of(x).has_value(); }
  __host__ __device__ explicit operator bool() const { return base != nullptr; }
  const __host__ __device__ T* row(Index r) const {
    return base + in_pieces(r, per_piece, stride, cols);
  }
};

/// How many elements lie one behind the other in every operand, and whether 16 bytes of each may be
/// loaded at once.
class RowShape {
 public:
  RowShape(Index rows, Index cols) : rows_(rows), cols_(cols) {}
  template <class T>
  RowShape& with(const RowsIn<T>& x) {
    if (x) {
      note<T>(x.base, x.stride);
    }
    return *this;
  }
  template <class T>
  RowShape& with(const RowsTo<T>& y) {
    if (y) {
      note<T>(y.base, y.per_piece == 1 ? y.stride : -1);
    }
    return *this;
  }
  /// Each row is needed as such, for instance where a vector goes with its channels.
  RowShape& apart() {
    joins_ = false;
    return *this;
  }
  Index rows() const { return joins_ ? 1 : rows_; }
  Index cols() const { return joins_ ? rows_ * cols_ : cols_; }
  /// `width` elements at once, all of them in one row.
  bool packs(int width) const { return width <= packed_ && cols() % width == 0; }

 private:
  template <class T>
  void note(const T* base, Index stride) {
    joins_ = joins_ && stride == cols_;
    int width = kPack<T>;
    while (width > 1 && (reinterpret_cast<std::uintptr_t>(base) % (width * sizeof(T)) != 0 ||
                         stride < 0 || stride % width != 0)) {
      width /= 2;
    }
    packed_ = std::min(packed_, std::max(width, 1));
  }
  Index rows_, cols_;
  bool joins_ = true;
  int packed_ = 16;
};

template <int kWidth, class F>
__global__ void __launch_bounds__(256) each_kernel(Index rows, unsigned packs, F f) {
  const Index n = rows * packs, step = Index{gridDim.x} * blockDim.x;
  for (Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) {
    Index r = 0, c = i;
    if (rows > 1) {
      if (n <= 0x7fffffff) {
        const unsigned j = static_cast<unsigned>(i);
        r = j / packs;
        c = j % packs;
      } else {
        r = i / packs;
        c = i % packs;
      }
    }
    f(r, c * kWidth, std::integral_constant<int, kWidth>());
  }
}

/// f(row, first column, width): `width` neighbours of a row, for all of them. f takes the width as
/// std::integral_constant.
template <int kWidth, class F>
void for_each(const RowShape& shape, F f) {
  const Index packs = shape.cols() / kWidth, n = shape.rows() * packs;
  constexpr Index kBlock = 256;
  const Index most = Index{queue().processors} * 16;
  launch(&each_kernel<kWidth, F>,
         dim3(static_cast<unsigned>(std::min(most, blocks_for(n, kBlock)))), dim3(kBlock), 0,
         shape.rows(), static_cast<unsigned>(packs), f);
}
template <class T, class F>
void for_each(const RowShape& shape, F f) {
  if (shape.packs(kPack<T>)) {
    for_each<kPack<T>>(shape, f);
  } else {
    for_each<1>(shape, f);
  }
}

template <int kThreads, int kWidth, class F>
__global__ void __launch_bounds__(256) team_kernel(Index rows, F f) {
  constexpr int kTeams = 256 / kThreads;
  const Index first = Index{blockIdx.x} * kTeams + threadIdx.x / kThreads;
  for (Index r = first; r - threadIdx.x / kThreads < rows; r += Index{gridDim.x} * kTeams) {
    f(r < rows ? r : rows - 1, r < rows, Team<kThreads>(), std::integral_constant<int, kWidth>());
  }
}

/// f(row, writes, team, width): a team of threads for each row, whose threads call the team's sums
/// together and take `width` neighbours at a time (Team::each). The last block has teams that only
/// join in: writes is false there.
template <int kWidth, class F>
void for_each_row(Index rows, Index cols, F f) {
  if (rows == 0) {
    return;
  }
  const Index most = Index{queue().processors} * 16, packs = blocks_for(cols, kWidth);
  const auto run = [&]<int kThreads>() {
    launch(&team_kernel<kThreads, kWidth, F>,
           dim3(static_cast<unsigned>(std::min(most, blocks_for(rows, 256 / kThreads)))), dim3(256),
           0, rows, f);
  };
  if (packs <= 32) {
    run.template operator()<8>();
  } else if (packs <= 512) {
    run.template operator()<32>();
  } else {
    run.template operator()<256>();
  }
}
/// The same with 16 bytes of T at a time where the columns fall into such; how operands lie changes
/// no sum.
template <class T, class F>
void for_each_row(Index rows, Index cols, F f) {
  if (cols % kPack<T> == 0) {
    for_each_row<kPack<T>>(rows, cols, f);
  } else {
    for_each_row<1>(rows, cols, f);
  }
}

inline constexpr int kSumColumns = 32, kSumRows = 8;

/// partial[p, k, c] = sum over the rows of part p of f(r, c)[k].
template <int kSums, int kWidth, class A, class F>
__global__ void __launch_bounds__(kSumColumns* kSumRows)
    column_sums_kernel(Index rows, Index cols, Index rows_of_part, F f, A* partial) {
  const Index c = (Index{blockIdx.x} * kSumColumns + threadIdx.x) * kWidth;
  const Index begin = Index{blockIdx.y} * rows_of_part;
  const Index end = begin + rows_of_part < rows ? begin + rows_of_part : rows;
  A sum[kSums][kWidth] = {};
  if (c < cols) {
    for (Index r = begin + threadIdx.y; r < end; r += kSumRows) {
      A x[kSums][kWidth];
      f(r, c, x);
#pragma unroll
      for (int k = 0; k < kSums; ++k) {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          sum[k][i] += x[k][i];
        }
      }
    }
  }
  __shared__ A of_row[kSumRows][kSumColumns * kWidth + 1];
  for (int k = 0; k < kSums; ++k) {
    __syncthreads();
    for (int i = 0; i < kWidth; ++i) {
      of_row[threadIdx.y][threadIdx.x * kWidth + i] = sum[k][i];
    }
    __syncthreads();
    for (int i = threadIdx.y; i < kWidth; i += kSumRows) {
      const int at = i * kSumColumns + threadIdx.x;
      const Index to = Index{blockIdx.x} * kSumColumns * kWidth + at;
      A all = 0;
      for (int y = 0; y < kSumRows; ++y) {
        all += of_row[y][at];
      }
      if (to < cols) {
        partial[(Index{blockIdx.y} * kSums + k) * cols + to] = all;
      }
    }
  }
}

/// out[k][c] = sum over parts.
template <int kSums, class A>
struct Sums {
  A* out[kSums];
};
template <int kSums, class A>
__global__ void __launch_bounds__(256)
    join_sums_kernel(Index parts, Index cols, const A* partial, Sums<kSums, A> to) {
  const Index i = Index{blockIdx.x} * 256 + threadIdx.x;
  if (i >= cols * kSums) {
    return;
  }
  const Index k = i / cols, c = i % cols;
  A* const out = to.out[k];
  if (!out) {
    return;
  }
  A sum = 0;
  for (Index p = 0; p < parts; ++p) {
    sum += partial[(p * kSums + k) * cols + c];
  }
  out[c] = sum;
}

/// f with its width as an argument.
template <int kSums, int kWidth, class A, class F>
struct Widened {
  F f;
  __device__ void operator()(Index r, Index c, A (&x)[kSums][kWidth]) const {
    f(r, c, std::integral_constant<int, kWidth>(), x);
  }
};

/// out[k][c] = sum over rows of what f(r, c, A (&x)[kSums][kWidth]) puts into x[k] for kWidth
/// neighbours from c on; null ones are left out. Parts of rows are summed, then the parts, in an
/// order given by the sizes alone.
template <int kSums, int kWidth, class A, class F>
void wide_column_sums(Index rows, Index cols, Sums<kSums, A> to, F f) {
  constexpr Index kRowsOfPart = 64, kMostParts = 128;
  const Index parts = std::clamp<Index>(blocks_for(rows, kRowsOfPart), 1, kMostParts);
  const Index rows_of_part = std::max<Index>(1, blocks_for(rows, parts));
  const Scratch partial(parts * kSums * cols * Index{sizeof(A)});
  launch(&column_sums_kernel<kSums, kWidth, A, F>,
         dim3(static_cast<unsigned>(blocks_for(cols, kSumColumns * kWidth)),
              static_cast<unsigned>(parts)),
         dim3(kSumColumns, kSumRows), 0, rows, cols, rows_of_part, f, partial.as<A>());
  launch(&join_sums_kernel<kSums, A>, dim3(static_cast<unsigned>(blocks_for(cols * kSums, 256))),
         dim3(256), 0, parts, cols, static_cast<const A*>(partial.as<A>()), to);
}
/// The same of f(r, c, A (&x)[kSums]), one column a thread.
template <int kSums, class A, class F>
void column_sums(Index rows, Index cols, Sums<kSums, A> to, F f) {
  wide_column_sums<kSums, 1, A>(rows, cols, to, [=] __device__(Index r, Index c, A(&x)[kSums][1]) {
    A one[kSums];
    f(r, c, one);
    for (int k = 0; k < kSums; ++k) {
      x[k][0] = one[k];
    }
  });
}
/// The same of f(r, c, width, x) with 16 bytes of T a thread where the columns fall into such.
template <class T, int kSums, class A, class F>
void packed_column_sums(Index rows, Index cols, Sums<kSums, A> to, F f) {
  constexpr int kWidth = kPack<T>;
  if (cols % kWidth == 0) {
    wide_column_sums<kSums, kWidth, A>(rows, cols, to, Widened<kSums, kWidth, A, F>{f});
  } else {
    wide_column_sums<kSums, 1, A>(rows, cols, to, Widened<kSums, 1, A, F>{f});
  }
}

}  // namespace ls::cuda
