// longscan check: what it prints and how it exits.
#include <doctest/doctest.h>

#include <filesystem>

#include "core/io/h5.h"
#include "tests/e2e/program.h"
#include "tests/support/paths.h"

using namespace ls;
using testing::Outcome;
using testing::Workplace;

namespace {

/// x / |x| at (3, 4), and the gradient of its first element; `y` is the first output.
void write_golden(const std::string& path, const std::string& op, double y, bool more = false) {
  h5::File f = h5::File::create(path);
  f.set_attribute("/", "format", std::int64_t{1});
  f.set_attribute("/", "op", op);
  f.write("case/inputs/x", Tensor::from(std::vector<double>{3, 4}, {1, 2}));
  f.write("case/outputs/y", Tensor::from(std::vector<double>{y, 0.8}, {1, 2}));
  f.write("case/cotangents/y", Tensor::from(std::vector<double>{1, 0}, {1, 2}));
  f.write("case/grads/x", Tensor::from(std::vector<double>{0.128, -0.096}, {1, 2}));
  f.set_attribute("case", "eps", 1e-12);
  f.set_attribute("case", "eps_mode", std::string("max"));
  if (more) {
    f.write("case/inputs/mask", Tensor::from(std::vector<double>{1, 1}, {1, 2}));
    f.set_attribute("case", "slope", 0.5);
  }
  f.close();
}

bool says(const Outcome& out, const std::string& part) {
  return out.text.find(part) != std::string::npos;
}

}  // namespace

TEST_SUITE("e2e") {
  TEST_CASE("check: right results in every type, one line a case") {
    const Workplace w;
    write_golden(w.path("right.h5"), "l2_norm", 0.6);
    for (const char* type : {"f64", "f32", "bf16"}) {
      const Outcome out = w.run({"check", "right.h5", "--dtype", type});
      CHECK_MESSAGE(out.status == 0, out.text);
      CHECK(says(out, "l2_norm  case"));
      CHECK(says(out, "1 passed, 0 failed"));
    }
    const Outcome out =
        w.run({"check", "right.h5", "--form", "chunk", "--chunk", "8", "--split", "3"});
    CHECK(out.status == 0);
    CHECK(says(out, "ok; form does not apply, chunk does not apply, split does not apply"));
  }

  TEST_CASE("check: what is wrong or unknown fails and is named") {
    const Workplace w;
    write_golden(w.path("right.h5"), "l2_norm", 0.6);
    write_golden(w.path("wrong.h5"), "l2_norm", 0.6001);
    write_golden(w.path("more.h5"), "l2_norm", 0.6, true);
    write_golden(w.path("op.h5"), "l3_norm", 0.6);
    Outcome out = w.run({"check", "right.h5", "wrong.h5"});
    CHECK(out.status == 1);
    CHECK(says(out, "FAILED at y"));
    CHECK(says(out, "1 passed, 1 failed"));
    CHECK(w.run({"check", "wrong.h5", "--dtype", "bf16"}).status ==
          0);  // 1e-4 is less than bf16 can tell
    out = w.run({"check", "more.h5"});
    CHECK(out.status == 1);
    CHECK(says(out, "unknown input mask, attribute slope"));
    out = w.run({"check", "op.h5"});
    CHECK(out.status == 1);
    CHECK(says(out, "no op of that name; the nearest is 'l2_norm'"));
  }

  TEST_CASE("check: files that are missing, damaged or something else") {
    const Workplace w;
    w.write("text.h5", "hello\n");
    write_golden(w.path("cut.h5"), "l2_norm", 0.6);
    std::filesystem::resize_file(w.path("cut.h5"), 700);
    for (const char* file : {"missing.h5", "text.h5", "cut.h5"}) {
      const Outcome out = w.run({"check", file});
      CHECK_MESSAGE(out.status == 1, out.text);
      CHECK_MESSAGE(says(out, "longscan: " + std::string(file) + ": "), out.text);
    }
    CHECK(w.run({"check"}).status != 0);
    CHECK(w.run({"check", "text.h5", "--dtype", "f8"}).status != 0);
  }

  TEST_CASE("check: the golden files in tests/golden") {
    const Workplace w;
    std::vector<std::string> arguments = {"check", "--quiet"};
    for (const std::string& file : test::files_of(test::source_dir() + "/tests/golden", ".h5")) {
      arguments.push_back(file);
    }
    const Outcome out = w.run(arguments);
    CHECK_MESSAGE(out.status == 0, out.text);
    CHECK(says(out, ", 0 failed"));
  }
}
