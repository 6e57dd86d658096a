#include "core/io/h5.h"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <thread>

using namespace ls;

namespace {
std::string scratch(const char* name) {
  return (std::filesystem::temp_directory_path() / (std::to_string(getpid()) + name)).string();
}

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void put_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// "" if the file opens and everything in it can be read.
std::string read_all(const std::string& path) {
  try {
    const h5::File f = h5::File::open(path);
    std::vector<std::string> open = {"/"};
    while (!open.empty()) {
      const std::string object = open.back();
      open.pop_back();
      for (const std::string& name : f.attributes(object)) {
        f.attribute(object, name);
      }
      if (!f.is_group(object)) {
        f.read(object);
        continue;
      }
      for (const std::string& name : f.children(object)) {
        open.push_back(object + (object == "/" ? "" : "/") + name);
      }
    }
    return "";
  } catch (const Error& e) {
    CHECK(e.kind() == ErrorKind::kIo);
    return e.message();
  }
}

void write_sample(const std::string& path) {
  h5::File f = h5::File::create(path);
  for (int i = 0; i < 20; ++i) {
    f.write("model/p" + std::to_string(i), Tensor::full({16}, DType::kF32, i));
  }
  f.set_attribute("/", "config", std::string(3000, 'x'));
  f.set_attribute("model", "names", std::vector<std::string>{"a", "bb"});
  f.close();
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("tensors and attributes come back as they were written") {
    const std::string path = scratch("roundtrip.h5");
    {
      h5::File f = h5::File::create(path);
      for (const DType t : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16, DType::kI64,
                            DType::kI32, DType::kU8, DType::kBool}) {
        f.write("group/" + std::string(enum_name(t)),
                Tensor::from<double>({0, 1, 1, 0, 1, 0}, {2, 3}).to(t).transpose(0, 1));
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
      CHECK(enum_name(t.dtype()) == name);
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
    CHECK_THROWS_WITH_AS(h5::File::create("/no/such/directory/x.h5"),
                         doctest::Contains("/no/such/directory/x.h5"), Error);
  }

  TEST_CASE("h5: shapes, types and attributes of every kind") {
    const std::string path = scratch("kinds.h5");
    const std::vector<double> large(20000, 0.5);  // past the 64 KiB of a plain object header
    h5::File f = h5::File::create(path);
    CHECK(f.attributes().empty());
    f.write("a/x", Tensor::zeros({2, 3}, DType::kBF16));
    f.create_group("a/b/c");
    f.create_group("a/b/c");
    f.set_attribute("a", "large", large);
    f.set_attribute("a", "empty", std::vector<std::int64_t>{});
    f.set_attribute("a", "words", std::vector<std::string>{"", "é", "line\n"});
    f.set_attribute("a/x", "none", std::string());
    f.set_attribute("a/x", "nan", std::nan(""));
    f.set_attribute("a/x", "least", std::numeric_limits<std::int64_t>::min());
    CHECK_THROWS_WITH_AS(f.write("a/x", Tensor::zeros({1}, DType::kF32)),
                         doctest::Contains((path + ": cannot create 'a/x': ").c_str()), Error);
    CHECK_THROWS_WITH_AS(f.write("a/x/y", Tensor::zeros({1}, DType::kF32)),
                         doctest::Contains("a/x/y"), Error);
    CHECK_THROWS_WITH_AS(f.set_attribute("a", "cut", std::string("a\0b", 3)),
                         doctest::Contains("zero byte"), Error);
    f.close();
    f.close();  // nothing left to do
    CHECK_THROWS_AS(f.read("a/x"), Error);

    f = h5::File::open(path);
    CHECK(f.sealed());
    CHECK(f.info("a/x").shape == Shape{2, 3});
    CHECK(f.info("a/x").dtype == DType::kBF16);
    CHECK(f.children("a") == std::vector<std::string>{"b", "x"});
    CHECK(f.children("a/b/c").empty());
    CHECK(f.attributes("a") == std::vector<std::string>{"empty", "large", "words"});
    CHECK(std::get<std::vector<double>>(f.attribute("a", "large")) == large);
    CHECK(std::get<std::vector<std::int64_t>>(f.attribute("a", "empty")).empty());
    CHECK(std::get<std::vector<std::string>>(f.attribute("a", "words"))[2] == "line\n");
    CHECK(f.text("a/x", "none").empty());
    CHECK(std::isnan(f.number("a/x", "nan")));
    CHECK(f.integer("a/x", "least") == std::numeric_limits<std::int64_t>::min());
    for (const auto& [call, part] : std::vector<std::pair<std::function<void()>, std::string>>{
             {[&] { f.read("a/y"); }, "there is no dataset 'a/y'"},
             {[&] { f.read("a"); }, "cannot open dataset 'a'"},
             {[&] { f.info("none"); }, "there is no dataset 'none'"},
             {[&] { f.children("a/x"); }, "'a/x'"},
             {[&] { f.children("zz"); }, "cannot open 'zz'"},
             {[&] { f.attribute("a", "zz"); }, "'a' has no attribute 'zz'"},
             {[&] { f.integer("a/x", "nan"); }, "attribute 'nan' of 'a/x' is not an integer"},
             {[&] { f.number("a/x", "none"); }, "is not a number"},
             {[&] { f.write("new", Tensor::zeros({1}, DType::kF32)); }, "cannot create 'new'"},
             {[&] { f.set_attribute("a", "new", 1.0); }, "cannot create attribute 'new'"}}) {
      CHECK_THROWS_WITH_AS(call(), doctest::Contains(part.c_str()), Error);
      CHECK_THROWS_WITH_AS(call(), doctest::Contains(path.c_str()), Error);
    }
    f = h5::File::open(path);  // the former one is closed by the assignment
    std::filesystem::remove(path);
  }

  TEST_CASE("h5: a closed file is complete, an abandoned one is refused") {
    const std::string path = scratch("closed.h5");
    {
      h5::File f = h5::File::create(path);
      f.write("x", Tensor::zeros({1000}, DType::kF64));
      CHECK(read_all(path).find("is not an HDF5 file (0 bytes)") != std::string::npos);
      f.write("y", Tensor::zeros({3}, DType::kF32));
      f.close();
      CHECK(h5::File::open(path).children() == std::vector<std::string>{"x", "y"});
    }
    {
      h5::File f = h5::File::create(path);
      f.write("z", Tensor::zeros({3}, DType::kF32));
    }
    CHECK(read_all(path).find("is not an HDF5 file (0 bytes)") != std::string::npos);
    std::filesystem::remove(path);
    ::mkfifo(path.c_str(), 0600);
    CHECK(read_all(path).find("is not a regular file") != std::string::npos);
    std::filesystem::remove(path);
    CHECK(read_all("/tmp").find("is a directory") != std::string::npos);
  }

  TEST_CASE("h5: no damage goes unseen") {
    const std::string path = scratch("good.h5"), bad = scratch("bad.h5");
    write_sample(path);
    const std::string good = bytes_of(path);
    CHECK(read_all(path).empty());
    CHECK(h5::damage(path).empty());
    CHECK_THROWS_WITH_AS(h5::damage("none.h5"), doctest::Contains("No such file"), Error);
    for (std::size_t n = 0; n < good.size(); n += n + 40 < good.size() ? 41 : 1) {
      put_bytes(bad, good.substr(0, n));
      CAPTURE(n);
      CHECK(read_all(bad).starts_with(bad));
      CHECK(h5::damage(bad).starts_with(bad));
    }
    for (std::size_t at = 0; at < good.size(); at += at + 40 < good.size() ? 13 : 1) {
      std::string bytes = good;
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << (at % 8)));
      put_bytes(bad, bytes);
      CAPTURE(at);
      CHECK(read_all(bad).starts_with(bad));
      CHECK(h5::damage(bad).starts_with(bad));
    }
    put_bytes(bad, good + "x");
    CHECK(read_all(bad).starts_with(bad));
    put_bytes(bad, good + good);
    CHECK(read_all(bad).starts_with(bad));
    std::filesystem::remove(bad);
    std::filesystem::remove(path);
  }

