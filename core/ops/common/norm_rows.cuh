#pragma once
// Rows that a team of threads holds in registers between two passes over them: norms, whose vectors
// get their gradients in the same pass. The team goes from row to row by a step that follows from
// sizes alone, a thread keeping its columns, and adds up what its rows give.
#include "core/backend/cuda/device/rows.cuh"

namespace ls::ops::common {

/// The columns of one thread: kPacks packs of kWidth, those of a team's threads one behind the
/// other.
template <int kThreads, int kWidth, int kPacks>
struct HeldRow {
  using Team = cuda::Team<kThreads>;
  /// f(pack, first column).
  template <class F>
  __device__ static void each(int cols, F f) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int c = (p * kThreads + Team::rank()) * kWidth;
      if (c < cols) {
        f(p, c);
      }
    }
  }
};

/// One operand of the row.
template <class T, int kPacks>
using HeldPacks = cuda::Pack<T, cuda::kPack<T>>[kPacks];

/// Of a block: a team of more than a warp has one of its own.
template <int kThreads>
inline constexpr int kHeldThreads = kThreads == 128 ? 128 : 256;

/// f(row, writes) for the rows of this thread's team, all teams of a block equally often: those
/// that only join in write nothing.
template <int kThreads, class F>
__device__ __forceinline__ void each_held_row(Index rows, F f) {
  constexpr int kTeams = kHeldThreads<kThreads> / kThreads;
  const Index step = Index{gridDim.x} * kTeams;
  for (Index first = Index{blockIdx.x} * kTeams; first < rows; first += step) {
    const Index r = first + threadIdx.x / kThreads;
    f(r < rows ? r : rows - 1, r < rows);
  }
}
/// Blocks of a pass: of one that adds up no more than make good parts of the sum.
template <int kThreads>
dim3 held_blocks(Index rows, bool adds_up) {
  constexpr Index kTeams = kHeldThreads<kThreads> / kThreads, kParts = 528, kMost = 2112;
  const Index most = (adds_up ? kParts : kMost) * (256 / kHeldThreads<kThreads>);
  return dim3(static_cast<unsigned>(std::min(most, cuda::blocks_for(rows, kTeams))));
}

/// partial[block, sum, cols] of what the teams of a block have, in the order of the teams.
template <int kThreads, int kWidth, int kPacks, int kSums, class A>
__device__ void add_up_teams(int cols, const A (&sums)[kSums][kPacks][kWidth], A* partial) {
  using Row = HeldRow<kThreads, kWidth, kPacks>;
  constexpr int kTeams = kHeldThreads<kThreads> / kThreads;
  __shared__ A of_team[kTeams][kThreads * kWidth];
  const int team = static_cast<int>(threadIdx.x) / kThreads;
#pragma unroll
  for (int k = 0; k < kSums; ++k) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        of_team[team][Row::Team::rank() * kWidth + i] = sums[k][p][i];
      }
      __syncthreads();
      for (int at = static_cast<int>(threadIdx.x); at < kThreads * kWidth;
           at += kHeldThreads<kThreads>) {
        const int c = p * kThreads * kWidth + at;
        A all = 0;
#pragma unroll
        for (int t = 0; t < kTeams; ++t) {
          all += of_team[t][at];
        }
        if (c < cols) {
          partial[(Index{blockIdx.x} * kSums + k) * cols + c] = all;
        }
      }
    }
  }
}

/// out[k][c] = sum over parts and groups of partial[part, k, c]: one warp a column.
template <int kSums, class A>
__global__ void __launch_bounds__(256)
    join_parts_kernel(Index parts, Index cols, const A* partial, cuda::Sums<kSums, A> to) {
  const Index i = Index{blockIdx.x} * 8 + threadIdx.x / 32;
  if (i >= cols * kSums) {
    return;
  }
  const Index k = i / cols, c = i % cols;
  A sum = 0;
  for (Index p = threadIdx.x % 32; p < parts; p += 32) {
    sum += partial[(p * kSums + k) * cols + c];
  }
  sum = cuda::Team<32>::sum(sum);
  if (threadIdx.x % 32 == 0 && to.out[k]) {
    to.out[k][c] = sum;
  }
}
template <int kSums, class A>
void join_parts(Index parts, Index cols, const A* partial, cuda::Sums<kSums, A> to) {
  cuda::launch(&join_parts_kernel<kSums, A>,
               dim3(static_cast<unsigned>(cuda::blocks_for(cols * kSums, 8))), dim3(256), 0, parts,
               cols, partial, to);
}

/// run.operator()<threads, packs>() for rows of `cols` elements that a team can hold by 16 bytes of
/// T; false where none can.
template <class T, class Run>
bool with_held_rows(Index cols, Run run) {
  if constexpr (!std::is_same_v<T, double>) {
    constexpr int kWidth = cuda::kPack<T>;
    const Index packs = cols / kWidth;
    const bool held = cols % kWidth == 0 && packs > 0 && packs <= 512;
    if (held && packs <= 16) {
      packs <= 8 ? run.template operator()<8, 1>() : run.template operator()<8, 2>();
    } else if (held && packs <= 64) {
      packs <= 32 ? run.template operator()<32, 1>() : run.template operator()<32, 2>();
    } else if (held && packs <= 128) {
      run.template operator()<128, 1>();
    } else if (held) {
      packs <= 256 ? run.template operator()<256, 1>() : run.template operator()<256, 2>();
    }
    return held;
  }
  return false;
}

}  // namespace ls::ops::common
