#pragma once
// Small dense matrices in f64 for the references on the host, row after row.
#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace ls::kernels {

using Matrix = std::vector<double>;

inline std::size_t at(int row, int columns, int column) {
  return static_cast<std::size_t>(row) * static_cast<std::size_t>(columns) +
         static_cast<std::size_t>(column);
}
inline Matrix zeros(int rows, int columns) {
  return Matrix(at(rows, columns, 0), 0.0);
}

/// c += f a b, a [n,m] or transposed from [m,n], b [m,l] or transposed from [l,m].
inline void multiply(Matrix& c, const Matrix& a, bool ta, const Matrix& b, bool tb, int n, int m,
                     int l, double f = 1) {
  for (int i = 0; i < n; ++i) {
    for (int x = 0; x < m; ++x) {
      const double w = f * (ta ? a[at(x, n, i)] : a[at(i, m, x)]);
      for (int j = 0; j < l; ++j) {
        c[at(i, l, j)] += w * (tb ? b[at(j, m, x)] : b[at(x, l, j)]);
      }
    }
  }
}

inline double row_dot(const Matrix& a, const Matrix& b, int row, int columns) {
  double sum = 0;
  for (int j = 0; j < columns; ++j) {
    sum += a[at(row, columns, j)] * b[at(row, columns, j)];
  }
  return sum;
}

inline Matrix rows_of(const Matrix& from, int first, int columns, int chunk, int total) {
  Matrix to = zeros(chunk, columns);
  const int n = std::min(chunk, total - first);
  std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(at(first, columns, 0)), at(n, columns, 0),
              to.begin());
  return to;
}
inline void put_rows(Matrix& to, const Matrix& from, int first, int columns, int total) {
  const int n = std::min(static_cast<int>(from.size()) / columns, total - first);
  std::copy_n(from.begin(), at(n, columns, 0),
              to.begin() + static_cast<std::ptrdiff_t>(at(first, columns, 0)));
}

inline double to_bf16(double x) {
  auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(x));
  bits += 0x7fff + ((bits >> 16) & 1);
  return std::bit_cast<float>(bits & 0xffff0000u);
}

}  // namespace ls::kernels
