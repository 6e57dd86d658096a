#pragma once
// Where a result comes from: stored with every one.
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/tensor/device.h"

namespace ls::experiments {

/// Name and value of every fact about build and machine that a figure depends on: version, commit,
/// compiler, flags, libraries, CPU, threads, device, ranks, host, start time.
using Provenance = std::vector<std::pair<std::string, std::string>>;
/// Of this process, one of `ranks`, whose models run on `device`.
Provenance provenance(int ranks, const Device& device = cpu());
/// What the checkout that was built differs by from its commit, as git shows it; "" of a clean one.
std::string_view tree_patch();
/// Of this machine.
std::string host_name();
/// "2026-01-31T12:00:00Z", now.
std::string utc_now();
/// "longscan 0.1.0 (1a2b3c4, modified)".
std::string version_line();

}  // namespace ls::experiments
