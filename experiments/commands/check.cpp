#include <fmt/core.h>

#include "experiments/commands/command.h"
#include "experiments/golden/golden.h"
#include "experiments/table.h"

namespace ls::experiments {
namespace {

struct Options {
  std::vector<std::string> files;
  std::string dtype = "f64", form = "auto";
  layers::GoldenOptions golden;
  bool quiet = false;
};

int check(const Options& o) {
  layers::GoldenOptions golden = o.golden;
  golden.dtype = parse_dtype(o.dtype);
  golden.form = o.form == "recurrent"  ? Form::kRecurrent
                : o.form == "chunk"    ? Form::kChunk
                : o.form == "parallel" ? Form::kParallel
                                       : Form::kAuto;
  Table table({"op", "case", "outputs", "tolerance", "gradients", "tolerance", "result"});
  Index passed = 0, failed = 0;
  for (const std::string& file : o.files) {
    for (const layers::GoldenCase& c : layers::read_golden(file)) {
      const layers::GoldenReport r = layers::check_golden(c, golden);
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
      if (!o.quiet || !r.passed()) {
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
  fmt::print("{}{} passed, {} failed\n", table.str(), passed, failed);
  return failed == 0 ? 0 : 1;
}

Action setup(CLI::App& app) {
  auto o = std::make_shared<Options>();
  app.add_option("files", o->files, "golden files, one op each")->required();
  app.add_option("--dtype", o->dtype, "element type of the computation")
      ->check(CLI::IsMember({"f64", "f32", "bf16"}));
  app.add_option("--form", o->form, "form of scans")
      ->check(CLI::IsMember({"auto", "recurrent", "chunk", "parallel"}));
  app.add_option("--chunk", o->golden.chunk, "tokens per chunk of scans")
      ->check(CLI::Range(Index{1}, Index{1} << 20));
  app.add_option("--split", o->golden.split,
                 "pieces that the sequence is cut into, the state carried")
      ->check(CLI::Range(Index{1}, Index{4096}));
  app.add_flag("-q,--quiet", o->quiet, "print failures only");
  return [o](parallel::RankEnv&) { return check(*o); };
}

LS_COMMAND(check, {"check", "compare ops with files of reference results", 70, setup});

}  // namespace
}  // namespace ls::experiments
