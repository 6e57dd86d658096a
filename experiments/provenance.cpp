#include "experiments/provenance.h"

#include <fmt/core.h>
#include <unistd.h>

#include <CLI/Version.hpp>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/backend/cpu/gemm.h"
#include "core/base/parallel_for.h"
#include "core/config/yaml.h"
#include "core/io/h5.h"
#include "longscan_build_info.h"
#include "parallel/mpi_env.h"

namespace ls::experiments {
namespace {

std::string cpu_model() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("model name", 0) == 0) {
      return line.substr(line.find(':') + 2);
    }
  }
  return "unknown";
}

const std::string kStarted = utc_now();  // when the program was loaded

}  // namespace

std::string utc_now() {
  char text[32];
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

std::string_view tree_patch() {
  return
#include "longscan_build_difference.inc"
      ;
}

std::string version_line() {
  return "longscan " LS_BUILD_VERSION " (" LS_BUILD_COMMIT ")";
}

std::string host_name() {
  char name[256] = "unknown";
  gethostname(name, sizeof name - 1);
  return name;
}

Provenance provenance(int ranks, const Device& device) {
  return {{"version", LS_BUILD_VERSION},
          {"commit", LS_BUILD_COMMIT},
          {"compiler", LS_BUILD_COMPILER},
          {"flags", LS_BUILD_FLAGS},
          {"matrix products", fmt::format("own, bf16 {}", bf16_products())},
          {"fmt", fmt::format("{}.{}.{}", FMT_VERSION / 10000, FMT_VERSION / 100 % 100,
                              FMT_VERSION % 100)},
          {"yaml-cpp", LS_BUILD_YAML},
          {"json", fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR, NLOHMANN_JSON_VERSION_MINOR,
                               NLOHMANN_JSON_VERSION_PATCH)},
          {"cli11", CLI11_VERSION},
          {"hdf5", h5::library_version()},
          {"mpi", parallel::mpi_version()},
          {"cpu", cpu_model()},
          {"threads", std::to_string(num_threads())},
          {"device", device.type() == DeviceType::kCpu
                         ? device.describe()
                         : device.describe() + " " + device.properties().model},
          {"ranks", std::to_string(ranks)},
          {"host", host_name()},
          {"started", kStarted}};
}

}  // namespace ls::experiments
