// Checkpoints: damaged bytes are refused; files that are whole and hold something else than a
// checkpoint are refused or are read as what they say.
#include <hdf5.h>

#include "core/io/h5.h"
#include "experiments/checkpoint.h"
#include "tests/fuzz/fuzz.h"

namespace ls::fuzz {
namespace {

namespace fs = std::filesystem;
using experiments::CheckpointData;

Tensor random_tensor(Rng& rng, const Shape& shape) {
  Tensor t = Tensor::empty(shape, DType::kF32);
  for (Index i = 0; i < t.numel(); ++i) {
    t.data<float>()[i] = static_cast<float>(rng.normal());
  }
  return t;
}

/// A small checkpoint, as a run would write it.
void write_checkpoint(const std::string& path, Rng& rng) {
  ag::ParameterSet parameters;
  CheckpointData d;
  d.step = rng.below(100);
  d.tokens = rng.below(100000);
  d.config = "name: run\ntask: parity\nmodels: [{name: m}]\n";
  d.part_hash = "0123456789abcdef";
  d.model = "m";
  d.interface = {.vocab_in = 2, .classes = 2};
  if (rng.bernoulli(0.3)) {
    d.interface = {.vector_width = 3, .classes = 4};
    d.interface.class_embeddings = random_tensor(rng, {4, 3});
  }
  d.directory = "/somewhere";
  d.data = {{"task.path", 2, 100, "0123456789abcdef", "0123456789abcdef"}};
  d.history = "{\"step\":3,\"split\":\"valid\",\"eval\":{\"T8\":{\"loss\":1.0}}}\n";
  d.optimizer_states = {"m", "v"};
  d.provenance = {{"version", "1"}};
  for (Index i = 1 + rng.below(4); i > 0; --i) {
    const Shape shape{1 + rng.below(5), 1 + rng.below(5)};
    parameters.add("blocks." + std::to_string(i) + ".w", random_tensor(rng, shape), true);
    d.optimizer.push_back({random_tensor(rng, shape), random_tensor(rng, shape)});
  }
  if (rng.bernoulli(0.5)) {
    d.carried.emplace();
    d.carried->position = {3, 4};
    d.carried->slots.emplace(
        "S", layers::StateSlot{ag::Var(random_tensor(rng, {2, 3})), layers::StatePart::kVector});
  }
  experiments::save_checkpoint(path, parameters, d);
}

/// Loads a file; what was accepted, saved again, is the same.
bool load(const std::string& path) {
  experiments::LoadedCheckpoint c;
  try {
    c = experiments::load_checkpoint(path);
  } catch (const Error& e) {
    LS_PROMISE(e.kind() == ErrorKind::kIo);
    return false;
  }
  ag::ParameterSet parameters;
  for (const auto& [name, value] : c.parameters) {
    parameters.add(name, value, true);
  }
  const std::string copy = (scratch() / "copy.h5").string();
  experiments::save_checkpoint(copy, parameters, c.data);
  const experiments::LoadedCheckpoint again = experiments::load_checkpoint(copy);
  LS_PROMISE(again.data.step == c.data.step && again.data.history == c.data.history &&
             again.data.data == c.data.data && again.data.config == c.data.config);
  LS_PROMISE(again.parameters.size() == c.parameters.size());
  experiments::restore_parameters(again.parameters, copy, parameters);
  if (c.data.carried) {
    c.data.carried->rows(0, static_cast<Index>(c.data.carried->position.size()));
  }
  return true;
}

h5::Attribute random_attribute(Rng& rng) {
  switch (rng.below(6)) {
    case 0:
      return static_cast<std::int64_t>(rng.next_u64());
    case 1:
      return rng.normal();
    case 2:
      return std::string(below(rng, 20), 'x');
    case 3:
      return std::vector<std::int64_t>(below(rng, 4), -1);
    case 4:
      return std::vector<double>(below(rng, 4), 0.0 / 0.0);
    default:
      return std::vector<std::string>(below(rng, 4), "m");
  }
}

Tensor random_dataset(Rng& rng) {
  static const std::vector<DType> types = {DType::kF64, DType::kF32, DType::kBF16, DType::kF16,
                                           DType::kI64, DType::kI32, DType::kU8,   DType::kBool};
  Shape shape;
  for (Index i = rng.below(4); i > 0; --i) {
    shape.push_back(rng.below(5));
  }
  return Tensor::full(shape, pick(rng, types), rng.bernoulli(0.2) ? 0.0 / 0.0 : 1.0);
}

/// Copies a file object by object, leaving out and changing some.
class Rewriter {
 public:
  Rewriter(const std::string& from, const std::string& to, Rng& rng)
      : from_(h5::File::open(from)), to_(h5::File::create(to)), rng_(rng) {}

  void run() {
    attributes("/");
    for (const std::string& name : from_.children()) {
      copy(name);
    }
    const std::string more = pick(rng_, paths_) + "_more";
    if (rng_.bernoulli(0.2) && can_hold(more)) {
      to_.write(more, random_dataset(rng_));
    }
    to_.close();
  }

 private:
  /// Are all that stand above a path groups? (HDF5 leaks memory when it cannot make a dataset.)
  bool can_hold(const std::string& path) const {
    for (std::size_t at = path.find('/'); at != std::string::npos; at = path.find('/', at + 1)) {
      const std::string above = path.substr(0, at);
      if (to_.exists(above) && !to_.is_group(above)) {
        return false;
      }
    }
    return true;
  }
  bool changes() { return rng_.bernoulli(0.03); }
  void attributes(const std::string& object) {
    for (const std::string& a : from_.attributes(object)) {
      if (!changes()) {
        to_.set_attribute(object, a,
                          changes() ? random_attribute(rng_) : from_.attribute(object, a));
      }
    }
  }
  void copy(const std::string& path) {
    paths_.push_back(path);
    if (changes()) {
      return;
    }
    if (!from_.is_group(path)) {
      to_.write(path, changes() ? random_dataset(rng_) : from_.read(path));
      attributes(path);
      return;
    }
    if (changes()) {
      to_.write(path, random_dataset(rng_));
      return;
    }
    to_.create_group(path);
    for (const std::string& name : from_.children(path)) {
      copy(path + "/" + name);
    }
  }

  h5::File from_, to_;
  Rng& rng_;
  std::vector<std::string> paths_ = {"parameters/x"};
};

}  // namespace

bool run_case(Rng& rng) {
  // Freed memory goes back at once, so that the sanitizer sees what HDF5 does with it.
  static const bool exact = H5set_free_list_limits(0, 0, 0, 0, 0, 0) >= 0;
  LS_PROMISE(exact);
  const std::string good = (scratch() / "good.h5").string(), bad = (scratch() / "bad.h5").string();
  write_checkpoint(good, rng);
  LS_PROMISE(h5::damage(good).empty());
  if (rng.bernoulli(0.4)) {
    const std::string bytes = read_bytes(good);
    std::string changed = bytes;
    mutate(changed, rng, {"\x89HDF\r\n\x1a\n", "TREE", "HEAP", "SNOD", "\x1bLSEAL1\n"});
    write_bytes(bad, changed);
    const bool same = changed == bytes;
    LS_PROMISE(h5::damage(bad).empty() == same);
    const bool accepted = load(bad);
    LS_PROMISE(accepted == same);
    return accepted;
  }
  fs::remove(bad);
  Rewriter(good, bad, rng).run();
  LS_PROMISE(h5::damage(bad).empty());
  return load(bad);
}

}  // namespace ls::fuzz
