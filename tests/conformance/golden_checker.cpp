// The checker of golden files against results that are wrong, and files that are broken.
#include <doctest/doctest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "autograd/functional.h"
#include "experiments/golden/golden.h"
#include "tests/support/golden_laws.h"

using namespace ls;
using golden::GoldenCall;
using golden::GoldenCase;
using golden::GoldenReport;
using test::describe;

namespace {

// y = 2 x, and what can go wrong with it.
LS_GOLDEN(Right, "test.right") {
  c.out("y", ag::scale(c.in("x"), 2));
}
LS_GOLDEN(Value, "test.value") {
  c.out("y", ag::scale(c.in("x"), 2 + 1e-8));
}
LS_GOLDEN(Gradient, "test.gradient") {
  const ag::Var x = c.in("x");
  c.out("y", ag::add(ag::scale(x, 1.5), ag::scale(x.detach(), 0.5)));
}
LS_GOLDEN(NoGradient, "test.no_gradient") {
  c.out("y", ag::scale(c.in("x").detach(), 2));
}
LS_GOLDEN(Nan, "test.nan") {
  Tensor y = ag::scale(c.in("x"), 2).value().clone();
  y.slice(0, 1, 2).fill_(NAN);
  c.out("y", y);
}
LS_GOLDEN(Infinity, "test.infinity") {
  Tensor y = ag::scale(c.in("x"), 2).value().clone();
  y.slice(0, 1, 2).fill_(INFINITY);
  c.out("y", y);
}
LS_GOLDEN(Shape, "test.shape") {
  c.out("y", ag::reshape(ag::scale(c.in("x"), 2), {3, 2}));
}
LS_GOLDEN(Nothing, "test.nothing") {
  c.in("x");
}
LS_GOLDEN(Throws, "test.throws") {
  c.in("x");
  LS_FAIL(kShape, "no such luck");
}
LS_GOLDEN(Unsupported, "test.unsupported") {
  c.in("x");
  LS_FAIL(kUnsupported, "variant 7 is not supported");
}
LS_GOLDEN(WantsMore, "test.wants_more") {
  c.out("y", ag::add(c.in("x"), c.in("z")));
}
LS_GOLDEN(Narrow, "test.narrow") {  // right in f64 alone
  c.out("y", ag::scale(c.in("x"), c.options().dtype == DType::kF64 ? 2 : 2.2));
}

Tensor tensor(std::vector<double> values) {
  return Tensor::from(values, {2, 3});
}

GoldenCase case_of(const std::string& op) {
  GoldenCase c;
  c.op = op;
  c.name = "made up";
  c.inputs["x"] = tensor({1, -2, 3, -4, 5, 6});
  c.outputs["y"] = tensor({2, -4, 6, -8, 10, 12});
  c.cotangents["y"] = tensor({1, 0, -1, 2, 0.5, 1});
  c.grads["x"] = tensor({2, 0, -2, 4, 1, 2});
  return c;
}

bool says(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_SUITE("conformance") {
  TEST_CASE("golden checker: right results pass, in every type") {
    for (const DType type : {DType::kF64, DType::kF32, DType::kBF16}) {
      const GoldenReport r = golden::check_golden(case_of("test.right"), {.dtype = type});
      CHECK_MESSAGE(r.passed(), describe(r));
    }
    const GoldenReport r =
        golden::check_golden(case_of("test.right"), {.form = Form::kChunk, .chunk = 4, .split = 2});
    CHECK(r.passed());
    CHECK(r.note == "form does not apply, chunk does not apply, split does not apply");
  }

  TEST_CASE("golden checker: wrong results fail, and say where") {
    const auto report = [](const char* op) { return golden::check_golden(case_of(op), {}); };
    GoldenReport r = report("test.value");
    CHECK(!r.passed());
    CHECK(r.fault == "");
    CHECK(r.worst_output == doctest::Approx(5e-9).epsilon(0.01));
    CHECK(r.worst_output_name == "y");
    r = report("test.gradient");
    CHECK(!r.passed());
    CHECK(r.worst_output < 1e-15);
    CHECK(r.worst_grad == doctest::Approx(0.25));
    CHECK(r.worst_grad_name == "x");
    r = report("test.no_gradient");
    CHECK(!r.passed());
    CHECK(r.worst_grad == doctest::Approx(1));
    CHECK(std::isinf(report("test.nan").worst_output));
    CHECK(!report("test.nan").passed());
    CHECK(!report("test.infinity").passed());
    CHECK(report("test.shape").fault == "output y has shape [3, 2], the reference [2, 3]");
    CHECK(report("test.nothing").fault == "output y is not computed");
    CHECK(report("test.throws").fault == "no such luck");
    CHECK(!report("test.throws").unsupported);
    CHECK(report("test.unsupported").fault == "variant 7 is not supported");
    CHECK(report("test.unsupported").unsupported);
    CHECK(!report("test.unsupported").passed());
    CHECK(report("test.wants_more").fault == "the case has no input 'z'");
    for (const DType type : {DType::kF32, DType::kBF16}) {
      CHECK_MESSAGE(!golden::check_golden(case_of("test.narrow"), {.dtype = type}).passed(),
                    "10 % off in " << enum_name(type));
    }
  }

  TEST_CASE("golden checker: unknown ops, inputs and attributes are named") {
    CHECK(golden::check_golden(case_of("retnot"), {}).fault ==
          "no op of that name; the nearest is 'retnet'");
    GoldenCase c = case_of("test.right");
    c.inputs["gate"] = tensor({1, 2, 3, 4, 5, 6});
    CHECK(golden::check_golden(c, {}).fault == "unknown input gate");
    c.attributes["slope"] = 0.5;
    CHECK(golden::check_golden(c, {}).fault == "unknown input gate, attribute slope");
    CHECK(!golden::check_golden(c, {}).passed());
    c = case_of("test.right");
    c.outputs["final_state"] = tensor({1, 2, 3, 4, 5, 6});
    CHECK(golden::check_golden(c, {}).fault == "output final_state is not computed");
  }

  TEST_CASE("golden checker: a reference of zeros is compared absolutely") {
    GoldenCase c = case_of("test.right");
    c.inputs["x"] = c.outputs["y"] = c.cotangents["y"] = c.grads["x"] = tensor({0, 0, 0, 0, 0, 0});
    CHECK(golden::check_golden(c, {}).passed());
    c.inputs["x"] = tensor({0, 0, 0, 1e-9, 0, 0});
    CHECK(golden::check_golden(c, {}).worst_output == doctest::Approx(2e-9));
    CHECK(!golden::check_golden(c, {}).passed());
    c = case_of("test.right");
    c.outputs["y"] = tensor({2, -4, 6, -8, 10, INFINITY});
    CHECK(!golden::check_golden(c, {}).passed());
  }

  TEST_CASE("golden files that are broken are refused") {
    namespace fs = std::filesystem;
    const std::string path =
        (fs::temp_directory_path() / fmt::format("{}_golden.h5", getpid())).string();
    const auto refusal = [&] {
      try {
        golden::read_golden(path);
      } catch (const Error& e) {
        CHECK(e.kind() == ErrorKind::kIo);
        CHECK(says(e.message(), path));
        return e.message();
      }
      FAIL_CHECK("read without complaint");
      return std::string();
    };
    // A small file that is right, but for what `spoil` does to it.
    const auto with = [&](auto&& spoil) {
      h5::File f = h5::File::create(path);
      const GoldenCase c = case_of("test.right");
      f.set_attribute("/", "format", std::int64_t{1});
      f.set_attribute("/", "op", c.op);
      f.write("basic/inputs/x", c.inputs.at("x"));
      f.write("basic/outputs/y", c.outputs.at("y"));
      f.write("basic/cotangents/y", c.cotangents.at("y"));
      f.write("basic/grads/x", c.grads.at("x"));
      spoil(f);
      f.close();
    };
    with([](h5::File&) {});
    REQUIRE(golden::read_golden(path).size() == 1);
    CHECK(golden::check_golden(golden::read_golden(path)[0], {}).passed());

    with([](h5::File& f) { f.set_attribute("/", "format", std::int64_t{2}); });
    CHECK(says(refusal(), "format 2 is not supported, expected 1"));
    with([](h5::File& f) { f.set_attribute("basic", "rtol", 0.0); });
    CHECK(says(refusal(), "case 'basic' has rtol 0"));
    with([](h5::File& f) { f.write("basic/grads/q", Tensor::zeros({2}, DType::kF64)); });
    CHECK(says(refusal(), "case 'basic': grads/q: there is no input of that name"));
    with([](h5::File& f) { f.write("basic/cotangents/o", Tensor::zeros({2}, DType::kF64)); });
    CHECK(says(refusal(), "case 'basic': cotangents/o: there is no output of that name"));
    with([](h5::File& f) {
      f.write("basic/inputs/z", Tensor::zeros({2}, DType::kF64));
      f.write("basic/grads/z", Tensor::zeros({3}, DType::kF64));
    });
    CHECK(says(refusal(), "grads/z: shape [3], that input has [2]"));
    with([](h5::File& f) { f.write("other/inputs/x", Tensor::zeros({2}, DType::kF64)); });
    CHECK(says(refusal(), "case 'other' has no outputs"));
    {
      h5::File f = h5::File::create(path);
      f.set_attribute("/", "format", std::int64_t{1});
      f.set_attribute("/", "op", std::string("test.right"));
      f.close();
    }
    CHECK(says(refusal(), "holds no case"));
    {
      h5::File f = h5::File::create(path);
      f.write("basic/outputs/y", Tensor::zeros({2}, DType::kF64));
      f.close();
    }
    CHECK(says(refusal(), "is not a golden file"));
    with([](h5::File&) {});
    fs::resize_file(path, fs::file_size(path) / 2);
    refusal();
    std::ofstream(path) << "not HDF5 at all\n";
    refusal();
    fs::remove(path);
    refusal();
  }
}
