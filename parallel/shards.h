#pragma once
// Blocks of parameters whose shards lie on the ranks of a group.
#include "autograd/held_block.h"
#include "core/comm/comm.h"

namespace ls::parallel {

/// Results are the same bits on every rank; sums take ranks in order, as all_reduce does.
class CommShards final : public ag::ShardExchange {
 public:
  explicit CommShards(Communicator& comm) : comm_(comm) {}
  int rank() const override { return comm_.rank(); }
  int ranks() const override { return comm_.size(); }
  void gather(const Tensor& shard, Tensor& whole) override;
  void sum(const Tensor& whole, Tensor& shard) override;

 private:
  Communicator& comm_;
};

}  // namespace ls::parallel
