#pragma once
// Rows by index and their adjoint on a GPU, behind embedding, gather_rows and scatter_add_rows.
#include "core/backend/cuda/device/rows.cuh"
#include "core/backend/cuda/sort.h"
#include "core/op/op.h"

namespace ls::ops {

/// Indices lie in 0 .. rows-1, or are -1 where `may_be_absent`: others raise an error.
struct RowIndex {
  const std::int64_t* at = nullptr;
  Index count = 0, rows = 0;
  bool may_be_absent = false;
  std::int32_t source = 0;  ///< error_source
  ErrorFlag* flag = nullptr;

  RowIndex(const TensorView& index, Index of, bool absent, std::int32_t error)
      : at(index.data<std::int64_t>()),
        count(index.numel()),
        rows(of),
        may_be_absent(absent),
        source(error),
        flag(cuda::queue().error_flag) {}
  __device__ bool outside(Index i) const {
    return at[i] >= rows || at[i] < (may_be_absent ? -1 : 0);
  }
  __device__ bool names_row(Index i) const { return at[i] >= 0 && at[i] < rows; }
};

/// y[i] = scale x[index[i]], 0 where that names no row.
template <class T>
void gather_rows(const cuda::RowsIn<T>& x, const RowIndex& index, Index d, acc_t<T> scale,
                 TensorView& result) {
  using A = acc_t<T>;
  const cuda::RowsTo<T> y(result);
  const auto shape = cuda::RowShape(index.count, d).with(x).with(y).apart();
  cuda::for_each<T>(shape, [=] __device__(Index i, Index c, auto width) {
    A u[decltype(width)::value] = {};
    if (index.names_row(i)) {
      cuda::load(x.row(index.at[i]) + c, u);
    } else if (c == 0 && index.outside(i)) {
      raise_error(index.flag, index.source, i, index.at[i]);
    }
    for (A& v : u) {
      v *= scale;
    }
    cuda::store(y.row(i) + c, u);
  });
}

inline constexpr Index kRowsOfPiece = 32;

/// The sorted indices in pieces of kRowsOfPiece. A run of equal ones that lies in one piece is
/// summed there; of others the sum of each piece is kept: [piece, 0] of the run that began before
/// it, [piece, 1] of the run that begins in it and goes on.
struct SortedRows {
  const std::uint32_t* keys;
  const std::int32_t* order;
  Index count, rows, d;
  __device__ bool begins(Index i) const { return i == 0 || keys[i - 1] != keys[i]; }
  __device__ bool ends(Index i) const { return i + 1 == count || keys[i + 1] != keys[i]; }
};

template <class T, class A>
__global__ void __launch_bounds__(256)
    add_pieces_kernel(SortedRows s, cuda::RowsIn<T> x, A scale, A* partial, T* y) {
  const Index c = Index{blockIdx.y} * 256 + threadIdx.x, piece = blockIdx.x;
  if (c >= s.d) {
    return;
  }
  const Index first = piece * kRowsOfPiece;
  const Index end = first + kRowsOfPiece < s.count ? first + kRowsOfPiece : s.count;
  A sum = 0;
  bool began_before = !s.begins(first);
  for (Index i = first; i < end; ++i) {
    sum += scale * cuda::to_acc<A>(x.row(s.order[i])[c]);
    const bool ends = s.ends(i);
    if (!ends && i + 1 < end) {
      continue;
    }
    if (began_before) {
      partial[(piece * 2) * s.d + c] = sum;
    } else if (!ends) {
      partial[(piece * 2 + 1) * s.d + c] = sum;
    } else if (s.keys[i] < s.rows) {
      y[Index{s.keys[i]} * s.d + c] = cuda::from_acc<T>(sum);
    }
    began_before = false;
    sum = 0;
  }
}

/// Runs over several pieces: the block of the piece in which one begins sums them in their order.
template <class T, class A>
__global__ void __launch_bounds__(256) join_pieces_kernel(SortedRows s, const A* partial, T* y) {
  const Index c = Index{blockIdx.y} * 256 + threadIdx.x, piece = blockIdx.x;
  const Index last = (piece + 1) * kRowsOfPiece - 1;  // place of the piece's last index
  if (c >= s.d || last + 1 >= s.count || s.ends(last) || s.keys[last] >= s.rows) {
    return;
  }
  const std::uint32_t key = s.keys[last];
  const Index first = piece * kRowsOfPiece;
  if (s.keys[first] == key && !s.begins(first)) {
    return;  // it began before
  }
  A sum = partial[(piece * 2 + 1) * s.d + c];
  for (Index q = piece + 1; q * kRowsOfPiece < s.count && s.keys[q * kRowsOfPiece] == key; ++q) {
    sum += partial[(q * 2) * s.d + c];
  }
  y[Index{key} * s.d + c] = cuda::from_acc<T>(sum);
}

/// y[index[i]] += scale x[i] from zero, in the order of i; rows without a name, and `left_out`, are
/// left out. y [rows,d] contiguous.
template <class T>
void add_rows(const cuda::RowsIn<T>& x, const RowIndex& index, Index d, acc_t<T> scale,
              Index left_out, TensorView& result) {
  using A = acc_t<T>;
  T* const y = result.data<T>();
  const Index n = index.count, pieces = cuda::blocks_for(n, kRowsOfPiece);
  cuda::check(cudaMemsetAsync(y, 0, static_cast<std::size_t>(result.bytes()), cuda::queue().stream),
              "a fill");
  LS_CHECK(n < Index{1} << 31 && index.rows < Index{1} << 31, kUnsupported,
           "{} rows are added into {} rows: a GPU does it below 2^31", n, index.rows);
  if (n == 0 || d == 0) {
    return;
  }
  const cuda::Scratch keys(n * 4), sorted(n * 4), order(n * 4);
  auto* const key = keys.as<std::uint32_t>();
  cuda::for_each<1>(cuda::RowShape(1, n), [=] __device__(Index, Index i, auto) {
    if (index.outside(i)) {
      raise_error(index.flag, index.source, i, index.at[i]);
    }
    const bool counts = index.names_row(i) && index.at[i] != left_out;
    key[i] = static_cast<std::uint32_t>(counts ? index.at[i] : index.rows);
  });
  cuda::sort_keys(key, n, index.rows + 1, sorted.as<std::uint32_t>(), order.as<std::int32_t>());
  const SortedRows s{sorted.as<std::uint32_t>(), order.as<std::int32_t>(), n, index.rows, d};
  const cuda::Scratch partial(pieces * 2 * d * Index{sizeof(A)});
  const dim3 blocks(static_cast<unsigned>(pieces), static_cast<unsigned>(cuda::blocks_for(d, 256)));
  cuda::launch(&add_pieces_kernel<T, A>, blocks, dim3(256), 0, s, x, scale, partial.as<A>(), y);
  cuda::launch(&join_pieces_kernel<T, A>, blocks, dim3(256), 0, s,
               static_cast<const A*>(partial.as<A>()), y);
}

}  // namespace ls::ops
