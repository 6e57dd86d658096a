#include "experiments/sweep/folder.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/base/log.h"
#include "core/io/files.h"
#include "experiments/part.h"
#include "experiments/provenance.h"
#include "experiments/run_file.h"

namespace ls::experiments {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// Of the config that lies in a folder, "" where there is none that this program reads.
std::string identity_in(const fs::path& folder) {
  const std::string path = (folder / "config.yaml").string();
  std::error_code error;
  if (!fs::exists(path, error)) {
    return "";
  }
  try {
    return run_identity(stored_config_file(path));
  } catch (const Error& e) {
    log_warn("a run of the sweep has a config that is not read any more, and does not count: " +
             e.message());
    return "";
  }
}

/// A file of replace() whose process ran on this machine and is gone: "table.txt.HOST.123.new".
bool abandoned(const std::string& file) {
  const std::string begin = "." + host_name() + ".";
  const std::size_t at = file.find(begin), end = file.find(".new");
  if (at == std::string::npos || end == std::string::npos || end < at + begin.size()) {
    return false;
  }
  const std::string pid = file.substr(at + begin.size(), end - at - begin.size());
  return !pid.empty() && pid.size() < 10 &&
         pid.find_first_not_of("0123456789") == std::string::npos &&
         ::kill(static_cast<pid_t>(std::stol(pid)), 0) != 0 && errno == ESRCH;
}

/// "NAME.3" -> NAME.
std::string without_generation(const std::string& file) {
  return file.substr(0, file.rfind('.'));
}

}  // namespace

SweepFolder::SweepFolder(std::string directory) : path_(std::move(directory)) {
  create_directories(work());
  create_directories(leases());
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(work(), error)) {
    // Somebody may be at it under a name that was given before an axis came.
    const std::string identity = identity_in(entry.path());
    if (!identity.empty()) {
      const std::string name = without_generation(entry.path().filename().string());
      name_of_.emplace(identity, name);
      taken_.insert(name);
    }
  }
  refresh();
}

std::string SweepFolder::work_of(const std::string& name, Index generation) const {
  return fmt::format("{}/{}.{}", work(), name, generation);
}

void SweepFolder::refresh() {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(path_, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(".") || identity_of_.contains(name) || !entry.is_directory(error)) {
      continue;
    }
    const std::string identity = identity_in(entry.path());
    identity_of_[name] = identity;
    taken_.insert(name);
    if (identity.empty()) {
      continue;
    }
    EndedRun run{.name = name};
    const std::string failed = (entry.path() / "failed.json").string();
    if (fs::exists(failed, error)) {
      const Json j = Json::parse(read_file(failed), nullptr, false);
      run.error = j.is_object() ? j.value("error", "") : "";
      const Json facts = j.is_object() ? j.value("provenance", Json::object()) : Json::object();
      for (const auto& [key, value] : facts.items()) {
        run.provenance.emplace_back(key, value);
      }
    } else if (has_run_record(entry.path().string())) {
      run.result = read_run_record(entry.path().string()).result;
      run.provenance = run.result->provenance;
    } else {
      continue;
    }
    ended_[identity] = std::move(run);
    name_of_[identity] = name;
  }
}

const EndedRun* SweepFolder::ended(const SweepRun& run) const {
  const auto at = ended_.find(run.identity);
  return at == ended_.end() ? nullptr : &at->second;
}

const std::string& SweepFolder::name_of(const SweepRun& run) {
  const auto at = name_of_.find(run.identity);
  if (at != name_of_.end()) {
    return at->second;
  }
  std::string name = run.name;  // another run may have had it, before a default or a base changed
  for (int n = 2; taken_.contains(name); ++n) {
    name = fmt::format("{}~{}", run.name, n);
  }
  taken_.insert(name);
  return name_of_[run.identity] = name;
}

std::string SweepFolder::half_done(const SweepRun& run, Index before) const {
  const auto name = name_of_.find(run.identity);
  for (Index g = before - 1; name != name_of_.end() && g > 0; --g) {
    const std::string folder = work_of(name->second, g);
    std::error_code error;
    if (fs::exists(folder, error)) {
      return identity_in(folder) == run.identity ? folder : "";
    }
  }
  return "";
}

void SweepFolder::remove_half_done(const std::string& name, Index before) const {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(work(), error)) {
    const std::string file = entry.path().filename().string();
    const std::string number = file.substr(name.size() < file.size() ? name.size() + 1 : 0);
    if (file.starts_with(name + ".") && !number.empty() && number.size() < 16 &&
        number.find_first_not_of("0123456789") == std::string::npos &&
        std::stoll(number) < before) {
      fs::remove_all(entry.path(), error);
    }
  }
}

void SweepFolder::remove_left_over() const {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(work(), error)) {
    if (entry.is_directory(error) || abandoned(entry.path().filename().string())) {
      fs::remove_all(entry.path(), error);
    }
  }
}

bool SweepFolder::publish(const std::string& work, const std::string& name) {
  const std::string to = path_ + "/" + name;
  sync_directory(work);
  if (std::rename(work.c_str(), to.c_str()) == 0) {
    sync_directory(path_);
    return true;
  }
  const int error = errno;
  LS_CHECK(error == ENOTEMPTY || error == EEXIST || error == ENOENT, kIo,
           "{}: cannot be renamed to {}: {}", work, to, write_failure(error));
  return false;
}

void SweepFolder::write_failure_note(const std::string& work, const std::string& error, Index step,
                                     const Device& device) {
  Json j{{"error", error}, {"step", step}, {"provenance", Json::object()}};
  for (const auto& [key, value] : provenance(1, device)) {
    j["provenance"][key] = value;
  }
  replace_file(work + "/failed.json", j.dump(2) + "\n");
  std::error_code ignored;
  fs::remove_all(work + "/checkpoints", ignored);
}

void SweepFolder::remove(const SweepRun& run) {
  const auto at = ended_.find(run.identity);
  if (at == ended_.end()) {
    return;
  }
  const std::string name = at->second.name;
  // Renamed first: others see the whole run or none.
  const std::string away = fmt::format("{}/{}.again.{}", work(), name, ::getpid());
  std::error_code error;
  fs::rename(path_ + "/" + name, away, error);  // another worker may have done it
  fs::remove_all(away, error);
  ended_.erase(at);
  identity_of_.erase(name);
}

void SweepFolder::replace(const std::string& file, const std::string& text) const {
  const std::string mine = fmt::format("{}/{}.{}.{}.new", work(), file, host_name(), ::getpid());
  replace_file(mine, text);
  LS_CHECK(std::rename(mine.c_str(), (path_ + "/" + file).c_str()) == 0, kIo,
           "{}/{}: cannot be written: {}", path_, file, write_failure(errno));
}

}  // namespace ls::experiments
