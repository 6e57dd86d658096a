#pragma once
// A block of parameters of which a rank has a shard: the whole is there while it is held.
#include <memory>
#include <span>
#include <vector>

#include "autograd/var.h"
#include "core/tensor/flat.h"

namespace ls::ag {

/// What ranks exchange of a block. Called by every rank, in the same order.
class ShardExchange {
 public:
  virtual ~ShardExchange() = default;
  virtual int rank() const = 0;
  virtual int ranks() const = 0;
  /// `whole` becomes the shards of all ranks, end to end; one of them may lie in it already.
  virtual void gather(const Tensor& shard, Tensor& whole) = 0;
  /// `shard` becomes this rank's part of the sum of `whole` over ranks; it may lie in it.
  virtual void sum(const Tensor& whole, Tensor& shard) = 0;
};

/// Elements of one parameter that lie in a shard, as those of the parameter and of the shard.
struct ShardPart {
  std::size_t parameter = 0;  ///< among those of the set
  Index begin = 0, count = 0;
  Index at = 0;
};

/// Bytes of parameters and gradients that a rank has, from its buffers.
struct HeldBytes {
  Index shards = 0;
  Index whole = 0;  ///< now, of blocks that are held
  Index most = 0;   ///< of `whole` so far
};

/// Values, gradients and the copy of values in another type of one flat block, counted apart.
/// Tensors of the block stay what they are while their memory comes and goes; who keeps an address
/// past the hold has a freed one.
class HeldBlock {
 public:
  /// `vars`: leaves whose values and places of gradients are views of the two. This rank's shards
  /// are copied out and the memory is given back.
  HeldBlock(FlatBuffer values, FlatBuffer grads, std::vector<Var> vars,
            std::shared_ptr<ConvertedCopy> copy, std::shared_ptr<ShardExchange> exchange,
            std::shared_ptr<HeldBytes> bytes);

  Tensor& value_shard() { return value_shard_; }
  /// Sums over ranks and backward passes since `clear_gradients`; zero where there was none.
  Tensor& gradient_shard();
  void clear_gradients();
  /// The shard was written.
  void note_written();

  void hold_values();
  void release_values();
  /// The values as they are held become the shard: all ranks have written the same.
  void keep_values();
  void hold_gradients();
  /// With the last hold gradients are summed over ranks into the shard, which adds them up.
  void release_gradients();
  /// The next hold of gradients that is released with `release_gradients` releases this one too.
  void hold_gradients_on();

 private:
  void count(const Tensor& buffer, Index sign);

  FlatBuffer values_, grads_;
  std::vector<Var> vars_;
  std::shared_ptr<ConvertedCopy> copy_;
  std::shared_ptr<ShardExchange> exchange_;
  std::shared_ptr<HeldBytes> bytes_;
  Tensor value_shard_, gradient_shard_;
  int held_values_ = 0, held_gradients_ = 0, held_on_ = 0;
  bool filled_ = false, copy_counted_ = false;
};

/// How a hold of a block that is part of a recorded pass holds gradients.
enum class GradientHold : std::uint8_t {
  kBackward,  ///< from where the backward pass comes to the block to where it leaves it
  kForward,   ///< from now on: an op puts one in its place in the forward pass
  kOn,        ///< the same, and on until the next hold of the block has left it: tied weights
};

/// While alive the blocks are whole. Where a tape records, they are whole again, with their
/// gradients, while its backward pass goes through what was recorded meanwhile.
class Hold {
 public:
  Hold(std::vector<std::shared_ptr<HeldBlock>> blocks, GradientHold gradients);
  ~Hold();
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

 private:
  std::vector<std::shared_ptr<HeldBlock>> blocks_;
  GradientHold gradients_;
  bool recorded_ = false;
  int exceptions_ = 0;
};

}  // namespace ls::ag
