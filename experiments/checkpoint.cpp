#include "experiments/checkpoint.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <utility>

#include "core/io/files.h"
#include "core/io/h5.h"

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

}  // namespace

void save_checkpoint(const std::string& path, const ag::ParameterSet& parameters,
                     const CheckpointData& data) {
  const ErrorContext context("saving checkpoint " + path);
  const std::string temporary = path + ".tmp";
  try {
    {
      h5::File file = h5::File::create(temporary);
      file.set_attribute("/", "format", std::string(kFormat));
      file.set_attribute("/", "version", kCheckpointVersion);
      file.set_attribute("/", "step", static_cast<std::int64_t>(data.step));
      file.set_attribute("/", "tokens", static_cast<std::int64_t>(data.tokens));
      file.set_attribute("/", "seed", static_cast<std::int64_t>(data.seed));
      file.set_attribute("/", "seconds", data.seconds);
      file.set_attribute("/", "wall_seconds", data.wall_seconds);
      file.set_attribute("/", "config_hash", data.config_hash);
      file.set_attribute("/", "model", data.model);
      file.set_attribute("/", "optimizer_states", data.optimizer_states);
      // As a dataset: attributes are limited to 64 KiB.
      file.write("text/config",
                 Tensor::from(std::vector<std::uint8_t>(data.config.begin(), data.config.end())));
      for (const auto& [name, value] : data.provenance) {
        file.set_attribute("/", "provenance." + name, value);
      }
      const auto& items = parameters.items();
      for (std::size_t i = 0; i < items.size(); ++i) {
        file.write("parameters/" + items[i].name, items[i].var.value());
        for (std::size_t s = 0; s < data.optimizer_states.size(); ++s) {
          file.write("optimizer/" + data.optimizer_states[s] + "/" + items[i].name,
                     data.optimizer[i][s]);
        }
      }
      if (data.carried) {
        std::vector<std::int64_t> position(data.carried->position.begin(),
                                           data.carried->position.end());
        file.write("carried_position/rows", Tensor::from(position));
        for (const auto& [name, slot] : data.carried->slots) {
          file.write("carried/" + name, slot.value.value());
          file.set_attribute("carried/" + name, "part", static_cast<std::int64_t>(slot.part));
        }
      }
      file.close();
    }
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
  std::error_code unknown;  // what cannot be told is told by opening it
  LS_CHECK(fs::exists(path, unknown) || unknown, kIo,
           "cannot open checkpoint '{}': No such file or directory", path);
  LS_CHECK(!fs::is_directory(path, unknown), kIo,
           "'{}' is a directory, a checkpoint is expected: "
           "RUN/MODEL/seedN/checkpoints/step_NNNNNNNNN.h5",
           path);
  const ErrorContext context("loading checkpoint " + path);
  const h5::File file = h5::File::open(path);
  LS_CHECK(file.has_attribute("/", "format") && file.text("/", "format") == kFormat, kIo,
           "{}: is an HDF5 file but not a checkpoint of this program", path);
  const std::int64_t version = file.integer("/", "version");
  LS_CHECK(version == kCheckpointVersion, kIo,
           "{}: was written in format version {}, this program reads version {}; use the program "
           "that wrote it",
           path, version, kCheckpointVersion);
  LoadedCheckpoint out;
  CheckpointData& d = out.data;
  d.step = file.integer("/", "step");
  d.tokens = file.integer("/", "tokens");
  d.seed = static_cast<std::uint64_t>(file.integer("/", "seed"));
  d.seconds = file.number("/", "seconds");
  d.wall_seconds = file.number("/", "wall_seconds");
  d.config_hash = file.text("/", "config_hash");
  d.model = file.text("/", "model");
  const std::vector<std::uint8_t> config = file.read("text/config").to_vector<std::uint8_t>();
  d.config.assign(config.begin(), config.end());
  d.optimizer_states = std::get<std::vector<std::string>>(file.attribute("/", "optimizer_states"));
  for (const std::string& a : file.attributes("/")) {
    if (a.rfind("provenance.", 0) == 0) {
      d.provenance.emplace_back(a.substr(11), file.text("/", a));
    }
  }
  for (const std::string& name : file.children("parameters")) {
    const Tensor value = read_finite(file, "parameters/" + name);
    out.parameters.emplace_back(name, value);
    std::vector<Tensor> states;
    for (const std::string& s : d.optimizer_states) {
      const std::string full = "optimizer/" + s + "/" + name;
      states.push_back(read_finite(file, full));
      LS_CHECK(states.back().shape() == value.shape() && states.back().dtype() == value.dtype(),
               kIo, "{}: '{}' is {}, its parameter is {}; use an earlier checkpoint", path, full,
               states.back().describe(), value.describe());
    }
    d.optimizer.push_back(std::move(states));
  }
  if (file.exists("carried_position")) {
    d.carried.emplace();
    for (const std::int64_t p : file.read("carried_position/rows").to_vector<std::int64_t>()) {
      d.carried->position.push_back(p);
    }
    if (file.exists("carried")) {
      for (const std::string& name : file.children("carried")) {
        const std::int64_t part = file.integer("carried/" + name, "part");
        d.carried->slots.emplace(name,
                                 layers::StateSlot{ag::Var(read_finite(file, "carried/" + name)),
                                                   static_cast<layers::StatePart>(part)});
      }
    }
  }
  return out;
}

void restore_parameters(const LoadedCheckpoint& loaded, const std::string& path,
                        ag::ParameterSet& parameters) {
  std::map<std::string, const Tensor*> stored;
  for (const auto& [name, value] : loaded.parameters) {
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
  for (const auto& [name, value] : loaded.parameters) {
    for (ag::Parameter& p : parameters.items()) {
      if (p.name == name) {
        p.var.mutable_value().copy_(value);
      }
    }
  }
}

std::string checkpoint_path(const std::string& directory, Index step) {
  return fmt::format("{}/step_{:09}.h5", directory, step);
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
