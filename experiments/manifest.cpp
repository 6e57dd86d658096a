#include "experiments/manifest.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>
#include <vector>

#include "core/base/error.h"
#include "core/io/files.h"

namespace ls::experiments {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// The files of a part that lie there: what Recorder, Trainer and save_state write.
std::vector<fs::path> files_of(const fs::path& part) {
  std::vector<fs::path> found;
  std::error_code error;
  for (const char* name : {"config.yaml", "metrics.jsonl", "run.h5", "result.json", "tree.patch",
                           "events.out.tfevents.0.longscan"}) {
    for (const std::string& file : {std::string(name), std::string(name) + ".tmp"}) {
      if (fs::symlink_status(part / file, error).type() != fs::file_type::not_found) {
        found.push_back(part / file);
      }
    }
  }
  for (const auto& entry : fs::directory_iterator(part / "checkpoints", error)) {
    const std::string name = entry.path().filename().string();
    const bool ours =
        (name.starts_with("step_") || name.starts_with("best.h5")) &&
        (name.ends_with(".h5") || name.ends_with(".h5.tmp") || name.ends_with(".h5.damaged"));
    if (ours && !entry.is_directory(error)) {
      found.push_back(entry.path());
    }
  }
  return found;
}

}  // namespace

Manifest::Manifest(std::string folder) : folder_(std::move(folder)) {
  if (!fs::exists(path())) {
    return;
  }
  try {
    parts_ = Json::parse(read_file(path())).at("parts").get<std::set<std::string>>();
  } catch (const Json::exception& e) {
    LS_FAIL(kIo, "{}: does not list the parts of a run ({}); move it away, --resume writes it anew",
            path(), e.what());
  }
}

void Manifest::add(const std::string& part) {
  if (parts_.insert(part).second) {
    replace_file(path(), Json{{"parts", parts_}}.dump(2) + "\n");
  }
}

void Manifest::remove(const std::string& part) const {
  const fs::path directory = fs::path(folder_) / part;
  const std::vector<fs::path> files = files_of(directory);
  if (files.empty()) {
    return;
  }
  LS_CHECK(
      lists(part), kConfig,
      "{}: holds files of a run that {} does not list; they are not deleted: move them away, or "
      "choose another name",
      directory.string(), path());
  std::error_code error;
  for (const fs::path& file : files) {
    fs::remove(file, error);
    LS_CHECK(!error, kIo,
             "{}: cannot be deleted to start over: {}; delete it as the user who made it, or "
             "choose another name or output folder",
             file.string(), error.message());
  }
  for (const fs::path& folder : {directory / "checkpoints", directory, directory.parent_path()}) {
    fs::remove(folder, error);  // not while something else lies there
  }
}

}  // namespace ls::experiments
