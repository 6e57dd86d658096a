#include "core/io/h5.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

using namespace ls;

namespace {
std::string scratch(const char* name) {
  return (std::filesystem::temp_directory_path() / (std::to_string(getpid()) + name)).string();
}
}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("tensors and attributes come back as they were written") {
    const std::string path = scratch("roundtrip.h5");
    {
      h5::File f = h5::File::create(path);
      for (const DType t : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16, DType::kI64, DType::kI32,
                            DType::kU8, DType::kBool}) {
        f.write("group/" + std::string(dtype_name(t)), Tensor::from<double>({0, 1, 1, 0, 1, 0}, {2, 3}).to(t).transpose(0, 1));
      }
      f.write("scalar", Tensor::scalar(2.5, DType::kF64));
      f.write("empty", Tensor::zeros({0, 4}, DType::kF32));
      f.set_attribute("/", "n", std::int64_t{7});
      f.set_attribute("group", "x", 0.5);
      f.set_attribute("group", "x", 0.25);
      f.set_attribute("group", "name", std::string("grün"));
      f.set_attribute("group", "list", std::vector<double>{1, 2});
      f.close();
    }
    const h5::File f = h5::File::open(path);
    for (const std::string& name : f.children("group")) {
      const Tensor t = f.read("group/" + name);
      CHECK(dtype_name(t.dtype()) == name);
      CHECK(t.to_vector<double>() == std::vector<double>{0, 0, 1, 1, 1, 0});
    }
    CHECK(f.children("group").size() == 8);
    CHECK(f.read("scalar").item() == 2.5);
    CHECK(f.read("empty").shape() == Shape{0, 4});
    CHECK(f.integer("/", "n") == 7);
    CHECK(f.number("group", "x") == 0.25);
    CHECK(f.text("group", "name") == "grün");
    CHECK(std::get<std::vector<double>>(f.attribute("group", "list")).size() == 2);
    CHECK_FALSE(f.exists("group/none/x"));
    CHECK_THROWS_AS(f.read("group/none"), Error);
    CHECK_THROWS_AS(f.text("group", "x"), Error);
    std::filesystem::remove(path);
  }

  TEST_CASE("files that are not whole HDF5 files are refused by name") {
    const std::string path = scratch("broken.h5");
    CHECK_THROWS_WITH_AS(h5::File::open(path), doctest::Contains("No such file"), Error);
    std::ofstream(path) << "plain text";
    CHECK_THROWS_WITH_AS(h5::File::open(path), doctest::Contains("is not an HDF5 file"), Error);
    {
      h5::File f = h5::File::create(path);
      f.write("x", Tensor::zeros({100000}, DType::kF32));
      f.close();
    }
    std::filesystem::resize_file(path, 4096);
    CHECK_THROWS_WITH_AS(h5::File::open(path), doctest::Contains(path.c_str()), Error);
    std::filesystem::remove(path);
    CHECK_THROWS_WITH_AS(h5::File::create("/no/such/directory/x.h5"), doctest::Contains("/no/such/directory/x.h5"), Error);
  }
}
