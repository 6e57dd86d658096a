#pragma once
// What golden files of any set owe.
#include <string>
#include <vector>

#include "experiments/golden/golden.h"

namespace ls::test {

/// The files of the ops that have an adapter.
std::vector<std::string> known_golden_files(const std::string& folder);

/// Every case passes in f64, f32 and bf16, and scans in every form, whole and in pieces.
void check_golden_files(const std::vector<std::string>& files);
/// The first and the last case of every file, with one number changed, does not pass.
void check_spoiled_golden_files(const std::vector<std::string>& files);
/// Every adapter has its file.
void check_golden_adapters(const std::string& folder);

std::string describe(const golden::GoldenReport& report);

}  // namespace ls::test
