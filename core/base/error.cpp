#include "core/base/error.h"

namespace ls {
namespace {
thread_local std::vector<std::string> context_lines;
}

std::string_view error_kind_name(ErrorKind kind) {
  constexpr std::string_view kNames[] = {"shape",   "dtype",         "config",
                                         "device",  "communication", "io",
                                         "numeric", "unsupported",   "internal"};
  return kNames[static_cast<int>(kind)];
}

Error::Error(ErrorKind kind, std::string message, std::source_location where)
    : kind_(kind), message_(std::move(message)), text_(message_), where_(where) {
  for (auto line = context_lines.rbegin(); line != context_lines.rend(); ++line) {
    text_ += "\n  while " + *line;
  }
}

ErrorContext::ErrorContext(std::string line) {
  context_lines.push_back(std::move(line));
}
ErrorContext::~ErrorContext() {
  context_lines.pop_back();
}

std::string innermost_context() {
  return context_lines.empty() ? "" : context_lines.back();
}

namespace detail {
void throw_error(ErrorKind kind, std::string message, std::source_location where) {
  throw Error(kind, std::move(message), where);
}
}  // namespace detail
}  // namespace ls
