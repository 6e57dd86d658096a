#include <doctest/doctest.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/config/yaml.h"
#include "tests/support/paths.h"

namespace ls {
namespace {
enum class Norm { kRms, kLayer };
enum class Source { kRandom, kFile };
enum class Gate { kSwish, kSigmoid, kTanh, kNone };
enum class Layer { kAttention, kGla, kNeedy };
}  // namespace
template <>
struct EnumNames<Gate> {
  static constexpr std::string_view kKind = "gate";
  static constexpr std::array<std::string_view, 4> kNames = {"swish", "sigmoid", "tanh", "none"};
};
template <>
struct EnumNames<Layer> {
  static constexpr std::string_view kKind = "layer";
  static constexpr std::array<std::string_view, 3> kNames = {"attention", "gla", "needy"};
};
template <>
struct EnumNames<Source> {
  static constexpr std::string_view kKind = "source";
  static constexpr std::array<std::string_view, 2> kNames = {"random", "file"};
};
template <>
struct EnumNames<Norm> {
  static constexpr std::string_view kKind = "norm";
  static constexpr std::array<std::string_view, 2> kNames = {"rms", "layer"};
};
}  // namespace ls

namespace {
using namespace ls;

// A small world of components as other rooms define them.
class Mixer {
 public:
  using Registry = ComponentRegistry<Mixer, const Index&, std::string>;
  static Registry& registry() {
    static Registry r("mixer");
    return r;
  }
  virtual ~Mixer() = default;
  virtual std::string say() const = 0;
};

struct Rope {
  double base = 10000;
  Index dim = 0;
  template <class F>
  void fields(F& f) {
    f("base", base, {.help = "longest wavelength", .above = 0});
    f("dim", dim, {.help = "rotated features, all when 0", .min = 0});
  }
};

class TestGla final : public Mixer {
 public:
  struct Config {
    Index heads = 4;
    double expand_k = 0.5;
    Gate gate = Gate::kSwish;
    Rope rope;
    template <class F>
    void fields(F& f) {
      f("heads", heads, {.help = "number of heads", .min = 1, .max = 64});
      f("expand_k", expand_k, {.help = "key width / width", .above = 0});
      f("gate", gate,
        {.help = "output gate", .allowed = {Gate::kSwish, Gate::kSigmoid, Gate::kNone}});
      f("rope", rope, {.help = "rotary positions"});
    }
  };
  TestGla(const Config& config, const Index& width, std::string tag)
      : text_(fmt::format("gla heads={} width={} tag={}", config.heads, width, tag)) {}
  std::string say() const override { return text_; }

 private:
  std::string text_;
};
LS_REGISTER(Mixer, TestGla, "gla", "gated linear attention");

class TestAttention final : public Mixer {
 public:
  struct Config {
    Index heads = 8;
    std::optional<Index> window;
    Rope rope;
    template <class F>
    void fields(F& f) {
      f("heads", heads, {.min = 1});
      f("window", window, {.help = "tokens seen", .min = 1});
      f("rope", rope);
    }
  };
  TestAttention(const Config& config, const Index&, std::string)
      : text_(fmt::format("attention heads={}", config.heads)) {}
  std::string say() const override { return text_; }

