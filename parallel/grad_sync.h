#pragma once
// Data parallelism: gradients summed over ranks, and checks that ranks have not diverged.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/comm/comm.h"

namespace ls::parallel {

/// Contiguous elements somewhere; owns nothing.
struct RawBuffer {
  void* data;
  Index n;
  DType dtype;
};

/// Sums gradients over the ranks of a communicator. Small buffers travel together in buckets, large
/// ones in place; the bucket is kept between calls.
class GradSync {
 public:
  /// @param bucket_bytes  the size up to which buffers are collected before one all_reduce
  explicit GradSync(Communicator& comm, Index bucket_bytes = Index{4} << 20);

  /// Every buffer becomes its sum over the ranks, which pass buffers of the same lengths and dtypes
  /// in the same order. @dtype f64 f32 bf16 f16
  /// @throws Error(Comm) if the ranks' buffers differ, naming the ranks
  void sum(std::span<const RawBuffer> buffers);

 private:
  /// One all_reduce over buffers of one dtype.
  void reduce_group(std::span<const RawBuffer> group);

  Communicator& comm_;
  Index bucket_bytes_;
  std::vector<std::byte> bucket_;
};

/// `text` of every rank becomes that of `root`.
void broadcast_text(Communicator& comm, std::string& text, int root = 0);

/// A 64-bit fingerprint of lengths, dtypes and contents; the same on any machine of the same byte
/// order. Not for adversaries.
std::uint64_t hash_buffers(std::span<const RawBuffer> buffers);

/// Called by every rank. @throws Error(Comm), on all of them, if the hashes differ: says `what`
///   differs ("the configuration") and which ranks disagree with the majority (rank 0 in a tie)
void check_same_across_ranks(Communicator& comm, std::uint64_t hash, std::string_view what);

}  // namespace ls::parallel
