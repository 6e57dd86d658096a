#pragma once
// How host code that runs as a kernel raises errors: it is given no context of its own.
#include "core/tensor/error_flag.h"

namespace ls {

/// While alive, host code that runs on this thread as a kernel raises its errors here.
class UseErrorFlag {
 public:
  explicit UseErrorFlag(ErrorFlag* flag);
  ~UseErrorFlag();
  UseErrorFlag(const UseErrorFlag&) = delete;
  UseErrorFlag& operator=(const UseErrorFlag&) = delete;

 private:
  ErrorFlag* before_;
};
/// That flag; where there is none, that of the processor's stream.
ErrorFlag* current_error_flag();

/// As check_error_flag of a stream, of a flag in the host's memory, which one call may have raised.
/// @throws Error(Shape)
void check_error_flag(const ErrorFlag& flag);

}  // namespace ls
