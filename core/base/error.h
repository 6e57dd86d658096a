#pragma once
// One error type for the whole program, with the place it was raised and what was being done.
#include <fmt/core.h>

#include <exception>
#include <source_location>
#include <string>
#include <string_view>
#include <vector>

namespace ls {

enum class ErrorKind {
  kShape,
  kDType,
  kConfig,
  kDevice,
  kComm,
  kIo,
  kNumeric,
  kUnsupported,
  kInternal
};
std::string_view error_kind_name(ErrorKind kind);

/// What every failed check throws. `what()` is one message: the fault, then the context lines that
/// enclosing ErrorContext guards added, outermost last.
class Error : public std::exception {
 public:
  Error(ErrorKind kind, std::string message,
        std::source_location where = std::source_location::current());
  const char* what() const noexcept override { return text_.c_str(); }
  ErrorKind kind() const { return kind_; }
  /// The fault alone, without context lines.
  const std::string& message() const { return message_; }
  const std::source_location& where() const { return where_; }

 private:
  ErrorKind kind_;
  std::string message_, text_;
  std::source_location where_;
};

/// While alive, every Error raised on this thread carries "while <line>".
class ErrorContext {
 public:
  explicit ErrorContext(std::string line);
  ~ErrorContext();
  ErrorContext(const ErrorContext&) = delete;
  ErrorContext& operator=(const ErrorContext&) = delete;
};

/// The innermost ErrorContext line of this thread, or "".
std::string innermost_context();

namespace detail {
[[noreturn]] void throw_error(ErrorKind kind, std::string message, std::source_location where);
}

}  // namespace ls

/// Throws ls::Error: LS_FAIL(kConfig, "batch is {}", n).
#define LS_FAIL(kind, ...)                                                     \
  ::ls::detail::throw_error(::ls::ErrorKind::kind, ::fmt::format(__VA_ARGS__), \
                            ::std::source_location::current())
/// A condition that a user can break; always on.
#define LS_CHECK(cond, kind, ...) \
  do {                            \
    if (!(cond)) [[unlikely]] {   \
      LS_FAIL(kind, __VA_ARGS__); \
    }                             \
  } while (0)
/// A condition that only our own mistakes can break; on unless NDEBUG without LS_ASSERTS.
#if !defined(NDEBUG) || defined(LS_ASSERTS)
#define LS_ASSERT(cond) LS_CHECK(cond, kInternal, "assertion failed: {}", #cond)
#else
#define LS_ASSERT(cond) ((void)0)
#endif
