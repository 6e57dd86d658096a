#pragma once
// What the kernels of the gated delta rule share: records of a chunk in device memory, as images
// of shared memory, each moved by one bulk copy, and where chunks lie among the tokens. Of chunk
// r = (row * HV + head) * chunks + n, widths as on the chip (gated_delta.h):
//   kept      N tile, P tile, gates                              (17 KiB)
//   states    S^T before the chunk: for each 64 value rows, tiles [64 v][64 d] by columns d
//   values    X: tiles [64 t][64 v] by columns v
// and likewise gradients, dS'^T after the chunk. Rows of a tile that are not the sequence's own are
// zeros: the copy engine puts them behind a row of the batch, clear_rows behind a document.
#include "core/backend/cuda/device/bulk_copy.cuh"
#include "core/backend/cuda/device/unit_lower.cuh"
#include "core/backend/cuda/device/wgmma.cuh"
#include "core/backend/cuda/kernel_host.h"
#include "core/backend/cuda/tensor_maps.h"
#include "core/ops/delta_rule/gated_delta.h"

namespace ls::kernels::gated_delta {

using cuda::arrive_warp;
using cuda::as_operand;
using cuda::bf16;
using cuda::block_address;
using cuda::block_address_t;
using cuda::ChunkGates;
using cuda::commit_stores;
using cuda::dot8;
using cuda::fence_barrier_init;
using cuda::fence_proxy_async;
using cuda::high_bf16;
using cuda::init_ring;
using cuda::kWarpArrivals;
using cuda::lane_index;
using cuda::last_turn;
using cuda::load_box;
using cuda::load_bytes;
using cuda::load_transposed;
using cuda::low_bf16;
using cuda::Mbarrier;
using cuda::pack_bf16;
using cuda::smem_addr;
using cuda::store_box;
using cuda::store_bytes;
using cuda::store_matrices;
using cuda::store_operands;
using cuda::store_transposed;
using cuda::this_turn;
using cuda::tile_offset;
using cuda::wait_stores;
using cuda::wait_stores_read;
using cuda::warp_index;
using cuda::wgmma::Depth;
namespace wgmma = cuda::wgmma;

inline constexpr int kTile = cuda::kTileBytes<64>;  // 8 KiB
static_assert(sizeof(ChunkGates) == DeltaSizes::kGates && kTile == DeltaSizes::kScore);

/// Where chunk images lie.
struct Records {
  unsigned char* states;
  unsigned char* values;
  int slices, tiles;  // Dv / 64, Dk / 64 on the chip
  __host__ __device__ unsigned char* state(int64_t record, int slice) const {
    return states + (record * slices + slice) * (tiles * kTile);
  }
  __host__ __device__ unsigned char* value(int64_t record, int slice) const {
    return values + (record * slices + slice) * kTile;
  }
};
inline Records records_in(const DeltaSizes& sizes, void* memory) {
  auto* p = static_cast<unsigned char*>(memory);
  return {p, p ? p + sizes.records() * sizes.state_bytes() : nullptr, sizes.wide_dv() / 64,
          sizes.wide_dk() / 64};
}

/// How chunks lie among the tokens of a call.
struct Layout {
  const int64_t* offsets;  // of documents, or null
  const int2* places;      // with offsets, of each chunk of the row: first token, how many (or 0)
  int tokens, heads, group, chunks, chains;  // chains: rows times heads
  int state_tokens;
};
inline Layout layout_of(const DeltaSizes& z, const DeltaInputs& in, const void* kept) {
  const auto* behind = static_cast<const unsigned char*>(kept) + z.records() * DeltaSizes::kKept;
  return {in.offsets,        in.offsets ? reinterpret_cast<const int2*>(behind) : nullptr,
          z.tokens,          z.heads,
          z.group(),         z.chunks(),
          z.batch * z.heads, z.state_tokens};
}

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
  __device__ ChunkPlace(const Layout& l, int64_t index) {
    const int turn = static_cast<int>(index / l.chains);
    const int chain = static_cast<int>(index - static_cast<int64_t>(turn) * l.chains);
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

/// The first `valid` rows of a tile, by one warp, to rows `stride` elements apart; `columns` of 64.
__device__ __forceinline__ void copy_rows(bf16* to, int64_t stride, const unsigned char* tile,
                                          int valid, int columns, int lane) {
  for (int i = lane; i < 8 * valid; i += 32) {
    const int row = i / 8, column = 8 * (i % 8);
    if (column < columns) {
      *reinterpret_cast<uint4*>(to + row * stride + column) =
          *reinterpret_cast<const uint4*>(tile + tile_offset(row, column));
    }
  }
}

inline bool valid(const DeltaSizes& z, const DeltaInputs& in) {
  return z.batch >= 0 && z.tokens >= 0 && z.key_heads > 0 && z.heads > 0 &&
         z.heads % z.key_heads == 0 && z.dk > 0 && z.dk <= 256 && z.dk % 8 == 0 && z.dv > 0 &&
         z.dv % 8 == 0 && z.documents >= 0 && (z.documents > 0) == (in.offsets != nullptr) &&
         (z.documents == 0 || z.batch == 1);
}
/// Nothing to compute with.
inline bool no_tokens(const DeltaSizes& z) {
  return z.batch == 0 || z.tokens == 0;
}

/// f(width) with Dk on the chip as a type.
template <int N>
struct Width {
  static constexpr int kValue = N;
};
template <class F>
cudaError_t with_width(const DeltaSizes& z, F f) {
  const int width = z.wide_dk();
  return width == 64 ? f(Width<64>()) : width == 128 ? f(Width<128>()) : f(Width<256>());
}

}  // namespace ls::kernels::gated_delta
