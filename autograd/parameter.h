#pragma once
// Parameters of a model: named leaves in f32 (f64 in checks), in creation order; and constants.
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "autograd/var.h"
#include "core/tensor/flat.h"

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
  /// Copies of blocks in another type (see ag::cast), where there are, are made again where values
  /// were written since.
  void refresh_copies();
  /// A graph that ends with that was replayed.
  void note_fresh_copies();

 private:
  std::vector<Parameter> items_;
  std::vector<Var> constants_;
  std::vector<std::shared_ptr<ConvertedCopy>> copies_;  // of flat blocks
  Index shards_ = 1;
};

}  // namespace ls::ag
