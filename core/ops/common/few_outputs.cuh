#pragma once
// Many rows times a weight [O,I] of few outputs, as gates of heads have, and the gradients: bound
// by passing through rows of I elements once. Such a matrix has no rows of 16 bytes for tensor
// cores.
//   x [rows,I]   weight [O,I]   y, gy [rows,O]   partial [part,O,I]
#include "core/ops/common/products.cuh"

namespace ls::ops {

/// Columns of a thread side by side: kMost sums of each stay in registers.
template <class T, int kMost>
inline constexpr int kFewWidth = kMost <= 8 ? cuda::kPack<T> : cuda::kPack<T> / 2;
inline constexpr int kFewLanes = 32, kFewTeams = 8;  // of a block: columns by rows

/// One warp for neighbouring rows, as many as make 32 sums with their outputs: a lane ends with
/// one of them.
template <class T, int kMost>
__global__ void __launch_bounds__(256, 2)
    few_outputs_kernel(cuda::RowsIn<T> x, cuda::RowsIn<T> weight, const acc_t<T>* bias, Index rows,
                       int outputs, int inputs, T* y) {
  using A = acc_t<T>;
  constexpr int kWidth = cuda::kPack<T>, kRows = 32 / kMost;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const Index first = (Index{blockIdx.x} * 8 + threadIdx.x / 32) * kRows;
  if (first >= rows) {
    return;
  }
  const T* of_row[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    of_row[r] = x.row(first + r < rows ? first + r : rows - 1);
  }
  A sum[32] = {};
  for (int c = lane * kWidth; c < inputs; c += 32 * kWidth) {
    A v[kRows][kWidth];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      cuda::load(of_row[r] + c, v[r]);
    }
#pragma unroll
    for (int o = 0; o < kMost; ++o) {
      if (o < outputs) {
        A w[kWidth];
        cuda::load(weight.row(o) + c, w);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
#pragma unroll
          for (int i = 0; i < kWidth; ++i) {
            sum[r * kMost + o] += w[i] * v[r][i];
          }
        }
      }
    }
  }
  // A lane hands half of its sums to the lane across, and keeps those whose number has its bit.
#pragma unroll
  for (int half = 16; half > 0; half /= 2) {
    const bool upper = lane & half;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const A handed = upper ? sum[i] : sum[i + half], kept = upper ? sum[i + half] : sum[i];
      sum[i] = kept + __shfl_xor_sync(cuda::kAllLanes, handed, half);
    }
  }
  const Index r = first + lane / kMost;
  const int o = lane % kMost;
  if (r < rows && o < outputs) {
    y[r * outputs + o] = cuda::from_acc<T>(bias ? sum[0] + bias[o] : sum[0]);
  }
}

/// gx = gy weight, or what lies there and that. A thread keeps the weights of its columns.
template <class T, int kMost>
__global__ void __launch_bounds__(kFewLanes* kFewTeams, 2)
    few_outputs_rows_kernel(cuda::RowsIn<T> gy, cuda::RowsIn<T> weight, Index rows, int outputs,
                            int inputs, bool adds, T* gx) {
  using A = acc_t<T>;
  constexpr int kWidth = kFewWidth<T, kMost>;
  const int c = static_cast<int>(blockIdx.x * kFewLanes + threadIdx.x) * kWidth;
  if (c >= inputs) {
    return;
  }
  cuda::Pack<T, kWidth> w[kMost];
#pragma unroll
  for (int o = 0; o < kMost; ++o) {
    if (o < outputs) {
      w[o] = cuda::load_pack<kWidth>(weight.row(o) + c);
    }
  }
  const Index step = Index{gridDim.y} * kFewTeams;
#pragma unroll 4
  for (Index r = Index{blockIdx.y} * kFewTeams + threadIdx.y; r < rows; r += step) {
    A sum[kWidth] = {};
    if (adds) {
      cuda::load(gx + r * inputs + c, sum);
    }
    const T* const g = gy.row(r);
#pragma unroll
    for (int o = 0; o < kMost; ++o) {
      if (o < outputs) {
        A of_weight[kWidth];
        cuda::unpack(w[o], of_weight);
        const A factor = cuda::to_acc<A>(g[o]);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          sum[i] += factor * of_weight[i];
        }
      }
    }
    cuda::store(gx + r * inputs + c, sum);
  }
}

/// partial = gy^T x over the rows of a part.
template <class T, int kMost>
__global__ void __launch_bounds__(kFewLanes* kFewTeams, 2)
    few_outputs_parts_kernel(cuda::RowsIn<T> gy, cuda::RowsIn<T> x, Index rows, Index rows_of_part,
                             int outputs, int inputs, acc_t<T>* partial) {
  using A = acc_t<T>;
  constexpr int kWidth = kFewWidth<T, kMost>;
  const int c = static_cast<int>(blockIdx.x * kFewLanes + threadIdx.x) * kWidth;
  const Index begin = Index{blockIdx.y} * rows_of_part;
  const Index end = begin + rows_of_part < rows ? begin + rows_of_part : rows;
  A sum[kMost][kWidth] = {};
  if (c < inputs) {
#pragma unroll 4
    for (Index r = begin + threadIdx.y; r < end; r += kFewTeams) {
      A v[kWidth];
      cuda::load(x.row(r) + c, v);
      const T* const g = gy.row(r);
#pragma unroll
      for (int o = 0; o < kMost; ++o) {
        if (o < outputs) {
          const A factor = cuda::to_acc<A>(g[o]);
#pragma unroll
          for (int i = 0; i < kWidth; ++i) {
            sum[o][i] += factor * v[i];
          }
        }
      }
    }
  }
  __shared__ A of_team[kFewTeams][kFewLanes * kWidth];
#pragma unroll
  for (int o = 0; o < kMost; ++o) {
    if (o >= outputs) {
      return;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      of_team[threadIdx.y][threadIdx.x * kWidth + i] = sum[o][i];
    }
    __syncthreads();
    const int at = static_cast<int>(threadIdx.y * kFewLanes + threadIdx.x);
    const int column = static_cast<int>(blockIdx.x) * kFewLanes * kWidth + at;
    if (at < kFewLanes * kWidth && column < inputs) {
      A all = 0;
#pragma unroll
      for (int team = 0; team < kFewTeams; ++team) {
        all += of_team[team][at];
      }
      partial[(Index{blockIdx.y} * outputs + o) * inputs + column] = all;
    }
  }
}

