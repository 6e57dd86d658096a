#include "tests/support/golden_laws.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/base/parallel_for.h"
#include "tests/support/paths.h"

namespace ls::test {
namespace {

using golden::GoldenCase;
using golden::GoldenOptions;
using golden::GoldenReport;

/// The sizes here are not worth a second thread; where cores are shared it costs a time slice a
/// loop.
struct OneThread {
  OneThread() { set_num_threads(1); }
  ~OneThread() { set_num_threads(0); }
};

void check_case(const GoldenCase& c, const GoldenOptions& options, const std::string& setting) {
  const GoldenReport r = golden::check_golden(c, options);
  const bool known_gap = c.op == "feature_map" && r.unsupported;
  CHECK_MESSAGE((r.passed() || known_gap), setting << ": " << describe(r));
}

}  // namespace

std::string describe(const GoldenReport& r) {
  return fmt::format(
      "{}/{}: outputs {:.2e} ({}, allowed {:.0e}), gradients {:.2e} ({}, allowed {:.0e}) {} {}",
      r.op, r.name, r.worst_output, r.worst_output_name, r.tolerance_output, r.worst_grad,
      r.worst_grad_name, r.tolerance_grad, r.fault, r.note);
}

std::vector<std::string> known_golden_files(const std::string& folder) {
  std::vector<std::string> files;
  for (const std::string& path : files_of(folder, ".h5")) {
    if (golden::golden_registry().find(std::filesystem::path(path).stem().string())) {
      files.push_back(path);
    }
  }
  CHECK_MESSAGE(!files.empty(), folder << " holds no golden file");
  return files;
}

void check_golden_files(const std::vector<std::string>& files) {
  constexpr DType kTypes[] = {DType::kF64, DType::kF32, DType::kBF16};
  for (const std::string& path : files) {
    for (const GoldenCase& c : golden::read_golden(path)) {
      for (const DType type : kTypes) {
        const std::string in(enum_name(type));
        check_case(c, {.dtype = type}, in);
        const OneThread one_thread;
        // Does any option apply to this op at all?
        const std::string note = golden::check_golden(c, {.form = Form::kRecurrent}).note;
        if (note.find("form does not apply") != std::string::npos) {
          continue;
        }
        for (const Index pieces : {1, 2, 3, 7}) {
          const std::string cut = fmt::format("{} in {} pieces", in, pieces);
          check_case(c, {.dtype = type, .form = Form::kRecurrent, .split = pieces},
                     cut + " recurrent");
          check_case(c, {.dtype = type, .form = Form::kParallel, .split = pieces},
                     cut + " parallel");
          for (const Index chunk : {1, 16, 37}) {
            check_case(c, {.dtype = type, .form = Form::kChunk, .chunk = chunk, .split = pieces},
                       fmt::format("{} in chunks of {}", cut, chunk));
          }
        }
      }
    }
  }
}

void check_spoiled_golden_files(const std::vector<std::string>& files) {
  for (const std::string& path : files) {
    const std::vector<GoldenCase> cases = golden::read_golden(path);
    const OneThread one_thread;
    for (const GoldenCase* c : {&cases.front(), &cases.back()}) {
      if (!golden::check_golden(*c, {}).passed()) {
        continue;  // a variant that we do not have
      }
      const auto spoil = [&](std::map<std::string, Tensor> GoldenCase::*part, const char* kind) {
        for (const auto& [name, value] : c->*part) {
          GoldenCase wrong = *c;
          Tensor& t = (wrong.*part)[name] = value.clone();
          double largest = 0;
          for (Index i = 0; i < t.numel(); ++i) {
            largest = std::max(largest, std::abs(t.slow_at(i)));
          }
          t.data<double>()[t.numel() / 2] += largest > 0 ? 1e-6 * largest : 1e-6;
          const GoldenReport r = golden::check_golden(wrong, {});
          CHECK_MESSAGE(!r.passed(), kind << " " << name << " of " << describe(r));
          t.data<double>()[t.numel() / 2] = NAN;
          CHECK_MESSAGE(!golden::check_golden(wrong, {}).passed(),
                        "NaN in " << kind << " " << name);
        }
      };
      spoil(&GoldenCase::outputs, "output");
      spoil(&GoldenCase::grads, "gradient");
    }
  }
}

void check_golden_adapters(const std::string& folder) {
  for (const std::string& name : golden::golden_registry().names()) {
    const std::string path = folder + "/" + name + ".h5";
    CHECK_MESSAGE((name.starts_with("test.") || std::filesystem::exists(path)),
                  "adapter " << name << " has no golden file in " << folder);
  }
}

}  // namespace ls::test