 private:
  std::string text_;
};
LS_REGISTER(Mixer, TestAttention, "attention", "softmax attention");

struct TestNeedy final : public Mixer {
  struct Config {
    std::string path;
    template <class F>
    void fields(F& f) {
      f("path", path, {.help = "what to read", .required = true});
    }
  };
  TestNeedy(const Config&, const Index&, std::string) {}
  std::string say() const override { return "needy"; }
};
LS_REGISTER(Mixer, TestNeedy, "needy", "has a required field");

struct Model {
  std::string name = "model";
  Index width = 64;
  Component<Mixer> mixer{"gla"};
  std::vector<Layer> pattern = {Layer::kGla};
  std::vector<Component<Mixer>> stack;
  std::optional<Component<Mixer>> channel;
  Norm norm = Norm::kRms;
  template <class F>
  void fields(F& f) {
    f("name", name, {.help = "shown in tables", .min_size = 1});
    f("width", width, {.help = "features", .min = 1});
    f("mixer", mixer, {.help = "token mixer"});
    f("pattern", pattern, {.help = "mixers by layer"});
    f("stack", stack);
    f("channel", channel);
    f("norm", norm);
    f.check(width % 4 == 0, "width", "must be a multiple of 4");
  }
};

struct Train {
  Index steps = 1000;
  Index threads = 0;
  double lr = 1e-3, clip = 1;
  bool bf16 = false;
  Source source = Source::kRandom;
  std::string path;
  std::vector<Index> seeds = {0};
  std::vector<std::vector<double>> table;
  std::vector<Rope> ropes;
  std::optional<Rope> rope;
  std::vector<Model> models;
  Model model;
  template <class F>
  void fields(F& f) {
    f("steps", steps, {.help = "optimizer steps", .min = 1});
    f("threads", threads, {.min = 0, .hashed = false});
    f("lr", lr, {.help = "peak learning rate", .above = 0, .below = 1});
    f("clip", clip, {.min = 0});
    f("bf16", bf16);
    f("source", source);
    f("path", path, {.required = source == Source::kFile});
    f("seeds", seeds, {.min = 0, .min_size = 1});
    f("table", table);
    f("ropes", ropes);
    f("rope", rope);
    f("models", models);
    f("model", model, {.help = "the model"});
  }
};

/// A section that a word may stand for.
struct Mood {
  double calm = 0.5, haste = 0.5;
  std::string set_word(std::string_view word) {
    *this = {.calm = word == "calm" ? 1.0 : 0, .haste = word == "haste" ? 1.0 : 0};
    return calm + haste > 0 ? "" : "calm or haste is expected";
  }
  template <class F>
  void fields(F& f) {
    f("calm", calm, {.min = 0});
    f("haste", haste, {.min = 0});
  }
};
struct Person {
  Mood mood;
  template <class F>
  void fields(F& f) {
    f("mood", mood);
  }
};

std::string error_of(const std::function<void()>& run, ErrorKind kind = ErrorKind::kConfig) {
  try {
    run();
  } catch (const Error& e) {
    CHECK(e.kind() == kind);
    return e.message();
  }
  return "(no error)";
}

Train parse(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return read_config_text<Train>(text, "t.yaml", overrides);
}

// The value at a dotted path, as JSON: settings of components are of types that only they know.
template <class C>
std::string at(const C& config, std::string path) {
  std::replace(path.begin(), path.end(), '.', '/');
  return nlohmann::json::parse(dump_json(config))[nlohmann::json::json_pointer("/" + path)].dump();
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class Folder {
 public:
  Folder() {
    char name[] = "/tmp/longscan_config_XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path_ = name;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string write(const std::string& name, const std::string& text) const {
    const std::string path = path_ + "/" + name;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::FILE* f = std::fopen(path.c_str(), "wb");
    REQUIRE(f != nullptr);
    std::fwrite(text.data(), 1, text.size(), f);
    std::fclose(f);
    return path;
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("config: every kind of field is read") {
    const Train t = parse(R"(# a comment
steps: 8192
threads: 3
lr: 1e-3
clip: 2.
bf16: true
source: "file"   # quoted text
path: 'it''s here.txt'
seeds: [1, +2, 3]
table:
  - [1, 2.5]
  - []
  - [-1e-3, .5, 5.]
ropes:
  - {base: 1}
rope: {dim: 4}
model: &m
  name: 12
  width: 128
  mixer: {name: gla, heads: 2, rope: {dim: 8}}
  pattern: [gla, attention]
  norm: layer
  channel: attention
models:
  - *m
  - mixer: attention
    stack: [gla, {name: attention, window: 16}]
)");
    CHECK(t.steps == 8192);
    CHECK(t.threads == 3);
    CHECK(t.lr == 1e-3);
    CHECK(t.clip == 2);
    CHECK(t.bf16);
    CHECK(t.source == Source::kFile);
    CHECK(t.path == "it's here.txt");
    CHECK(t.seeds == std::vector<Index>{1, 2, 3});
    CHECK(t.table == std::vector<std::vector<double>>{{1, 2.5}, {}, {-1e-3, .5, 5}});
    CHECK(t.ropes.at(0).base == 1);
    CHECK(t.rope->dim == 4);
    CHECK(t.model.name == "12");
    CHECK(t.model.mixer.name() == "gla");
    CHECK(at(t, "model.mixer.heads") == "2");
    CHECK(at(t, "model.mixer.rope.dim") == "8");
    CHECK(t.model.norm == Norm::kLayer);
    CHECK(t.model.channel->name() == "attention");
    REQUIRE(t.models.size() == 2);
    CHECK(t.models[0].width == 128);
    CHECK(at(t, "models.0.mixer.heads") == "2");
    CHECK(t.models[1].mixer.name() == "attention");
    CHECK(at(t, "models.1.stack.1.window") == "16");
    CHECK(t.models[1].mixer.make(64, "x")->say() == "attention heads=8");
    CHECK(t.model.mixer.make(64, "x")->say() == "gla heads=2 width=64 tag=x");
  }

  TEST_CASE("config: components copy deeply and keep what they hold") {
    Train a = parse("model: {mixer: {heads: 7}}");
    Train b = a;
    read_config(ConfigTree::from_text("model: {mixer: {heads: 9}}"), b);
    CHECK(at(a, "model.mixer.heads") == "7");
    CHECK(at(b, "model.mixer.heads") == "9");
    CHECK(contains(error_of([] { Component<Mixer> c{"glaa"}; }), "did you mean 'gla'"));
    CHECK(contains(error_of([] { Component<Mixer>().make(1, ""); }), "no mixer is chosen"));
    read_config(ConfigTree::from_text("model: {mixer: {expand_k: 2}}"), a);
    CHECK(at(a, "model.mixer.heads") == "7");
    CHECK(at(a, "model.mixer.expand_k") == "2");
  }

  // Each file begins with the message that it must give, one "# error: " for each of its lines,
  // without the file's name.
  TEST_CASE("config: broken files") {
    const std::filesystem::path folder = test::source_dir() + "/tests/data/broken/fields";
    std::size_t files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      const std::string path = entry.path().string();
      CAPTURE(path);
      std::string expected;
      std::ifstream file(path);
      for (std::string line; std::getline(file, line) && line.starts_with("# error: ");) {
        expected += (expected.empty() ? "" : "\n") + path + ":" + line.substr(9);
      }
      CHECK(!expected.empty());
      CHECK(error_of([&] { read_config_file<Train>(path); }) == expected);
      ++files;
    }
    CHECK(files > 90);
    CHECK(error_of([] { parse(""); }).starts_with("t.yaml:1:1: the config is empty"));
  }

  TEST_CASE("config: a word stands for a section that knows it") {
    const auto read = [](const std::string& text, const std::vector<std::string>& set = {}) {
      return dump_json(read_config_text<Person>(text, "t.yaml", set));
    };
    const std::string calm = read("mood: {calm: 1, haste: 0}");
    CHECK(read("mood: calm") == calm);
    CHECK(read("mood: {calm: 0.25, haste: 0.75}", {"mood=calm"}) == calm);
    CHECK(read("mood: haste", {"mood={calm: 1, haste: 0}"}) == calm);
    CHECK(read("mood: calm", {"mood.haste=1"}) == read("mood: {calm: 1, haste: 1}"));
    CHECK(error_of([&] { read("mood: odd"); }) == "t.yaml:1:7: mood: calm or haste is expected");
    CHECK(error_of([&] { read("mood: [calm]"); }) ==
          "t.yaml:1:7: mood: a section (a map of its own keys) is expected, got a list");
  }

  TEST_CASE("config: what is wrong comes before what is missing, each on its own line") {
    const std::string m = error_of([] { parse("source: file\npth: x\nlr: 3\n"); });
    CHECK(m ==
          "t.yaml:3:5: lr: a number > 0 and < 1 is expected, got '3'\n"
          "t.yaml:2:1: pth: unknown key, did you mean 'path'? allowed here: steps, threads, lr, "
          "clip, bf16, source, path, seeds, table, ropes, rope, models, model, extend\n"
          "t.yaml:1:1: path: this key is required");
  }

  TEST_CASE("config: aliases do not explode") {
    std::string yaml = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
    for (int i = 1; i < 12; ++i) {
      yaml += fmt::format("a{0}: &a{0} [", i);
      for (int k = 0; k < 10; ++k) {
        yaml += fmt::format("*a{}{}", i - 1, k < 9 ? ", " : "");
      }
      yaml += "]\n";
    }
    CHECK(contains(error_of([&] { parse(yaml); }), "more than 100000 values"));
    CHECK(contains(error_of([&] { parse("a: " + std::string(5000, '[')); }), "t.yaml:1:"));
    std::string colons = "a";
    for (int i = 0; i < 200000; ++i) {
      colons += ": a";
    }
    CHECK(contains(error_of([&] { parse(colons); }), "t.yaml:1:"));
  }

  TEST_CASE("config: repetitions") {
    const std::vector<Layer> four = {Layer::kGla, Layer::kGla, Layer::kGla, Layer::kAttention};
    std::vector<Layer> twelve;
    for (int i = 0; i < 3; ++i) {
      twelve.insert(twelve.end(), four.begin(), four.end());
    }
    const char* forms[] = {
        "[{repeat: 3, of: [gla, gla, gla, attention]}]",
        "[{repeat: 3, of: [{repeat: 3, of: gla}, attention]}]",
        "\n  - repeat: 3\n    of:\n      - {repeat: 3, of: [gla]}\n      - attention\n",
        "[{of: [gla, gla, gla, attention], repeat: 1}, {repeat: 2, of: [{repeat: 3, of: gla}, "
        "{repeat: 1, of: [attention]}]}]"};
    for (const char* form : forms) {
      CAPTURE(std::string(form));
      CHECK(parse(fmt::format("model:\n pattern: {}", form)).model.pattern == twelve);
    }
    const Train t = parse(
        "seeds: [{repeat: 2, of: [1, 2]}, 5]\n"
        "path: \"[a] * 3\"\n"
        "table: [{repeat: 2, of: [[1, 2]]}, []]\n"
        "model: {stack: [{repeat: 2, of: [gla, {name: attention, window: 4}]}]}\n"
        "models: [{repeat: 2, of: {width: 8}}, {repeat: 3, of: []}]\n",
        {"model.stack.3.window=5", "models.1.stack=[{repeat: 2, of: gla}]"});
    CHECK(t.seeds == std::vector<Index>{1, 2, 1, 2, 5});
    CHECK(t.path == "[a] * 3");
    CHECK(t.table == std::vector<std::vector<double>>{{1, 2}, {1, 2}, {}});
    REQUIRE(t.model.stack.size() == 4);
    CHECK(at(t, "model.stack.1.window") == "4");
    CHECK(at(t, "model.stack.3.window") == "5");
    REQUIRE(t.models.size() == 2);
    CHECK(t.models[1].width == 8);
    CHECK(t.models[1].stack.size() == 2);
    // Not even empty or nested repetitions take long.
    CHECK(contains(error_of([] {
                     parse("models: [{repeat: 90000, of: {stack: [{repeat: 90000, of: gla}]}}]");
                   }),
                   "more than 100000 values"));
    CHECK(parse("table: [{repeat: 90000, of: [{repeat: 90000, of: []}]}]").table.empty());
  }

  TEST_CASE("config: overrides") {
    const std::string base = R"(
steps: 5
models:
  - mixer: gla
  - {mixer: {name: gla, heads: 2, rope: {dim: 8}}, pattern: [gla, gla]}
seeds: [1, 2]
)";
    Train t = parse(
        base, {"models.0.mixer.heads=3", "models.1.mixer.rope.base=2", "lr=1e-2", "seeds=[7, 7]",
               "model.mixer.heads=9", "model.pattern=[{repeat: 2, of: gla}, attention]", "path=a=b",
               "rope={dim: 2}"});
    CHECK(at(t, "models.0.mixer.heads") == "3");
    CHECK(at(t, "models.1.mixer.heads") == "2");
    CHECK(at(t, "models.1.mixer.rope.base") == "2");
    CHECK(at(t, "models.1.mixer.rope.dim") == "8");
    CHECK(t.lr == 1e-2);
    CHECK(t.seeds == std::vector<Index>{7, 7});
    CHECK(at(t, "model.mixer.heads") == "9");
    CHECK(t.model.pattern == std::vector{Layer::kGla, Layer::kGla, Layer::kAttention});
    CHECK(t.path == "a=b");
    CHECK(t.rope->dim == 2);
    // Choosing another component drops the settings of the former one, in either order.
    for (const auto& overrides :
         {std::vector<std::string>{"models.1.mixer.heads=5", "models.1.mixer.name=attention"},
          {"models.1.mixer.name=attention", "models.1.mixer.heads=5"},
          {"models.1.mixer.heads=5", "models.1.mixer=attention"}}) {
      t = parse(base, overrides);
      CHECK(at(t, "models.1.mixer.heads") == "5");
      CHECK(at(t, "models.1.mixer.rope.dim") == "0");
    }
    t = parse(base, {"models.1.pattern.1=attention"});
    CHECK(t.models[1].pattern == std::vector{Layer::kGla, Layer::kAttention});
    t = parse("rope: {dim: 3}", {"rope=null"});
    CHECK(!t.rope.has_value());

    struct Case {
      const char* text;
      const char* at;
      const char* part;
    };
    const Case cases[] = {
        {"stesp=4", "--set 'stesp=4': stesp: unknown key", "'steps'"},
        {"models.0.mixer.heds=4", "--set 'models.0.mixer.heds=4': models.0.mixer.heds: unknown key",
         "did you mean 'heads'?"},
        {"steps=four", "--set 'steps=four': steps: an integer >= 1 is expected, got 'four'", ""},
        {"steps=0", "--set 'steps=0': steps: an integer >= 1", ""},
        {"steps=", "--set 'steps=': steps: an integer", "got nothing"},
        {"steps", "--set 'steps': an override is written path=value", ""},
        {"=4", "--set '=4': an override is written path=value", ""},
        {"a..b=4", "--set 'a..b=4': 'a..b' is not a path", ""},
        {".steps=4", "--set '.steps=4': '.steps' is not a path", ""},
        {"models.2.width=4",
         "--set 'models.2.width=4': models: this list (t.yaml:4:3) has 2 elements",
         "'2' is none of 0 to 1"},
        {"models.x.width=4", "--set 'models.x.width=4': models: this list (", "'x' is none of"},
        {"table.0=[1]", "--set 'table.0=[1]': table: this list has no elements", ""},
        {"model.mixer=glaa", "--set 'model.mixer=glaa': model.mixer: unknown mixer 'glaa'",
         "'gla'"},
        {"steps.x=4", "--set 'steps.x=4': steps: an integer", ""},
        {"seeds=[1", "--set 'seeds=[1':1:", "not valid YAML"},
        {"seeds=[1] * 2", "--set 'seeds=[1] * 2':1:", "{repeat: 3, of: [a, b]}"},
        {"model={extend: x}", "--set 'model={extend: x}': model.extend: unknown key",
         "works in files only"},
        {"extend=x.yaml", "--set 'extend=x.yaml': extend works in files only", ""},
        {"model.mixer.name=attention", "--set", ""},
    };
    for (const Case& c : cases) {
      CAPTURE(std::string(c.text));
      if (std::string(c.text) == "model.mixer.name=attention") {
        CHECK(parse(base, {c.text}).model.mixer.name() == "attention");
        continue;
      }
      const std::string message = error_of([&] { parse(base, {c.text}); });
      CAPTURE(message);
      CHECK(message.starts_with(c.at));
      CHECK(contains(message, c.part));
    }
  }

  TEST_CASE("config: extend") {
    const Folder dir;
    dir.write("base/low.yaml",
              "steps: 7\nseeds: [1, 2, 3]\nmodel: {width: 32, mixer: {name: gla, heads: 2, "
              "gate: none, rope: {dim: 8}}}\n");
    dir.write("base/mid.yaml", "extend: low.yaml\nlr: 0.5\nmodel: {name: mid}\n");
    dir.write("mixers/att.yaml", "name: attention\nwindow: 9\n");
    const std::string top = dir.write("top.yaml",
                                      "extend: base/mid.yaml\n"
                                      "seeds: [4]\n"
                                      "model:\n"
                                      "  mixer: {heads: 3}\n"
                                      "models:\n"
                                      "  - mixer: {extend: mixers/att.yaml, heads: 6}\n");
    Train t;
    const ConfigPlaces places = read_config(ConfigTree::from_file(top), t);
    CHECK(t.steps == 7);
    CHECK(t.lr == 0.5);
    CHECK(t.seeds == std::vector<Index>{4});
    CHECK(t.model.name == "mid");
    CHECK(t.model.width == 32);
    CHECK(at(t, "model.mixer.heads") == "3");
    CHECK(at(t, "model.mixer.gate") == "\"none\"");
    CHECK(at(t, "models.0.mixer.window") == "9");
    CHECK(at(t, "models.0.mixer.heads") == "6");
    CHECK(places.has("model.mixer.gate"));
    CHECK(!places.has("model.mixer.expand_k"));
    CHECK(places.where("model.mixer.gate") == (dir / "base/low.yaml") + ":3:55");
    CHECK(places.where("models.0.mixer.nothing") == top + ":6:13");
    CHECK(places.where("") == top + ":1:1");

    // Another name drops the settings of the base's component, down to its sections; another `name`
    // further up does not.
    std::string file =
        dir.write("other.yaml",
                  "extend: base/mid.yaml\n"
                  "model: {name: changed, mixer: {name: attention, rope: {base: 3}}}\n");
    t = read_config_file<Train>(file);
    CHECK(t.model.width == 32);
    CHECK(at(t, "model.mixer.heads") == "8");
    CHECK(at(t, "model.mixer.rope.base") == "3");
    CHECK(at(t, "model.mixer.rope.dim") == "0");
    file = dir.write("named.yaml", "extend: base/mid.yaml\nmodel: {name: changed}\n");
    t = read_config_file<Train>(file);
    CHECK(at(t, "model.mixer.heads") == "2");
    CHECK(at(t, "model.mixer.rope.dim") == "8");
    // A short form below a map.
    dir.write("short.yaml", "model: {mixer: attention}\n");
    file = dir.write("long.yaml", "extend: [short.yaml]\nmodel: {mixer: {window: 5}}\n");
    CHECK(at(read_config_file<Train>(file), "model.mixer.window") == "5");
    file = dir.write("two.yaml", "extend: [base/low.yaml, short.yaml]\n");
    CHECK(read_config_file<Train>(file).model.mixer.name() == "attention");
    CHECK(read_config_file<Train>(file).model.width == 32);

    // Errors name the file that a value came from.
    dir.write("bad.yaml", "steps: 1\nmodel:\n  widht: 3\n");
    dir.write("loop_a.yaml", "extend: loop_b.yaml\n");
    dir.write("loop_b.yaml", "extend: loop_a.yaml\n");
    dir.write("list.yaml", "- 1\n");
    dir.write("syntax.yaml", "a: [\n");
    struct Case {
      const char* yaml;
      const char* part;
      ErrorKind kind = ErrorKind::kConfig;
    };
    const Case cases[] = {
        {"extend: bad.yaml\n", "bad.yaml:3:3: model.widht: unknown key, did you mean 'width'?"},
        {"lr: 0.1\nextend: nothing.yaml\n", "x.yaml:2:9: extend: cannot open config",
         ErrorKind::kIo},
        {"extend: .\n", "x.yaml:1:9: extend: cannot read config", ErrorKind::kIo},
        {"extend: x.yaml\n", "x.yaml:1:9: extend: files extend each other in a circle"},
        {"extend: loop_a.yaml\n", "loop_b.yaml:1:9: extend: files extend each other in a circle"},
        {"extend: list.yaml\n", "list.yaml:1:1: a config is a map"},
        {"extend: syntax.yaml\n",
         "syntax.yaml:2:1: not valid YAML: end of sequence flow not found; the list that begins "
         "at line 1, column 4 is not closed"},
        {"extend: {a: b}\n",
         "x.yaml:1:10: extend: a file or a list of files is expected, got a map"},
        {"extend: [[a]]\n", "x.yaml:1:10: extend: the path of a file is expected, got a list"},
        {"extend: ''\n", "x.yaml:1:9: extend: the path of a file is expected"},
        {"extend:\n", "x.yaml:1:1: extend: a file or a list of files is expected, got nothing"},
    };
    for (const Case& c : cases) {
      CAPTURE(std::string(c.yaml));
      const std::string path = dir.write("x.yaml", c.yaml);
      const std::string message = error_of([&] { read_config_file<Train>(path); }, c.kind);
      CAPTURE(message);
      CHECK(contains(message, c.part));
      CHECK(contains(message, dir / ""));
    }
  }

  TEST_CASE("config: files that cannot be read") {
    const Folder dir;
    CHECK(contains(error_of([&] { ConfigTree::from_file(dir / "no.yaml"); }, ErrorKind::kIo),
                   "no.yaml': No such file or directory"));
    CHECK(contains(error_of([&] { ConfigTree::from_file(dir / ""); }, ErrorKind::kIo),
                   "Is a directory"));
    CHECK(contains(error_of([&] { ConfigTree::from_file("/dev/zero"); }, ErrorKind::kIo),
                   "larger than"));
    if (::geteuid() != 0) {
      const std::string path = dir.write("secret.yaml", "steps: 1\n");
      std::filesystem::permissions(path, std::filesystem::perms::none);
      CHECK(contains(error_of([&] { ConfigTree::from_file(path); }, ErrorKind::kIo),
                     "Permission denied"));
    }
  }

  TEST_CASE("config: dump, JSON, hash") {
    Train t;
    t.lr = 0.1;
    t.path = "a \"b\"\n\tc: #1 é \\";
    t.table = {{1, 2}, {}};
    t.ropes.resize(1);
    t.ropes[0].dim = 3;
    t.models.resize(2);
    t.models[0].name = "12";
    t.models[0].mixer = Component<Mixer>("attention");
    read_config(ConfigTree::from_text("clip: 1e-8", "t", {"models.0.mixer.window=3"}), t);
    t.source = Source::kFile;
    t.models[0].channel = Component<Mixer>("gla");
    t.models[1].stack.resize(1);
    t.models[1].stack[0].choose("gla");
    t.model.pattern = {Layer::kGla, Layer::kAttention};
    const std::string yaml = dump_yaml(t);
    CHECK(contains(yaml, "lr: 0.1\nclip: 1e-08\nbf16: false\nsource: file\n"));
    CHECK(contains(yaml,
                   "\nmodels:\n  - name: \"12\"\n    width: 64\n    mixer:\n      name: attention\n"
                   "      heads: 8\n      window: 3\n      rope:\n"));
    CHECK(contains(yaml, "\n  pattern: [gla, attention]\n"));
    const Train back = parse(yaml);
    CHECK(dump_yaml(back) == yaml);
    CHECK(back.path == t.path);
    CHECK(back.models[0].name == "12");
    CHECK(config_hash(back) == config_hash(t));
    const std::string commented = dump_yaml(t, true);
    CHECK(dump_yaml(parse(commented)) == yaml);
    CHECK(contains(commented, "lr: 0.1  # peak learning rate; > 0 and < 1\n"));
    CHECK(contains(commented, "source: file  # one of random, file\n"));
    CHECK(config_hash(t).size() == 16);
    t.threads = 5;  // not hashed
    CHECK(config_hash(back) == config_hash(t));
    t.ropes[0].base *= 1 + 1e-15;
    CHECK(config_hash(back) != config_hash(t));
    CHECK(config_hash(Rope{}) == "f282d01b26da3b23");
    CHECK(config_hash(Rope{3e-4, 100000}) == "0fc44b734b280348");
    CHECK(dump_json(Rope{}) == R"({"base":10000,"dim":0})");
    CHECK(dump_json(Rope{3e-4, 100000}) == R"({"base":0.0003,"dim":100000})");
    CHECK(contains(dump_json(back), R"("path":"a \"b\"\n\tc: #1 é \\")"));
    // Every number comes back as it was.
    for (const double x :
         {0.1, 1.0 / 3, 1e300, 5e-324, std::numeric_limits<double>::max(), 123456789012.0}) {
      Rope r;
      r.base = x;
      CHECK(read_config_text<Rope>(dump_yaml(r)).base == x);
    }
    for (const char* text :
         {"",       " ",    "true", "null", "~",    "1",         "1e5",  "-",    "- a",
          "a: b",   "a #b", "#",    "yes",  "[a]",  "{",         "'",    "\"",   "*a",
          "&a",     "!a",   "|",    "%x",   "@",    "`",         "0x1f", "1:30", "=",
          "a\nb\n", "\x01", "\x7f", "中文", ".inf", "a/b.c-d_e", "\\n",  "<<"}) {
      CAPTURE(std::string(text));
      Train s;
      s.path = text;
      const Train r = parse(dump_yaml(s));
      CHECK(r.path == text);
    }
  }

  TEST_CASE("config: listings") {
    const std::string text = describe_config<Train>();
    for (const char* line :
         {"steps: integer, default 1000, >= 1  -- optimizer steps\n",
          "\nlr: number, default 0.001, > 0 and < 1  -- peak learning rate\n",
          "\nsource: text, default random, one of random, file\n", "\npath: text, default \"\"\n",
          "\ntable: list of list of number, default []\n",
          "\nropes: list of section, default []\n  base: number, default 10000, > 0  -- longest "
          "wavelength\n",
          "\nrope: section or null, default null\n  base: number",
          "\nmodels: list of section, default []\n  name: text, default model  -- shown in "
          "tables\n",
          "\nmodel: section  -- the model\n  name: text",
          "\n  mixer: mixer, default gla  -- token mixer\n",
          "\n  pattern: list of text, default [gla], "
          "one of attention, gla, needy  -- mixers by layer\n",
          "\n  stack: list of mixer, default []\n", "\n  channel: mixer or null, default null\n"}) {
      CAPTURE(std::string(line));
      CHECK(contains("\n" + text, line));
    }
    CHECK(std::count(text.begin(), text.end(), '\n') == 13 + 2 + 2 + 7 + 7);
    CHECK(Mixer::registry().names() == std::vector<std::string>{"attention", "gla", "needy"});
    const std::string gla = describe_component(Mixer::registry(), "gla");
    CHECK(gla.starts_with("heads: integer, default 4, >= 1 and <= 64  -- number of heads\n"));
    CHECK(
        contains(gla, "\nrope: section  -- rotary positions\n  base: number, default 10000, > 0"));
    CHECK(describe_component(Mixer::registry(), "needy") ==
          "path: text, required  -- what to read\n");
    CHECK(contains(error_of([] { describe_component(Mixer::registry(), "glla"); }),
                   "did you mean 'gla'"));
  }

  TEST_CASE("config: no text crashes the reader") {
    // Every prefix of a good config, and the config with one character replaced, either reads or
    // raises the one kind of error.
    const std::string good =
        "steps: 5 # c\nseeds: [1, {repeat: 2, of: 2}]\nmodel: &m {pattern: ['gla', \"gla\"], "
        "mixer: {name: gla, "
        "heads: 2}}\n"
        "models:\n  - *m\npath: |\n  text\ntable: [[1.0, 2]]\n";
    parse(good);
    int read = 0, refused = 0;
    const auto attempt = [&](const std::string& text) {
      try {
        parse(text);
        ++read;
      } catch (const Error& e) {
        ++refused;
        if (e.kind() != ErrorKind::kConfig || !e.message().starts_with("t.yaml:")) {
          FAIL_CHECK(text << "\n" << e.message());
        }
      }
    };
    for (std::size_t i = 0; i <= good.size(); ++i) {
      attempt(good.substr(0, i));
    }
    for (std::size_t i = 0; i < good.size(); ++i) {
      for (const char c : std::string("[]{}:,*&!|>'\"#%@` \n\t\\-?0a\x80\x01")) {
        std::string text = good;
        text[i] = c;
        attempt(text);
      }
    }
    CHECK(read > 100);
    CHECK(refused > 1000);
  }
}
