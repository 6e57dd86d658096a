#include "parallel/mesh.h"

#include <fmt/ranges.h>

#include <array>

#include "parallel/sequence/runner.h"

namespace ls::parallel {

MeshExtents mesh_extents(int ranks, std::optional<Index> data, Index sequence) {
  LS_CHECK(sequence >= 1 && ranks % sequence == 0, kConfig,
           "mesh.sequence is {}, which does not divide {} ranks; start a multiple of it, or set "
           "mesh.sequence to one of their divisors",
           sequence, ranks);
  const Index rest = ranks / sequence;
  LS_CHECK(!data || *data == rest, kConfig,
           "mesh is data {} by sequence {}, {} ranks were started; start {}, or leave mesh.data "
           "auto",
           data.value_or(rest), sequence, ranks, data.value_or(rest) * sequence);
  return {static_cast<int>(rest), static_cast<int>(sequence)};
}

std::string strategy_fault(const std::string& name) {
  if (name == "auto" || strategy_registry().find(name)) {
    return "";
  }
  const std::vector<std::string> names = strategy_registry().names();
  const std::string near = nearest_name(name, names);
  return fmt::format("unknown strategy '{}'{}; known: auto, {}", name,
                     near.empty() ? "" : ", did you mean '" + near + "'?", fmt::join(names, ", "));
}

struct Mesh::Runners {
  Runners(Communicator& sequence, const std::string& strategy) : split(sequence, local, strategy) {}
  layers::LocalRunner local;
  SplitRunner split;
};

Mesh::Mesh(Communicator& world, MeshExtents extents, const std::string& strategy) : world_(world) {
  if (extents.sequence == 1) {
    sequence_ = solo_communicator();
    return;
  }
  auto axes = world.split_axes(std::array{extents.data, extents.sequence});
  data_ = std::move(axes[0]);
  sequence_ = std::move(axes[1]);
  runners_ = std::make_unique<Runners>(*sequence_, strategy);
}

Mesh::~Mesh() = default;

layers::SeqRunner* Mesh::runner() const {
  return runners_ ? &runners_->split : nullptr;
}

std::pair<Index, Index> Mesh::tokens(Index length, int r) const {
  const Index ranks = sequence_->size();
  return {length * r / ranks, length * (r + 1) / ranks};
}

}  // namespace ls::parallel
