#pragma once
// Fuzz targets: one executable a target, which runs case after case for a time. A case is a
// function of its number alone. Whatever it is given, the code under test returns or throws
// ls::Error; a crash, a finding of a sanitizer, another exception, a broken promise or a case that
// takes a minute ends the run with the number of the case.
#include <filesystem>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/rng.h"

namespace ls::fuzz {

/// Defined once by every target. Returns whether the input was accepted, for the statistics.
bool run_case(Rng& rng);

/// A promise that a target checks.
#define LS_PROMISE(condition) \
  LS_CHECK(condition, kInternal, "{}:{}: broken promise: {}", __FILE__, __LINE__, #condition)

inline std::size_t below(Rng& rng, std::size_t n) {
  return static_cast<std::size_t>(rng.below(static_cast<Index>(n)));
}
template <class T>
const T& pick(Rng& rng, const std::vector<T>& from) {
  return from[below(rng, from.size())];
}

/// Flips, overwrites, cuts out, repeats and inserts bytes, `words` among what is inserted.
void mutate(std::string& text, Rng& rng, const std::vector<std::string>& words);

/// A folder of this process, removed at its end.
const std::filesystem::path& scratch();

std::string read_bytes(const std::filesystem::path& path);
void write_bytes(const std::filesystem::path& path, const std::string& bytes);

}  // namespace ls::fuzz
