#pragma once
// Faults of registrations: they are found before main begins, where nothing can be thrown, or when
// it begins, and are one message then.
#include <functional>
#include <string>
#include <vector>

namespace ls {

/// Faults that were found so far, each with its file.
std::vector<std::string>& registration_faults();
/// Calls `check` when main begins, after everything has registered; what it throws is a fault.
void check_at_start(std::function<void()> check);
/// Runs what check_at_start was given. Programs call it before doing anything.
/// @throws Error(Internal) with all faults, names that were registered twice among them
void check_registrations();

}  // namespace ls
