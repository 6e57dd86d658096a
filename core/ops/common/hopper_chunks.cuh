#pragma once
// Where the chunks of 64 tokens of a call lie: in rows of the batch or packed documents; and sums
// over the heads that share a key. Used by the kernels for sm_90a.
#include "core/backend/cuda/device/bulk_copy.cuh"
#include "core/backend/cuda/device/tile.cuh"
#include "core/backend/cuda/kernel_host.h"

namespace ls::kernels {

inline constexpr int kTile = cuda::kTileBytes<64>;  // 8 KiB

/// How chunks lie among the tokens of a call.
struct Layout {
  const int64_t* offsets;  // of documents, or null
  const int2* places;      // with offsets, of each chunk of the row: first token, how many (or 0)
  int tokens, heads, group, chunks, chains;  // chains: rows times heads
  int state_tokens;
};

/// One sequence and value head.
struct Chain {
  int head, key_head, row, first, length, chunks;
  int64_t start, end;  // its states coming in and going out; -1: none
  int64_t record;      // its first chunk
  /// Tokens of the last chunk, where the tokens behind them are of the next document; else 64.
  int tail;
  __device__ Chain(const Layout& l, int64_t chain) : start(chain), end(chain) {
    const int sequence = static_cast<int>(chain / l.heads);
    head = static_cast<int>(chain) - sequence * l.heads;
    key_head = head / l.group;
    if (l.offsets) {
      row = 0;
      first = static_cast<int>(l.offsets[sequence]);
      length = static_cast<int>(l.offsets[sequence + 1]) - first;
      record = static_cast<int64_t>(head) * l.chunks + first / 64 + sequence;
      if (l.state_tokens > 0) {
        const int last = first + length, row_of = first / l.state_tokens;
        const int64_t own = static_cast<int64_t>(row_of) * l.heads + head;
        start = length > 0 && first == row_of * l.state_tokens ? own : -1;
        end = length > 0 && last == (row_of + 1) * l.state_tokens ? own : -1;
      }
    } else {
      row = sequence;
      first = 0;
      length = l.tokens;
      record = chain * l.chunks;
    }
    chunks = (length + 63) / 64;
    tail = l.offsets && length % 64 != 0 ? length % 64 : 64;
  }
  /// Whether chunk n must be cleared behind its tokens, and is not stored as a box.
  __device__ bool cut(int n) const { return tail < 64 && n == chunks - 1; }
};

/// One chunk of one value head, for kernels that take them in any order: the last chunks first, of
/// all heads together. Heads lie side by side in memory, and what a loop over chunks wrote last, or
/// will read first, is in the L2 cache.
struct ChunkPlace {
  int64_t record;
  int head, key_head, row, first, valid;  // valid 0: an unused record
  bool cut;
  ChunkPlace() = default;
  /// There are fewer than 2^31 records: each has kilobytes.
  __device__ ChunkPlace(const Layout& l, int64_t index) {
    const auto i = static_cast<unsigned>(index);
    const int turn = static_cast<int>(i / static_cast<unsigned>(l.chains));
    const int chain = static_cast<int>(i) - turn * l.chains;
    const int chunk = l.chunks - 1 - turn;
    record = static_cast<int64_t>(chain) * l.chunks + chunk;
    row = chain / l.heads;
    head = chain - row * l.heads;
    key_head = head / l.group;
    if (l.places) {
      const int2 place = l.places[chunk];
      first = place.x;
      valid = place.y;
    } else {
      first = 64 * chunk;
      valid = min(64, l.tokens - first);
    }
    cut = l.places && valid < 64;
  }
};

/// The chunks that a persistent block takes, one after the other; kPacked: unused records of
/// documents are left out. Where a chunk lies costs divisions, which only those pay that ask.
template <bool kPacked>
struct ChunkTurns {
  const Layout& layout;
  int index, count;
  __device__ ChunkTurns(const Layout& l, int64_t records)
      : layout(l), index(static_cast<int>(blockIdx.x)), count(static_cast<int>(records)) {
    skip();
  }
  __device__ bool more() const { return index < count; }
  __device__ void next() {
    index += static_cast<int>(gridDim.x);
    skip();
  }
  __device__ ChunkPlace at() const { return ChunkPlace(layout, index); }
  /// Tokens of the chunk where others follow them, else 64.
  __device__ int tail() const { return kPacked && layout.places ? used() : 64; }

