#include "experiments/checkpoint.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "core/io/files.h"
#include "core/io/h5.h"
#include "experiments/result.h"
#include "experiments/run_file.h"

using Json = nlohmann::ordered_json;

namespace ls::experiments {
namespace {

namespace fs = std::filesystem;
constexpr const char* kFormat = "longscan checkpoint";

// A model that holds one NaN gives nothing but NaN.
Tensor read_finite(const h5::File& file, const std::string& name) {
  const Tensor t = file.read(name);
  const Tensor wide = t.to(DType::kF64).contiguous();
  const double* x = std::as_const(wide).data<double>();
  for (Index i = 0; i < wide.numel(); ++i) {
    LS_CHECK(std::isfinite(x[i]), kIo,
             "{}: '{}' holds {} at element {}; a checkpoint holds finite numbers only, use an "
             "earlier one",
             file.path(), name, x[i], i);
  }
  return t;
}

// Texts of any length are datasets: attributes end at 64 KiB.
void write_text(h5::File& file, const std::string& name, const std::string& text) {
  file.write("text/" + name, Tensor::from(std::vector<std::uint8_t>(text.begin(), text.end())));
}

std::string read_text(const h5::File& file, const std::string& name) {
  const Tensor t = file.read("text/" + name);
  LS_CHECK(t.dtype() == DType::kU8 && t.rank() == 1, kIo, "{}: 'text/{}' is {}, not a text",
           file.path(), name, t.describe());
  const std::vector<std::uint8_t> bytes = t.to_vector<std::uint8_t>();
  return {bytes.begin(), bytes.end()};
}

Index read_count(const h5::File& file, const std::string& name) {
  const std::int64_t n = file.integer("/", name);
  LS_CHECK(n >= 0, kIo, "{}: attribute '{}' is {}, a count is expected", file.path(), name, n);
  return n;
}

std::vector<data::DataIdentity> parse_identity(const h5::File& file) {
  try {
    return Json::parse(read_text(file, "data")).get<std::vector<data::DataIdentity>>();
  } catch (const Json::exception& e) {
    LS_FAIL(kIo, "{}: 'text/data' does not name data ({})", file.path(), e.what());
  }
}

constexpr const char* kEmbeddings = "interface/class_embeddings";

void write_facts(h5::File& file, const CheckpointData& data) {
  file.set_attribute("/", "format", std::string(kFormat));
  file.set_attribute("/", "version", kCheckpointVersion);
  file.set_attribute("/", "step", static_cast<std::int64_t>(data.step));
  file.set_attribute("/", "updates", static_cast<std::int64_t>(data.updates));
  file.set_attribute("/", "tokens", static_cast<std::int64_t>(data.tokens));
  file.set_attribute("/", "seed", static_cast<std::int64_t>(data.seed));
  file.set_attribute("/", "seconds", data.seconds);
  file.set_attribute("/", "wall_seconds", data.wall_seconds);
  file.set_attribute("/", "part_hash", data.part_hash);
  file.set_attribute("/", "model", data.model);
  file.set_attribute("/", "directory", data.directory);
  file.set_attribute("/", "optimizer_states", data.optimizer_states);
  file.set_attribute("/", "vocab_in", static_cast<std::int64_t>(data.interface.vocab_in));
  file.set_attribute("/", "vector_width", static_cast<std::int64_t>(data.interface.vector_width));
  file.set_attribute("/", "classes", static_cast<std::int64_t>(data.interface.classes));
  if (data.interface.class_embeddings.defined()) {
    file.write(kEmbeddings, data.interface.class_embeddings);
  }
  for (const auto& [name, value] : data.provenance) {
    file.set_attribute("/", "provenance." + name, value);
  }
  write_text(file, "config", data.config);
  write_text(file, "data", Json(data.data).dump());
  write_text(file, "history", data.history);
  write_text(file, "log", data.log);
}

layers::ModelInterface read_interface(const h5::File& file) {
  layers::ModelInterface io{.vocab_in = read_count(file, "vocab_in"),
                            .vector_width = read_count(file, "vector_width"),
                            .classes = read_count(file, "classes")};
  LS_CHECK((io.vocab_in > 0) != (io.vector_width > 0) && io.classes > 0, kIo,
           "{}: a model reads tokens or vectors and has classes; this one has vocab_in {}, "
           "vector_width {}, classes {}",
           file.path(), io.vocab_in, io.vector_width, io.classes);
  if (file.exists(kEmbeddings)) {
    io.class_embeddings = read_finite(file, kEmbeddings);
    const Tensor& e = io.class_embeddings;
    LS_CHECK(e.rank() == 2 && e.size(0) == io.classes && e.dtype() == DType::kF32, kIo,
             "{}: '{}' is {}, f32 [{}, width] is expected", file.path(), kEmbeddings, e.describe(),
             io.classes);
  }
  return io;
}

void read_facts(const h5::File& file, CheckpointData& d) {
  d.step = read_count(file, "step");
  d.updates = read_count(file, "updates");
  d.tokens = read_count(file, "tokens");
  d.seed = static_cast<std::uint64_t>(file.integer("/", "seed"));
  d.seconds = file.number("/", "seconds");
  d.wall_seconds = file.number("/", "wall_seconds");
  d.part_hash = file.text("/", "part_hash");
  d.model = file.text("/", "model");
  d.directory = file.text("/", "directory");
  const h5::Attribute states = file.attribute("/", "optimizer_states");
  const auto* names = std::get_if<std::vector<std::string>>(&states);
  LS_CHECK(names && std::set<std::string>(names->begin(), names->end()).size() == names->size(),
           kIo, "{}: attribute 'optimizer_states' is not a list of names", file.path());
  d.optimizer_states = *names;
  d.interface = read_interface(file);
  for (const std::string& a : file.attributes("/")) {
    if (a.starts_with("provenance.")) {
      d.provenance.emplace_back(a.substr(11), file.text("/", a));
    }
  }
  d.config = read_text(file, "config");
  d.data = parse_identity(file);
  d.history = read_text(file, "history");
  d.log = read_text(file, "log");
}

void write_tensors(h5::File& file, const ag::ParameterSet& parameters, const CheckpointData& data,
                   const std::function<SavedBlock()>& next_block) {
  std::vector<std::string> names;
  std::vector<Tensor> values;
  for (const ag::Parameter& p : parameters.items()) {
    names.push_back(p.name);
    values.push_back(next_block ? Tensor() : p.var.value());
  }
  for (std::size_t i = 0; i < names.size();) {
    const SavedBlock block = next_block ? next_block() : SavedBlock{values, data.optimizer};
    for (std::size_t k = 0; k < block.values.size(); ++k, ++i) {
      file.write("parameters/" + names[i], block.values[k]);
      for (std::size_t s = 0; s < data.optimizer_states.size(); ++s) {
        file.write("optimizer/" + data.optimizer_states[s] + "/" + names[i], block.states[k][s]);
      }
    }
  }
  if (data.carried) {
    const std::vector<std::int64_t> position(data.carried->position.begin(),
                                             data.carried->position.end());
    file.write("carried_position/rows", Tensor::from(position));
    for (const auto& [name, slot] : data.carried->slots) {
      file.write("carried/" + name, slot.value.value());
      file.set_attribute("carried/" + name, "part", static_cast<std::int64_t>(slot.part));
    }
  }
}

void write_fit(h5::File& file, const std::map<std::string, StateFit>& fit) {
  for (const auto& [name, f] : fit) {
    std::vector<double> both = f.mean;
    both.insert(both.end(), f.std.begin(), f.std.end());
    file.write("state_fit/" + name, Tensor::from(both, {2, std::ssize(f.mean)}));
  }
}

std::map<std::string, StateFit> read_fit(const h5::File& file) {
  std::map<std::string, StateFit> out;
  for (const std::string& name :
       file.exists("state_fit") ? file.children("state_fit") : std::vector<std::string>()) {
    const Tensor t = read_finite(file, "state_fit/" + name);
    LS_CHECK(t.dtype() == DType::kF64 && t.rank() == 2 && t.size(0) == 2, kIo,
             "{}: 'state_fit/{}' is {}, f64 [2, heads] is expected", file.path(), name,
             t.describe());
    out[name] = {t.slice(0, 0, 1).to_vector<double>(), t.slice(0, 1, 2).to_vector<double>()};
  }
  return out;
}

std::vector<std::pair<std::string, Tensor>> read_parameters(const h5::File& file) {
  std::vector<std::pair<std::string, Tensor>> out;
  for (const std::string& name : file.children("parameters")) {
    out.emplace_back(name, read_finite(file, "parameters/" + name));
  }
  LS_CHECK(!out.empty(), kIo, "{}: holds no parameters", file.path());
  return out;
}

std::vector<Tensor> read_optimizer(const h5::File& file, const std::vector<std::string>& states,
                                   const std::string& name, const Tensor& value) {
  std::vector<Tensor> out;
  for (const std::string& s : states) {
    const std::string full = "optimizer/" + s + "/" + name;
    out.push_back(read_finite(file, full));
    LS_CHECK(out.back().shape() == value.shape() && out.back().dtype() == value.dtype(), kIo,
             "{}: '{}' is {}, its parameter is {}; use an earlier checkpoint", file.path(), full,
             out.back().describe(), value.describe());
  }
  return out;
}

std::optional<layers::ModelState> read_carried(const h5::File& file) {
  const bool slots = file.exists("carried"), position = file.exists("carried_position");
  LS_CHECK(position || !slots, kIo, "{}: holds carried states without the positions of their rows",
           file.path());
  if (!position) {
    return std::nullopt;
  }
  layers::ModelState out;
  const Tensor rows = file.read("carried_position/rows");
  LS_CHECK(rows.dtype() == DType::kI64 && rows.rank() == 1, kIo,
           "{}: 'carried_position/rows' is {}, i64 [rows] is expected", file.path(),
           rows.describe());
  for (const std::int64_t p : rows.to_vector<std::int64_t>()) {
    LS_CHECK(p >= 0, kIo, "{}: a carried row stands at token {}", file.path(), p);
    out.position.push_back(p);
  }
  for (const std::string& name : slots ? file.children("carried") : std::vector<std::string>()) {
    const std::string full = "carried/" + name;
    const std::int64_t part = file.integer(full, "part");
    LS_CHECK(part >= 0 && part <= static_cast<std::int64_t>(layers::StatePart::kKeyValue), kIo,
             "{}: '{}' is of an unknown part of a state, {}", file.path(), full, part);
    const Tensor value = read_finite(file, full);
    LS_CHECK(value.rank() > 0 && value.size(0) == rows.size(0), kIo,
             "{}: '{}' is {}, there are {} carried rows", file.path(), full, value.describe(),
             rows.size(0));
    out.slots.emplace(name,
                      layers::StateSlot{ag::Var(value), static_cast<layers::StatePart>(part)});
  }
  return out;
}

void check_is_file(const std::string& path) {
  std::error_code unknown;  // what cannot be told is told by opening it
  LS_CHECK(fs::exists(path, unknown) || unknown, kIo,
           "cannot open checkpoint '{}': No such file or directory", path);
  LS_CHECK(!fs::is_directory(path, unknown), kIo,
           "'{}' is a directory, a checkpoint is expected: "
           "RUN/MODEL/seedN/checkpoints/step_NNNNNNNNN.h5",
           path);
}

h5::File open_checkpoint(const std::string& path) {
  // HDF5 may crash on a damaged file: what has no seal never reaches it.
  const std::string fault = h5::damage(path);
  LS_CHECK(fault.empty(), kIo, "{}; use an earlier checkpoint", fault);
  h5::File file = h5::File::open(path);
  LS_CHECK(file.has_attribute("/", "format") && file.text("/", "format") == kFormat, kIo,
           "{}: is an HDF5 file but not a checkpoint of this program", path);
  const std::int64_t version = file.integer("/", "version");
  LS_CHECK(version == kCheckpointVersion, kIo,
           "{}: was written in format version {}, this program reads version {}; use the program "
           "that wrote it",
           path, version, kCheckpointVersion);
  return file;
}

}  // namespace

void save_checkpoint(const std::string& path, const ag::ParameterSet& parameters,
                     const CheckpointData& data, const std::function<SavedBlock()>& next_block) {
  const ErrorContext context("saving checkpoint " + path);
  const std::string temporary = path + ".tmp";
  try {
    h5::File file = h5::File::create(temporary);
    write_facts(file, data);
    write_tensors(file, parameters, data, next_block);
    write_fit(file, data.fit);
    write_log(file, data.lines);
    file.close();
    LS_CHECK(std::rename(temporary.c_str(), path.c_str()) == 0, kIo, "{} cannot be renamed: {}",
             temporary, write_failure(errno));
  } catch (...) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw;
  }
  sync_directory(fs::path(path).parent_path().string());
}

