// Everything that a user can get wrong gives one clear error, loses nothing and never crashes.
#include <doctest/doctest.h>

#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>

#include "core/io/h5.h"
#include "experiments/checkpoint.h"
#include "tests/e2e/program.h"
#include "tests/support/paths.h"

using namespace ls;
using testing::Outcome;
using testing::Workplace;

namespace {

namespace fs = std::filesystem;

const std::string kParity = "{name: parity, length: 8, test_lengths: [8], test_examples: 8}";
const std::string kBase =
    "name: run\n"
    "task: " +
    kParity +
    "\n"
    "models:\n"
    "  - {layers: [deltanet], width: 8, channel: none}\n"
    "steps: 2\n"
    "batch: 2\n";

std::string with(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

/// One error: the program ends with status 1 (or CLI11's for the command line), says everything in
/// `wanted`, and prints "error" lines once.
void check_refused(const std::string& name, const Outcome& out,
                   const std::vector<std::string>& wanted) {
  INFO(name << "\n" << out.text);
  CHECK(out.status > 0);
  CHECK(out.status < 124);  // neither hung nor killed by a signal
  for (const std::string& w : wanted) {
    INFO("expected: " << w);
    CHECK(out.text.find(w) != std::string::npos);
  }
  CHECK(out.text.find("terminate called") == std::string::npos);
  std::size_t errors = out.text.starts_with("longscan: ");
  for (std::size_t at = 0; (at = out.text.find("\nlongscan: ", at)) != std::string::npos; ++at) {
    ++errors;
  }
  CHECK(errors == 1);
}

/// A file of tests/data/broken: a config, and comments `# arguments: WORD...` for the command line
/// and `# expect: TEXT` for each text that the error holds.
struct BrokenConfig {
  std::string text;
  std::vector<std::string> arguments = {"train", "run.yaml"}, wanted;
};
BrokenConfig read_broken(const std::string& file) {
  BrokenConfig c;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    c.text += line + "\n";
    const std::string_view expect = "# expect: ", arguments = "# arguments: ";
    if (line.starts_with(expect)) {
      c.wanted.push_back(line.substr(expect.size()));
    } else if (line.starts_with(arguments)) {
      std::istringstream words(line.substr(arguments.size()));
      for (std::string word; words >> word;) {
        c.arguments.push_back(word);
      }
    }
  }
  return c;
}

}  // namespace