  TEST_CASE("h5: a full disk is an error, and what is left is refused") {
    const std::string path = scratch("full.h5");
    write_sample(path);
    const auto whole = static_cast<rlim_t>(std::filesystem::file_size(path));
    const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
    rlimit old{};
    ::getrlimit(RLIMIT_FSIZE, &old);
    for (const rlim_t limit :
         {rlim_t{0}, rlim_t{100}, rlim_t{4096}, whole / 2, whole - 25, whole - 1, whole}) {
      std::string message;
      const rlimit now{limit, old.rlim_max};
      ::setrlimit(RLIMIT_FSIZE, &now);
      try {
        write_sample(path);
      } catch (const Error& e) {
        message = e.message();
      }
      ::setrlimit(RLIMIT_FSIZE, &old);
      CAPTURE(limit);
      CAPTURE(message);
      CHECK((limit == whole) == message.empty());
      CHECK((limit == whole) == read_all(path).empty());
      if (limit < whole) {
        CHECK(message.starts_with(path + ": cannot be written"));
        CHECK(message.find("File too large") != std::string::npos);
      }
    }
    std::signal(SIGXFSZ, old_handler);
    std::filesystem::remove(path);
  }

  TEST_CASE("h5: several threads, a file each") {
    std::vector<std::thread> threads;
    std::vector<int> good(4, 0);
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([t, &good] {
        const std::string path = scratch(("thread" + std::to_string(t) + ".h5").c_str());
        for (int round = 0; round < 5; ++round) {
          write_sample(path);
          const h5::File f = h5::File::open(path);
          good[static_cast<std::size_t>(t)] += f.read("model/p7").to_vector<double>()[3] == 7;
        }
        std::filesystem::remove(path);
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    CHECK(good == std::vector<int>{5, 5, 5, 5});
  }
}