LoadedCheckpoint load_checkpoint(const std::string& path) {
  check_is_file(path);
  const ErrorContext context("loading checkpoint " + path);
  const h5::File file = open_checkpoint(path);
  LoadedCheckpoint out;
  read_facts(file, out.data);
  out.parameters = read_parameters(file);
  for (const auto& [name, value] : out.parameters) {
    out.data.optimizer.push_back(read_optimizer(file, out.data.optimizer_states, name, value));
  }
  out.data.carried = read_carried(file);
  out.data.fit = read_fit(file);
  out.data.lines = read_log(file);
  return out;
}

std::vector<std::pair<std::string, Tensor>> load_parameters(const std::string& path) {
  check_is_file(path);
  const ErrorContext context("loading parameters of " + path);
  return read_parameters(open_checkpoint(path));
}

void restore_parameters(const std::vector<std::pair<std::string, Tensor>>& loaded,
                        const std::string& path, ag::ParameterSet& parameters) {
  std::map<std::string, const Tensor*> stored;
  for (const auto& [name, value] : loaded) {
    stored[name] = &value;
  }
  std::vector<std::string> faults;
  for (const ag::Parameter& p : parameters.items()) {
    const auto it = stored.find(p.name);
    if (it == stored.end()) {
      faults.push_back(p.name + " is not in the file");
    } else {
      if (!(it->second->shape() == p.var.shape())) {
        faults.push_back(fmt::format("{} is {} in the file, {} in the model", p.name,
                                     it->second->shape().str(), p.var.shape().str()));
      } else if (it->second->dtype() != p.var.dtype()) {
        faults.push_back(fmt::format("{} is {} in the file, {} in the model", p.name,
                                     enum_name(it->second->dtype()), enum_name(p.var.dtype())));
      }
      stored.erase(it);
    }
  }
  for (const auto& [name, value] : stored) {
    faults.push_back(name + " is not in the model");
  }
  std::string first;
  for (std::size_t i = 0; i < std::min<std::size_t>(faults.size(), 3); ++i) {
    first += (i == 0 ? "" : ", ") + faults[i];
  }
  LS_CHECK(faults.empty(), kIo,
           "{}: does not fit the model of this config: {}{}; use the model and task that it was "
           "trained with",
           path, first, faults.size() > 3 ? fmt::format(" and {} more", faults.size() - 3) : "");
  for (const auto& [name, value] : loaded) {
    for (ag::Parameter& p : parameters.items()) {
      if (p.name == name) {
        p.var.mutable_value().transfer_(value);
      }
    }
  }
}

std::string checkpoint_path(const std::string& directory, Index step) {
  return fmt::format("{}/step_{:09}.h5", directory, step);
}

std::string best_checkpoint_path(const std::string& directory) {
  return directory + "/best.h5";
}

std::vector<std::string> list_checkpoints(const std::string& directory) {
  std::vector<std::string> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("step_", 0) == 0 && entry.path().extension() == ".h5") {
      found.push_back(entry.path().string());
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

void prune_checkpoints(const std::string& directory, Index keep) {
  const std::vector<std::string> all = list_checkpoints(directory);
  std::error_code ignored;
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep) < all.size(); ++i) {
    fs::remove(all[i], ignored);
  }
  for (const auto& entry : fs::directory_iterator(directory, ignored)) {
    if (entry.path().extension() == ".tmp") {
      fs::remove(entry.path(), ignored);
    }
  }
}

}  // namespace ls::experiments
