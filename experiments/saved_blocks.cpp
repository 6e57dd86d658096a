#include "experiments/saved_blocks.h"

#include <limits>

namespace ls::experiments {

SavedBlocks::SavedBlocks(const RunPart& part, const RunState& state)
    : part_(part), state_(state), blocks_(part.model->parameters().blocks()) {}

Tensor SavedBlocks::value_shard(std::size_t block) const {
  return part_.model->parameters().held()[block]->value_shard();
}

std::vector<Tensor> SavedBlocks::put_together(const Tensor& shard, std::size_t block) const {
  const Tensor own = shard.to(cpu());
  if (part_.comm.rank() > 0) {
    part_.comm.send(own.raw(), own.numel(), own.dtype(), 0);
    return {};
  }
  std::vector<Shape> shapes;
  for (std::size_t i = blocks_[block].first; i < blocks_[block].second; ++i) {
    shapes.push_back(part_.model->parameters().items()[i].var.shape());
  }
  const FlatBuffer whole(shapes, own.dtype(), cpu(), part_.comm.size());
  whole.shard(0).copy_(own);
  for (int r = 1; r < part_.comm.size(); ++r) {
    Tensor theirs = whole.shard(r);
    part_.comm.recv(theirs.raw(), theirs.numel(), theirs.dtype(), r);
  }
  return whole.views();
}

SavedBlock SavedBlocks::next() {
  const std::size_t b = next_++;
  const auto [begin, end] = blocks_[b];
  const ag::ParameterSet& parameters = part_.model->parameters();
  SavedBlock out;
  if (parameters.keeps_shards()) {
    out.values = put_together(value_shard(b), b);
  } else {
    for (std::size_t i = begin; i < end; ++i) {
      out.values.push_back(parameters.items()[i].var.value());
    }
  }
  if (!part_.shards) {
    out.states.assign(state_.optimizer.begin() + static_cast<std::ptrdiff_t>(begin),
                      state_.optimizer.begin() + static_cast<std::ptrdiff_t>(end));
    return out;
  }
  out.states.resize(end - begin);
  for (const Tensor& shard : state_.optimizer_shards[b]) {
    const std::vector<Tensor> whole = put_together(shard, b);
    for (std::size_t i = 0; i < whole.size(); ++i) {
      out.states[i].push_back(whole[i]);
    }
  }
  return out;
}

void SavedBlocks::skip() {
  while (next_ < count()) {
    next();
  }
}

void SavedBlocks::check_finite(
    const std::function<std::string(const std::string& what)>& fault) const {
  const ag::ParameterSet& parameters = part_.model->parameters();
  const std::vector<std::string> names = part_.optimizer->state_names();
  const Index kinds = 1 + std::ssize(names);
  constexpr Index kNone = std::numeric_limits<Index>::max();
  Index first = kNone;  // parameter * kinds + kind
  const auto look = [&](const Tensor& t, std::size_t parameter, Index kind) {
    const Index at = static_cast<Index>(parameter) * kinds + kind;
    if (at < first && !all_finite(t)) {
      first = at;
    }
  };
  for (std::size_t b = 0; b < count(); ++b) {
    for (std::size_t i = blocks_[b].first; i < blocks_[b].second; ++i) {
      if (!parameters.keeps_shards()) {
        look(parameters.items()[i].var.value(), i, 0);
      }
      for (std::size_t s = 0; s < state_.optimizer[i].size(); ++s) {  // of this rank's shards
        look(state_.optimizer[i][s], i, 1 + static_cast<Index>(s));
      }
    }
    if (parameters.keeps_shards()) {
      for (const ag::ShardPart& p : parameters.parts_of_shard(blocks_[b], part_.comm.rank())) {
        look(value_shard(b).slice(0, p.at, p.at + p.count), p.parameter, 0);
      }
    }
  }
  first = part_.comm.reduce_value(first, ReduceOp::kMin);
  if (first != kNone) {
    const std::string& name = parameters.items()[static_cast<std::size_t>(first / kinds)].name;
    const Index kind = first % kinds;
    throw Error(ErrorKind::kNumeric,
                fault(kind == 0 ? "parameter " + name
                                : "the optimizer's " + names[static_cast<std::size_t>(kind - 1)] +
                                      " of " + name));
  }
}

}  // namespace ls::experiments
