#include <fmt/core.h>

#include "core/tensor/devices.h"
#include "experiments/commands/command.h"
#include "experiments/golden/golden.h"
#include "experiments/progress.h"
#include "experiments/table.h"

namespace ls::experiments {
namespace {

class Check final : public Command {
 public:
  static constexpr int kPlace = 70;
  void options(Options& o) override {
    o("files", files_, {.help = "golden files, one op each", .required = true});
    o("--dtype", dtype_,
      {.help = "element type of the computation", .choices = {"f64", "f32", "bf16"}});
    o("--form", golden_.form, {.help = "form of scans"});
    o("--chunk", golden_.chunk, {.help = "tokens per chunk of scans", .min = 1, .max = 1 << 20});
    o("--split", golden_.split,
      {.help = "ranks, on threads, that the sequence is split over", .min = 1, .max = 64});
    o("--device", device_, {.help = "where ops run: cpu, cuda, cuda:N or auto"});
    o("-q,--quiet", quiet_, {.help = "print failures only"});
  }
  int run(parallel::RankEnv& env) override;

 private:
  std::vector<std::string> files_;
  std::string dtype_ = "f64", device_ = "cpu";
  golden::GoldenOptions golden_;
  bool quiet_ = false;
};

int Check::run(parallel::RankEnv&) {
  golden_.dtype = parse_enum<DType>(dtype_);
  golden_.device = &device_named(device_);
  Table table({"op", "case", "outputs", "tolerance", "gradients", "tolerance", "result"});
  Index passed = 0, failed = 0;
  for (const std::string& file : files_) {
    for (const golden::GoldenCase& c : golden::read_golden(file)) {
      const golden::GoldenReport r = golden::check_golden(c, golden_);
      (r.passed() ? passed : failed) += 1;
      std::string result = r.passed() ? "ok" : "FAILED";
      if (!r.fault.empty()) {
        result += ": " + r.fault.substr(0, r.fault.find('\n'));
      } else if (!r.passed()) {
        result += " at " + (r.worst_output > r.tolerance_output ? r.worst_output_name
                                                                : "d" + r.worst_grad_name);
      }
      if (!r.note.empty()) {
        result += "; " + r.note;
      }
      if (!quiet_ || !r.passed()) {
        const bool known = r.fault.empty();  // else nothing, or not everything, was computed
        table.add({r.op, r.name, known ? fmt::format("{:.1e}", r.worst_output) : "-",
                   fmt::format("{:.0e}", r.tolerance_output),
                   c.grads.empty() ? ""
                   : known         ? fmt::format("{:.1e}", r.worst_grad)
                                   : "-",
                   c.grads.empty() ? "" : fmt::format("{:.0e}", r.tolerance_grad), result});
      }
    }
  }
  fmt::print("{}{} passed, {} failed\n", table.str(terminal_columns()), passed, failed);
  return failed == 0 ? 0 : 1;
}

LS_COMMAND(Check, "check", "compare ops with files of reference results");

}  // namespace
}  // namespace ls::experiments