/// to = the sum over parts, or what lies there and that.
template <class A>
__global__ void __launch_bounds__(kFewLanes* kFewTeams)
    few_outputs_join_kernel(Index parts, Index count, const A* partial, bool adds, A* to) {
  const Index i = Index{blockIdx.x} * kFewLanes + threadIdx.x;
  A sum = 0;
  if (i < count) {
#pragma unroll 4
    for (Index p = threadIdx.y; p < parts; p += kFewTeams) {
      sum += partial[p * count + i];
    }
  }
  __shared__ A of_team[kFewTeams][kFewLanes];
  of_team[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && i < count) {
    A all = adds ? to[i] : A(0);
#pragma unroll
    for (int team = 0; team < kFewTeams; ++team) {
      all += of_team[team][threadIdx.x];
    }
    to[i] = all;
  }
}

/// The three products of rows with a weight of few outputs.
template <class T>
struct FewOutputs {
  using A = acc_t<T>;
  static constexpr Index kMostOutputs = 16, kFewestRows = 512;

  static bool serves(Index rows, Index outputs, Index inputs) {
    constexpr Index kMostInputs = Index{1} << 20;
    return !std::is_same_v<T, double> && rows >= kFewestRows && outputs > 0 &&
           outputs <= kMostOutputs && inputs > 0 && inputs % cuda::kPack<T> == 0 &&
           inputs <= kMostInputs;
  }
  /// y = x weight^T + bias (or null).
  static void values(const cuda::Matrix& x, const cuda::Matrix& weight, const A* bias, Index rows,
                     Index outputs, Index inputs, T* y) {
    with_most(outputs, [&]<int kMost>() {
      cuda::launch(&few_outputs_kernel<T, kMost>,
                   dim3(static_cast<unsigned>(cuda::blocks_for(rows, 8 * (32 / kMost)))), dim3(256),
                   0, rows_of_matrix(x), rows_of_matrix(weight), bias, rows,
                   static_cast<int>(outputs), static_cast<int>(inputs), y);
    });
  }
  static void of_rows(const cuda::Matrix& gy, const cuda::Matrix& weight, Index rows, Index outputs,
                      Index inputs, bool adds, T* gx) {
    with_most(outputs, [&]<int kMost>() {
      const Index columns = cuda::blocks_for(inputs, kFewLanes * kFewWidth<T, kMost>);
      const Index most = cuda::blocks_for(Index{cuda::queue().processors} * 2, columns);
      const Index steps = std::min(most, cuda::blocks_for(rows, kFewTeams));
      cuda::launch(&few_outputs_rows_kernel<T, kMost>,
                   dim3(static_cast<unsigned>(columns), static_cast<unsigned>(steps)),
                   dim3(kFewLanes, kFewTeams), 0, rows_of_matrix(gy), rows_of_matrix(weight), rows,
                   static_cast<int>(outputs), static_cast<int>(inputs), adds, gx);
    });
  }
  static void of_weight(const cuda::Matrix& gy, const cuda::Matrix& x, Index rows, Index outputs,
                        Index inputs, bool adds, A* gweight) {
    constexpr Index kRowsOfPart = 256, kMostParts = 128;
    const Index parts = std::clamp<Index>(cuda::blocks_for(rows, kRowsOfPart), 1, kMostParts);
    const Index rows_of_part = cuda::blocks_for(rows, parts), count = outputs * inputs;
    const cuda::Scratch memory(parts * count * Index{sizeof(A)});
    A* const partial = memory.as<A>();
    with_most(outputs, [&]<int kMost>() {
      const Index columns = cuda::blocks_for(inputs, kFewLanes * kFewWidth<T, kMost>);
      cuda::launch(&few_outputs_parts_kernel<T, kMost>,
                   dim3(static_cast<unsigned>(columns), static_cast<unsigned>(parts)),
                   dim3(kFewLanes, kFewTeams), 0, rows_of_matrix(gy), rows_of_matrix(x), rows,
                   rows_of_part, static_cast<int>(outputs), static_cast<int>(inputs), partial);
      cuda::launch(&few_outputs_join_kernel<A>,
                   dim3(static_cast<unsigned>(cuda::blocks_for(count, kFewLanes))),
                   dim3(kFewLanes, kFewTeams), 0, parts, count, static_cast<const A*>(partial),
                   adds, gweight);
    });
  }

 private:
  static cuda::RowsIn<T> rows_of_matrix(const cuda::Matrix& m) {
    return {static_cast<const T*>(m.data), m.ld};
  }
  template <class Run>
  static void with_most(Index outputs, Run run) {
    if constexpr (!std::is_same_v<T, double>) {
      outputs <= 8 ? run.template operator()<8>() : run.template operator()<16>();
    }
  }
};

}  // namespace ls::ops
