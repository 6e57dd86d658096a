#pragma once
// Parameters and optimizer states block by block, for the rank that writes them, from the shards of
// all ranks where there are such.
#include "experiments/checkpoint.h"
#include "experiments/run_state.h"

namespace ls::experiments {

/// No rank but the first holds more than its own shards, and that one holds one block at a time.
class SavedBlocks {
 public:
  SavedBlocks(const RunPart& part, const RunState& state);
  std::size_t count() const { return blocks_.size(); }
  /// Called by every rank, for the blocks in their order. The first gets the block, on the host
  /// where it was put together; others get nothing where there are shards.
  SavedBlock next();
  /// What is left of the blocks, where the first rank writes no more: others wait for it.
  void skip();
  /// Called by every rank, which all find the same. @throws Error(Numeric) with `fault` of what
  /// holds a value that is not finite: "parameter X", "the optimizer's m of X"
  void check_finite(const std::function<std::string(const std::string& what)>& fault) const;

 private:
  Tensor value_shard(std::size_t block) const;
  /// The shards of all ranks as a flat buffer of the host.
  std::vector<Tensor> put_together(const Tensor& shard, std::size_t block) const;

  const RunPart& part_;
  const RunState& state_;
  std::vector<std::pair<std::size_t, std::size_t>> blocks_;
  std::size_t next_ = 0;
};

}  // namespace ls::experiments
