#include "core/op/report.h"

namespace ls {
namespace {
thread_local OpReports* innermost = nullptr;
}  // namespace

OpReports::OpReports() : outer_(innermost) {
  innermost = this;
}
OpReports::~OpReports() {
  innermost = outer_;
}
OpReports* OpReports::listener() {
  return innermost;
}

}  // namespace ls
