#pragma once
// Tensors as views of one buffer: one message sums all of them over ranks, one kernel updates them.
#include <span>
#include <vector>

#include "core/tensor/tensor.h"

namespace ls {

/// Where the tensors of a FlatBuffer begin, in elements, and how many it has.
struct FlatPlaces {
  FlatPlaces(std::span<const Shape> shapes, Index shards);
  std::vector<Index> begins;
  Index total = 0;
};

/// Zeros at first. Each tensor is contiguous and begins at a multiple of kAlign bytes; the buffer
/// is padded so that it falls into `shards` parts that are equal and aligned too. Places are the
/// same elements in every type, so that one copy converts all of it.
class FlatBuffer {
 public:
  static constexpr Index kAlign = 256;

  FlatBuffer(std::span<const Shape> shapes, DType dtype, Device& device = cpu(), Index shards = 1);
  /// All of it, padding included: one axis.
  const Tensor& whole() const { return whole_; }
  const std::vector<Tensor>& views() const { return views_; }
  Tensor shard(Index s) const;

 private:
  Tensor whole_;
  std::vector<Tensor> views_;
  Index shards_;
};

}  // namespace ls