 private:
  __device__ int used() const { return layout.places[layout.chunks - 1 - index / layout.chains].y; }
  __device__ void skip() {
    if constexpr (kPacked) {
      while (layout.places && index < count && used() == 0) {
        index += static_cast<int>(gridDim.x);
      }
    }
  }
};

/// Zeros in the rows from `valid` on of `count` tiles, by `threads` threads; a proxy fence and a
/// barrier follow.
__device__ __forceinline__ void clear_rows(unsigned char* tiles, int count, int valid, int id,
                                           int threads) {
  const int pieces = (64 - valid) * 8;
  for (int tile = 0; tile < count; ++tile) {
    for (int i = id; i < pieces; i += threads) {
      reinterpret_cast<uint4*>(tiles + tile * kTile + valid * cuda::kTileRowBytes)[i] =
          make_uint4(0, 0, 0, 0);
    }
  }
}

/// Rows [begin, valid) of a tile and `columns` of its 64, by `threads` threads, to rows `stride`
/// elements apart.
__device__ __forceinline__ void copy_rows(cuda::bf16* to, int64_t stride, const unsigned char* tile,
                                          int valid, int columns, int id, int threads,
                                          int begin = 0) {
  for (int i = 8 * begin + id; i < 8 * valid; i += threads) {
    const int row = i / 8, column = 8 * (i % 8);
    if (column < columns) {
      *reinterpret_cast<uint4*>(to + row * stride + column) =
          *reinterpret_cast<const uint4*>(tile + cuda::tile_offset(row, column));
    }
  }
}

/// A chunk a thread: the last document whose chunks begin at or before it.
static __global__ void places_kernel(const int64_t* offsets, int documents, int2* places,
                                     int chunks) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= chunks) {
    return;
  }
  int low = 0, high = documents;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (offsets[middle] / 64 + middle <= i ? low : high) = middle;
  }
  const int64_t first = offsets[low] + 64 * (i - (offsets[low] / 64 + low));
  const int64_t left = offsets[low + 1] - first;
  places[i] = make_int2(static_cast<int>(first), static_cast<int>(left < 0    ? 0
                                                                  : left < 64 ? left
                                                                              : 64));
}

/// Writes layout.places.
inline cudaError_t find_places(const Layout& layout, int documents, cudaStream_t stream) {
  places_kernel<<<static_cast<unsigned>((layout.chunks + 127) / 128), 128, 0, stream>>>(
      layout.offsets, documents, const_cast<int2*>(layout.places), layout.chunks);
  return cudaGetLastError();
}

/// to [rows,size] = from [rows,group,size], summed over the group: 8 elements a thread.
static __global__ void __launch_bounds__(256)
    sum_groups_kernel(const uint4* from, uint4* to, int64_t pieces, int row_pieces, int group) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < pieces;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t row = i / row_pieces;
    const uint4* at = from + row * group * row_pieces + (i - row * row_pieces);
    float sums[8] = {};
    for (int j = 0; j < group; ++j) {
      const uint4 x = at[j * row_pieces];
      const uint32_t pairs[] = {x.x, x.y, x.z, x.w};
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        sums[2 * n] += cuda::low_bf16(pairs[n]);
        sums[2 * n + 1] += cuda::high_bf16(pairs[n]);
      }
    }
    to[i] = make_uint4(cuda::pack_bf16(sums[0], sums[1]), cuda::pack_bf16(sums[2], sums[3]),
                       cuda::pack_bf16(sums[4], sums[5]), cuda::pack_bf16(sums[6], sums[7]));
  }
}
/// The same of f32, any size.
static __global__ void __launch_bounds__(256)
    sum_groups_f32_kernel(const float* from, float* to, int64_t elements, int size, int group) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < elements;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t row = i / size;
    const float* at = from + row * group * size + (i - row * size);
    float sum = 0;
    for (int j = 0; j < group; ++j) {
      sum += at[static_cast<int64_t>(j) * size];
    }
    to[i] = sum;
  }
}
inline unsigned blocks_over(int64_t n) {
  const int64_t blocks = (n + 255) / 256;
  return static_cast<unsigned>(blocks < 8192 ? blocks : 8192);
}
/// size is a multiple of 8.
inline cudaError_t sum_groups(const cuda::bf16* from, cuda::bf16* to, int64_t rows, int group,
                              int size, cudaStream_t stream) {
  const int64_t pieces = rows * (size / 8);
  sum_groups_kernel<<<blocks_over(pieces), 256, 0, stream>>>(
      reinterpret_cast<const uint4*>(from), reinterpret_cast<uint4*>(to), pieces, size / 8, group);
  return cudaGetLastError();
}
inline cudaError_t sum_groups(const float* from, float* to, int64_t rows, int group, int size,
                              cudaStream_t stream) {
  sum_groups_f32_kernel<<<blocks_over(rows * size), 256, 0, stream>>>(from, to, rows * size, size,
                                                                      group);
  return cudaGetLastError();
}

}  // namespace ls::kernels
