#pragma once
// How calls of ops ran: kernels say what they chose, for the records of runs.
#include <fmt/core.h>

#include <map>
#include <string>
#include <utility>

#include "core/op/op_info.h"

namespace ls {

/// While alive, hears what the ops called on this thread report; of two, the inner one hears.
class OpReports {
 public:
  OpReports();
  ~OpReports();
  OpReports(const OpReports&) = delete;
  OpReports& operator=(const OpReports&) = delete;

  /// Op name -> the form that its latest forward pass took: "chunk of 32", "recurrent".
  const std::map<std::string, std::string>& forms() const { return forms_; }
  void note_form(const OpInfo& op, std::string form) { forms_[op.name] = std::move(form); }
  /// Op name -> the name of the kernel that ran its latest forward pass: "cpu", "reference".
  const std::map<std::string, std::string>& kernels() const { return kernels_; }
  void note_kernel(const OpInfo& op, std::string name) { kernels_[op.name] = std::move(name); }
  /// Who hears this thread, or null.
  static OpReports* listener();

 private:
  OpReports* outer_;
  std::map<std::string, std::string> forms_, kernels_;
};

/// Called by the forward kernels of Op, on the thread of the call. Free while nobody listens.
template <class Op, class... Args>
void report_form(fmt::format_string<Args...> form, Args&&... args) {
  if (OpReports* const listener = OpReports::listener()) {
    listener->note_form(op_info<Op>(), fmt::format(form, std::forward<Args>(args)...));
  }
}

}  // namespace ls