TEST_SUITE("e2e") {
  TEST_CASE("broken configs") {
    const std::vector<std::string> files =
        test::files_of(test::source_dir() + "/tests/data/broken", ".yaml");
    CHECK(files.size() >= 40);
    for (const std::string& file : files) {
      const BrokenConfig c = read_broken(file);
      const Workplace w;
      w.write("run.yaml", c.text);
      w.write("empty.txt", "");
      w.write("short.txt", "abc");
      fs::create_directories(w.path("folder"));
      CHECK_MESSAGE(!c.wanted.empty(), file << " has no line '# expect: TEXT'");
      check_refused(file, w.run(c.arguments), c.wanted);
      CHECK_FALSE(fs::exists(w.path("runs/run/deltanet/seed0/checkpoints")));
    }
  }

  TEST_CASE("unreadable files") {
    const Workplace w;
    w.write("run.yaml", kBase);
    fs::permissions(w.path("run.yaml"), fs::perms::none);
    check_refused("unreadable config", w.run({"train", "run.yaml"}, {.unprivileged = true}),
                  {"run.yaml", "ermission"});
    w.write("empty.yaml", "");
    check_refused("empty config", w.run({"train", "empty.yaml"}), {"empty.yaml"});
    check_refused("missing config", w.run({"train", "none.yaml"}), {"none.yaml"});
    check_refused("a folder as config", w.run({"train", "."}), {"."});
  }

  TEST_CASE("devices that are not there") {
    const Workplace w;
    w.write("run.yaml", kBase);
    check_refused("unknown device", w.run({"train", "run.yaml", "--set", "device=gpu"}),
                  {"device", "cpu, cuda, cuda:N or auto"});
    check_refused("unknown device", w.run({"check", "x.h5", "--device", "gpu"}), {"'gpu'", "auto"});
    if (w.run({"info"}).text.find("none: ") != std::string::npos) {
      check_refused("no GPU", w.run({"train", "run.yaml", "--set", "device=cuda"}), {"to cpu"});
    } else {
      check_refused("no such GPU", w.run({"train", "run.yaml", "--set", "device=cuda:99"}),
                    {"cuda:99"});
    }
    CHECK_FALSE(fs::exists(w.path("runs")));
  }

  TEST_CASE("wrong command lines") {
    const Workplace w;
    check_refused("no command", w.run({}), {"a command is required", "train"});
    check_refused("unknown command", w.run({"trian"}), {"trian", "'train'"});
    check_refused("unknown option", w.run({"train", "x.yaml", "--resum"}),
                  {"--resum'", "'--resume'"});
    check_refused("contradiction", w.run({"train", "x.yaml", "--resume", "--fresh"}), {"--fresh"});
    check_refused("unknown list", w.run({"list", "mixer"}), {"mixers"});
    check_refused("unknown mixer", w.run({"describe", "deltanett"}),
                  {"'deltanett', did you mean 'deltanet'", "longscan list"});
    check_refused("unknown optimizer", w.run({"describe", "adamww"}), {"did you mean 'adamw'"});
    for (const char* temperature : {"-1", "nan", "inf", "warm"}) {
      check_refused("temperature", w.run({"generate", "x.h5", "--temperature", temperature}),
                    {"--temperature: a number from 0 to 1000000 is expected, got '",
                     std::string("'") + temperature + "'"});
    }
    for (const char* share : {"-0.5", "1.5", "nan"}) {
      check_refused("top-p", w.run({"generate", "x.h5", "--top-p", share}),
                    {"--top-p: a number from 0 to 1 is expected"});
    }
    for (const char* command : {"generate", "eval", "info"}) {
      const Outcome missing = w.run({command, "none.h5"});
      check_refused(command, missing, {"cannot open checkpoint 'none.h5': No such file"});
      CHECK(missing.text.find('\n') == missing.text.size() - 1);
      check_refused(command, w.run({command, "."}), {"is a directory", "checkpoints/step_"});
    }
  }

  TEST_CASE("broken checkpoints") {
    const Workplace w;
    w.write("run.yaml", kBase + "checkpoint: {every: 1}\n");
    REQUIRE(w.run({"train", "run.yaml"}).status == 0);
    const std::string folder = w.path("runs/run/deltanet/seed0/checkpoints/");
    const std::string good = folder + "step_000000002.h5";
    REQUIRE(fs::exists(good));
    const std::string bytes = w.read("runs/run/deltanet/seed0/checkpoints/step_000000002.h5");

    struct Broken {
      const char* name;
      std::function<void(const std::string&)> damage;
      std::vector<std::string> wanted;
    };
    const auto edit = [&](const std::string& path, const std::function<void(h5::File&)>& change) {
      const h5::File old = h5::File::open(good);
      h5::File file = h5::File::create(path);
      for (const std::string& a : old.attributes()) {
        file.set_attribute("/", a, old.attribute("/", a));
      }
      for (const std::string& g : old.children()) {
        for (const std::string& n : old.children(g)) {
          if (old.is_group(g + "/" + n)) {
            for (const std::string& i : old.children(g + "/" + n)) {
              file.write(g + "/" + n + "/" + i, old.read(g + "/" + n + "/" + i));
            }
          } else {
            file.write(g + "/" + n, old.read(g + "/" + n));
          }
        }
      }
      change(file);
      file.close();
    };
    const std::vector<Broken> table = {
        {"missing", [](const std::string&) {}, {"No such file"}},
        {"empty", [](const std::string& p) { fs::resize_file(p, 0); }, {"not an HDF5 file"}},
        {"truncated",
         [&](const std::string& p) { fs::resize_file(p, bytes.size() / 2); },
         {"truncated"}},
        {"not HDF5",
         [](const std::string& p) {
           fs::resize_file(p, 0);
           fs::resize_file(p, 5000);
         },
         {"not an HDF5 file"}},
        {"another program's HDF5",
         [](const std::string& p) {
           h5::File f = h5::File::create(p);
           f.close();
         },
         {"not a checkpoint"}},
        {"other version",
         [&](const std::string& p) {
           edit(p, [](h5::File& f) { f.set_attribute("/", "version", std::int64_t{99}); });
         },
         {"version 99"}},
        {"the version before",
         [&](const std::string& p) {
           edit(p, [](h5::File& f) { f.set_attribute("/", "version", std::int64_t{1}); });
         },
         {"written in format version 1, this program reads version 2"}},
        {"a number below zero",
         [&](const std::string& p) {
           edit(p, [](h5::File& f) { f.set_attribute("/", "step", std::int64_t{-7}); });
         },
         {"attribute 'step' is -7"}},
        {"a model of nothing",
         [&](const std::string& p) {
           edit(p, [](h5::File& f) { f.set_attribute("/", "vocab_in", std::int64_t{0}); });
         },
         {"reads tokens or vectors"}},
        {"one state of the optimizer twice",
         [&](const std::string& p) {
           edit(p, [](h5::File& f) {
             f.set_attribute("/", "optimizer_states", std::vector<std::string>{"m", "m"});
           });
         },
         {"'optimizer_states' is not a list of names"}},
        {"dataset too many",
         [&](const std::string& p) {
           edit(p,
                [](h5::File& f) { f.write("parameters/extra", Tensor::zeros({2}, DType::kF32)); });
         },
         {}},
        {"a carried state without its rows",
         [&](const std::string& p) {
           edit(p, [](h5::File& f) {
             f.write("carried/x", Tensor::full({2}, DType::kF32, 0.0 / 0.0));
           });
         },
         {"without the positions of their rows"}},
    };
    for (const Broken& b : table) {
      const std::string path = w.path("broken.h5");
      fs::remove(path);
      if (std::string(b.name) != "missing") {
        fs::copy_file(good, path);
      }
      b.damage(path);
      check_refused(b.name, w.run({"eval", path}), b.wanted);
      check_refused(b.name, w.run({"info", path}), b.wanted);
      check_refused(b.name, w.run({"generate", path}), b.wanted);
    }

    // Any single flipped bit is noticed, wherever it is.
    for (std::size_t at = 97; at < bytes.size(); at += bytes.size() / 24) {
      std::string flipped = bytes;
      flipped[at] = static_cast<char>(flipped[at] ^ 0x10);
      w.write("flipped.h5", flipped);
      check_refused(fmt::format("bit flipped in byte {}", at),
                    w.run({"info", w.path("flipped.h5")}), {"flipped.h5", "is damaged"});
    }

    // Whole and right by its checksum, but of no use: edited through the program's own writer.
    struct Edited {
      const char* name;
      std::function<void(experiments::LoadedCheckpoint&)> change;
      std::vector<std::string> wanted;
    };
    const auto full = [](const Tensor& like, double x) {
      return Tensor::full(like.shape(), like.dtype(), x);
    };
    const std::string weight = "blocks.0.mixer.in.weight";
    const auto find = [&](experiments::LoadedCheckpoint& c) {
      for (std::size_t i = 0; i < c.parameters.size(); ++i) {
        if (c.parameters[i].first == weight) {
          return i;
        }
      }
      FAIL("no parameter " << weight);
      return std::size_t{0};
    };
    using Loaded = experiments::LoadedCheckpoint;
    const std::vector<Edited> edits = {
        {"NaN in a parameter",
         [&](Loaded& c) {
           Tensor& t = c.parameters[find(c)].second;
           t = full(t, std::nan(""));
         },
         {weight, "nan", "finite"}},
        {"infinity in the optimizer",
         [&](Loaded& c) {
           Tensor& t = c.data.optimizer[find(c)][1];
           t = full(t, INFINITY);
         },
         {weight, "optimizer/", "inf"}},
        {"a parameter and its states of another shape",
         [&](Loaded& c) {
           const std::size_t i = find(c);
           c.parameters[i].second = Tensor::zeros({3, 5}, DType::kF32);
           for (Tensor& t : c.data.optimizer[i]) {
             t = Tensor::zeros({3, 5}, DType::kF32);
           }
         },
         {weight + " is [3, 5] in the file", "in the model"}},
        {"a state of another shape than its parameter",
         [&](Loaded& c) {
           c.data.optimizer[find(c)][0] = Tensor::zeros({3, 5}, DType::kF32);
         },
         {weight, "optimizer/", "[3, 5]"}},
        {"a parameter of another type",
         [&](Loaded& c) {
           const std::size_t i = find(c);
           c.parameters[i].second = c.parameters[i].second.to(DType::kF64);
           for (Tensor& t : c.data.optimizer[i]) {
             t = t.to(DType::kF64);
           }
         },
         {weight + " is f64 in the file, f32 in the model"}},
        {"a parameter missing",
         [&](Loaded& c) {
           const auto i = static_cast<std::ptrdiff_t>(find(c));
           c.parameters.erase(c.parameters.begin() + i);
           c.data.optimizer.erase(c.data.optimizer.begin() + i);
         },
         {weight + " is not in the file"}},
        {"a parameter too many",
         [&](Loaded& c) {
           c.parameters.emplace_back("blocks.9.extra", Tensor::zeros({2}, DType::kF32));
           c.data.optimizer.push_back(std::vector<Tensor>(c.data.optimizer_states.size(),
                                                          Tensor::zeros({2}, DType::kF32)));
         },
         {"blocks.9.extra is not in the model"}},
        {"a stored config that is none",
         [](Loaded& c) { c.data.config = "steps: many\n"; },
         {"stored config", "steps"}},
        {"a model that its config does not have",
         [](Loaded& c) { c.data.model = "nobody"; },
         {"no model 'nobody'"}},
    };
    for (const Edited& e : edits) {
      Loaded c = experiments::load_checkpoint(good);
      e.change(c);
      ag::ParameterSet parameters;
      for (const auto& [name, value] : c.parameters) {
        parameters.add(name, value, true);
      }
      const std::string path = w.path("edited.h5");
      experiments::save_checkpoint(path, parameters, c.data);
      std::vector<std::string> wanted = e.wanted;
      wanted.emplace_back("edited.h5");
      check_refused(e.name, w.run({"eval", path}), wanted);
    }
    fs::permissions(w.path("edited.h5"), fs::perms::none);
    check_refused("unreadable", w.run({"eval", w.path("edited.h5")}, {.unprivileged = true}),
                  {"edited.h5", "ermission"});
    check_refused("a folder", w.run({"eval", folder}), {"is a directory"});

    // The newest is damaged: resuming strictly says so and leaves both alone.
    fs::remove(w.path("runs/run/deltanet/seed0/run.h5"));
    fs::resize_file(good, bytes.size() / 3);
    check_refused("resume from a damaged file", w.run({"train", "run.yaml", "--resume=strict"}),
                  {"step_000000002.h5", "goes on from", "step_000000001.h5"});
    CHECK(w.run({"info", folder + "step_000000001.h5"}).status == 0);
    CHECK(fs::file_size(good) == bytes.size() / 3);
    CHECK(w.run({"train", "run.yaml", "--resume"}).status == 0);

    // Another model, another config.
    w.write("other.yaml", with(kBase, "width: 8", "width: 16"));
    check_refused("another config, finished", w.run({"train", "other.yaml", "--resume"}),
                  {"run.h5", "other settings", "models.0.width: 8 -> 16"});
    fs::remove(w.path("runs/run/deltanet/seed0/run.h5"));
    check_refused("another config", w.run({"train", "other.yaml", "--resume"}),
                  {"step_000000002.h5", "other settings", "models.0.width: 8 -> 16"});
    w.write("runs/run/deltanet/seed0/result.json", "{\"model\": 3}");
    check_refused("an old result that is none", w.run({"train", "run.yaml", "--resume"}),
                  {"result.json", "is not a result", "move it away"});
    fs::copy_file(good, w.path("runs/run/deltanet/seed0/run.h5"));
    check_refused("a record that is none", w.run({"train", "run.yaml", "--resume"}),
                  {"run.h5", "is no record of a run", "move it away"});
    fs::resize_file(w.path("runs/run/deltanet/seed0/run.h5"), 1000);
    check_refused("a record that was cut off", w.run({"train", "run.yaml", "--resume"}),
                  {"run.h5", "move it away"});
    check_refused("results in the way", w.run({"train", "run.yaml"}), {"--resume", "--fresh"});
    check_refused("a model of vectors or small vocabularies cannot write bytes",
                  w.run({"generate", folder + "step_000000002.h5"}), {"generation writes bytes"});
  }

  TEST_CASE("a full disk loses no earlier checkpoint") {
    const Workplace w;
    w.write("run.yaml", with(with(kBase, "width: 8", "width: 64"), "steps: 2", "steps: 100000") +
                            "log_every: 1000\ncheckpoint: {every: 1000}\n");
    const std::string folder = "runs/run/deltanet/seed0/checkpoints/";
    const Workplace::Options stop = {.signal = SIGTERM,
                                     .signal_when = folder + "step_000001000.h5"};
    REQUIRE(w.run({"train", "run.yaml"}, stop).status == 128 + SIGTERM);
    const std::vector<std::string> saved = experiments::list_checkpoints(w.path(folder));
    REQUIRE(saved.size() >= 1);
    const std::string last = folder + fs::path(saved.back()).filename().string();
    const std::string before = w.read(last), record = w.read("runs/run/deltanet/seed0/run.h5");
    REQUIRE(before.size() > 20000);
    const auto go_on = [&](const Workplace::Options& options) {
      return w.run({"train", "run.yaml", "--resume"}, options);
    };
    check_refused("file size limit", go_on({.file_limit = 20000}),
                  {"checkpoint", "File too large", "ulimit -f"});
    CHECK(experiments::list_checkpoints(w.path(folder)) == saved);
    CHECK(w.read(last) == before);
    CHECK(w.read("runs/run/deltanet/seed0/run.h5") == record);
    CHECK(w.run({"info", last}).status == 0);
    const std::string next = fmt::format(
        "{}step_{:09}.h5", folder, (std::stol(last.substr(last.size() - 12, 9)) / 1000 + 1) * 1000);
    CHECK(go_on({.signal = SIGTERM, .signal_when = next}).status == 128 + SIGTERM);
  }

  TEST_CASE("a run of another user cannot be started over") {
    const Workplace w;
    w.write("run.yaml", kBase);
    w.write("runs/run/metrics.jsonl", "kept");
    const fs::perms before = fs::status(w.path("runs/run")).permissions();
    fs::permissions(w.path("runs/run"), fs::perms::owner_read | fs::perms::owner_exec |
                                            fs::perms::others_read | fs::perms::others_exec);
    check_refused("not ours", w.run({"train", "run.yaml", "--fresh"}, {.unprivileged = true}),
                  {"runs/run: cannot be written to", "ermission", "another name"});
    fs::permissions(w.path("runs/run"), fs::perms::all);  // what lies in it stays another's
    w.write("runs/run/deltanet/seed0/config.yaml", "kept");
    w.write("runs/run/manifest.json", "{\"parts\": [\"deltanet/seed0\"]}");
    fs::permissions(w.path("runs/run/deltanet/seed0"),
                    fs::perms::owner_read | fs::perms::owner_exec | fs::perms::others_read |
                        fs::perms::others_exec);
    check_refused("parts not ours", w.run({"train", "run.yaml", "--fresh"}, {.unprivileged = true}),
                  {"seed0/config.yaml: cannot be deleted", "ermission", "another name"});
    fs::permissions(w.path("runs/run"), before);
    fs::permissions(w.path("runs/run/deltanet/seed0"), before);
    CHECK(w.read("runs/run/metrics.jsonl") == "kept");
  }

  TEST_CASE("a full disk is called that") {
    const Workplace w;
    w.write("run.yaml", kBase);
    const std::string folder = w.path("runs/run/deltanet/seed0");
    fs::create_directories(folder);
    fs::create_symlink("/dev/full", folder + "/run.h5.tmp");
    check_refused("no space", w.run({"train", "run.yaml"}),
                  {"run.h5", "No space left", "the disk is full; free some space"});
    CHECK(experiments::list_checkpoints(folder + "/checkpoints").size() == 1);
    CHECK(w.run({"train", "run.yaml", "--resume"}).status == 0);
    const Outcome silent = w.run({"list"}, {.full_output = true});
    CHECK(silent.status == 1);
  }

  TEST_CASE("a loss that is not finite stops the run and says where") {
    const Workplace w;
    w.write("run.yaml", with(kBase, "steps: 2", "steps: 400") +
                            "lr: 1e30\nclip: 0\noptimizer: sgd\ncheckpoint: {every: 1}\n");
    const Outcome out = w.run({"train", "run.yaml"});
    check_refused("diverging run", out, {"not finite", "update", "checkpoint"});
  }

  TEST_CASE("two processes in one folder") {
    const Workplace w;
    w.write("run.yaml", with(kBase, "steps: 2", "steps: 100000000"));
    // The first is a child of the shell and ends with it.
    const Outcome out = w.shell(
        "$longscan train run.yaml >first.txt 2>&1 & first=$!\n"
        "while [ ! -s runs/run/deltanet/seed0/metrics.jsonl ]; do sleep 0.02; done\n"
        "$longscan train run.yaml --resume; echo status $?\n"
        "$longscan train run.yaml --fresh; echo status $?\n"
        "kill -TERM $first; wait $first; echo first $?\n"
        "$longscan train run.yaml --resume --set steps=1; echo status $?\n");
    INFO(out.text);
    CHECK(out.text.find("runs/run is in use by process ") != std::string::npos);
    CHECK(out.text.find("status 0") == std::string::npos);
    CHECK(out.text.find("first 143") != std::string::npos);
    CHECK(out.text.find("updates are finished") != std::string::npos);  // the lock is gone
  }

  TEST_CASE("folders of odd files") {
    const Workplace w;
    w.write("run.yaml",
            with(kBase, kParity, "{name: bytes, path: text, length: 16, test_windows: 4}"));
    std::string binary;
    for (int i = 0; i < 40000; ++i) {
      binary += static_cast<char>(i * 97 >> 3);
    }
    w.write("text/binary.bin", binary);
    w.write("text/empty.txt", "");
    w.write("text/one.txt", "x");
    w.write("text/" + std::string(250, 'n'), "a name as long as names may be");
    w.write("text/line\nfeed \xff.txt", "a name that is no text");
    w.write("text/.hidden/secret.txt", "not read");
    fs::create_symlink(".", w.path("text/loop"));
    fs::create_symlink("nowhere", w.path("text/dangling"));
    fs::create_symlink("/dev/zero", w.path("text/endless"));
    const Outcome good = w.run({"train", "run.yaml"});
    INFO(good.text);
    CHECK(good.status == 0);
    CHECK(good.text.find("empty=1") != std::string::npos);
    w.write("text/locked.txt", "nobody may read this");
    fs::permissions(w.path("text/locked.txt"), fs::perms::none);
    check_refused("unreadable data file",
                  w.run({"train", "run.yaml", "--set", "name=b"}, {.unprivileged = true}),
                  {"locked.txt", "ermission"});
    w.write("deep.yaml",
            with(kBase, kParity, "{name: bytes, path: " + std::string(5000, 'p') + "}"));
    check_refused("a path longer than paths may be", w.run({"train", "deep.yaml"}), {"too long"});
  }
}
