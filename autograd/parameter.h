#pragma once
// Parameters of a model: named leaves in f32 (f64 in checks), in creation order; and constants.
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "autograd/held_block.h"

namespace ls::ag {

struct Parameter {
  std::string name;   ///< path, "blocks.0.mixer.q.weight"
  Var var;            ///< leaf; the master copy
  bool decay = true;  ///< weight decay applies (no: norms, biases, gates)
};

class ParameterSet {
 public:
  /// @throws Error(Internal) when the name is taken.
  Var add(std::string name, Tensor value, bool decay) {
    LS_CHECK(!find(name), kInternal, "two parameters are named {}", name);
    items_.push_back({std::move(name), Var::leaf(std::move(value)), decay});
    return items_.back().var;
  }
  /// A tensor that goes where the parameters go and is none.
  Var add_constant(Tensor value) { return constants_.emplace_back(std::move(value)); }
  const Parameter* find(std::string_view name) const {
    for (const Parameter& p : items_) {
      if (p.name == name) {
        return &p;
      }
    }
    return nullptr;
  }
  std::vector<Parameter>& items() { return items_; }
  const std::vector<Parameter>& items() const { return items_; }
  /// Number of elements.
  Index count() const {
    Index n = 0;
    for (const Parameter& p : items_) {
      n += p.var.value().numel();
    }
    return n;
  }
  void clear_grads() {
    for (Parameter& p : items_) {
      p.var.clear_grad();
    }
    for (const std::shared_ptr<HeldBlock>& block : held_) {
      block->clear_gradients();
    }
  }
  /// Where the first parameter is.
  Device& device() const { return items_.empty() ? cpu() : items_.front().var.value().device(); }
  /// Moves all of them; gradients are gone. Whoever holds one of the Vars sees it there.
  void to(Device& device);
  /// Neighbours that belong to one block of the model ("blocks.3", "embedding"): [begin, end).
  std::vector<std::pair<std::size_t, std::size_t>> blocks() const;
  /// From now on the values of a block are views of one buffer, and so are their gradients; each
  /// buffer falls into `shards` equal parts. Who changes values calls refresh_copies.
  void flatten(Index shards = 1);
  /// Views of one buffer of zeros, as those of the values of a block are, in its order.
  FlatBuffer flat_like(const std::pair<std::size_t, std::size_t>& block) const;
  /// Of the flat blocks this rank keeps its shard alone; what is whole lies under a Hold. Moving
  /// them or making them flat again is over.
  void keep_shards(std::shared_ptr<ShardExchange> exchange);
  bool keeps_shards() const { return !held_.empty(); }
  /// In the order of `blocks`, where shards are kept.
  const std::vector<std::shared_ptr<HeldBlock>>& held() const { return held_; }
  /// While the Hold is alive the block of that name ("blocks.3") is whole.
  Hold hold(std::string_view block, GradientHold gradients = GradientHold::kBackward) const;
  Hold hold_all() const;
  /// Values that were written under `hold_all`, the same on every rank, are kept.
  void keep_values();
  HeldBytes held_bytes() const { return held_bytes_ ? *held_bytes_ : HeldBytes{}; }
  /// What lies in a rank's shard of a block.
  std::vector<ShardPart> parts_of_shard(const std::pair<std::size_t, std::size_t>& block,
                                        int rank) const;
  Index shard_size(const std::pair<std::size_t, std::size_t>& block) const;
  /// A flat block of values, or of gradients; not where shards are kept.
  const FlatBuffer& flat_values(std::size_t block) const { return flat_[block].values; }
  const FlatBuffer& flat_gradients(std::size_t block) const { return flat_[block].grads; }
  Index shards() const { return shards_; }
  /// Copies of blocks in another type (see ag::cast), where there are, are made again where values
  /// were written since.
  void refresh_copies();
  /// Graphs that are recorded from now on read copies in other types instead of converting at every
  /// replay, as those of flat parameters do anyway. Who changes values calls refresh_copies.
  void keep_copies();
  /// A graph that ends with that was replayed.
  void note_fresh_copies();

 private:
  struct Flat {
    FlatBuffer values, grads;
  };
  std::vector<Shape> shapes_of(const std::pair<std::size_t, std::size_t>& block) const;

  std::vector<Parameter> items_;
  std::vector<Var> constants_;
  std::vector<std::shared_ptr<ConvertedCopy>> copies_;  // of flat blocks
  std::vector<Flat> flat_;
  std::vector<std::shared_ptr<HeldBlock>> held_;
  std::shared_ptr<HeldBytes> held_bytes_;
  Index shards_ = 1;
};

}  // namespace ls::ag
