#include <doctest/doctest.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <limits>

#include "core/config/yaml.h"

namespace ls {
namespace {
enum class Norm { kRms, kLayer };
}
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
    std::string gate = "swish";
    Rope rope;
    template <class F>
    void fields(F& f) {
      f("heads", heads, {.help = "number of heads", .min = 1, .max = 64});
      f("expand_k", expand_k, {.help = "key width / width", .above = 0});
      f("gate", gate, {.help = "output gate", .choices = {"swish", "sigmoid", "none"}});
      f.section("rope", rope, {.help = "rotary positions"});
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
      f.section("rope", rope);
    }
  };
  TestAttention(const Config& config, const Index&, std::string)
      : text_(fmt::format("attention heads={}", config.heads)) {}
  std::string say() const override { return text_; }

 private:
  std::string text_;
};
LS_REGISTER(Mixer, TestAttention, "attention", "softmax attention");

struct NeedyConfig {
  std::string path;
  template <class F>
  void fields(F& f) {
    f("path", path, {.help = "what to read", .required = true});
  }
};
std::unique_ptr<Mixer> make_needy(const NeedyConfig&, const Index&, std::string) {
  return nullptr;
}
[[maybe_unused]] const bool needy_added =
    Mixer::registry().add_maker<NeedyConfig>("needy", "has a required field", make_needy);

struct Model {
  std::string name = "model";
  Index width = 64;
  Component<Mixer> mixer{"gla"};
  std::vector<std::string> pattern = {"gla"};
  std::vector<Component<Mixer>> stack;
  std::optional<Component<Mixer>> channel;
  Norm norm = Norm::kRms;
  template <class F>
  void fields(F& f) {
    f("name", name, {.help = "shown in tables", .min_size = 1});
    f("width", width, {.help = "features", .min = 1});
    f("mixer", mixer, {.help = "token mixer"});
    f("pattern", pattern,
      {.help = "mixers by layer", .choices = Mixer::registry().names(), .pattern = true});
    f("stack", stack, {.pattern = true});
    f("channel", channel);
    f("norm", norm);
    f.check(width % 4 == 0, "width", "must be a multiple of 4");
  }
};

struct Train {
  Index steps = 1000;
  int threads = 0;
  double lr = 1e-3, clip = 1;
  bool bf16 = false;
  std::string source = "random", path;
  std::vector<Index> seeds = {0};
  std::vector<std::vector<double>> table;
  std::map<std::string, double> scales;
  std::map<std::string, Rope> ropes;
  std::optional<Rope> rope;
  std::vector<Model> models;
  Model model;
  template <class F>
  void fields(F& f) {
    f("steps", steps, {.help = "optimizer steps", .min = 1});
    f("threads", threads, {.min = 0, .hashed = false});
    f("lr", lr, {.help = "peak learning rate", .above = 0, .below = 1});
    f("clip", clip, {.min = 0, .allow_inf = true});
    f("bf16", bf16);
    f("source", source, {.choices = {"random", "file"}});
    f("path", path, {.required = source == "file"});
    f("seeds", seeds, {.min = 0, .min_size = 1, .max_size = 8});
    f("table", table);
    f("scales", scales, {.above = 0});
    f("ropes", ropes);
    f("rope", rope);
    f("models", models);
    f.section("model", model, {.help = "the model"});
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
clip: .inf
bf16: true
source: "file"   # quoted text
path: 'it''s here.txt'
seeds: [1, +2, 3]
table:
  - [1, 2.5]
  - []
  - [-1e-3, .5, 5.]
scales: {norm: 0.5, "a b": 2}
ropes:
  x: {base: 1}
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
    CHECK(std::isinf(t.clip));
    CHECK(t.bf16);
    CHECK(t.path == "it's here.txt");
    CHECK(t.seeds == std::vector<Index>{1, 2, 3});
    CHECK(t.table == std::vector<std::vector<double>>{{1, 2.5}, {}, {-1e-3, .5, 5}});
    CHECK(t.scales == std::map<std::string, double>{{"a b", 2}, {"norm", 0.5}});
    CHECK(t.ropes.at("x").base == 1);
    CHECK(t.rope->dim == 4);
    CHECK(t.model.name == "12");
    CHECK(t.model.mixer.name() == "gla");
    CHECK(t.model.mixer.as<TestGla::Config>().heads == 2);
    CHECK(t.model.mixer.as<TestGla::Config>().rope.dim == 8);
    CHECK(t.model.norm == Norm::kLayer);
    CHECK(t.model.channel->name() == "attention");
    REQUIRE(t.models.size() == 2);
    CHECK(t.models[0].width == 128);
    CHECK(t.models[0].mixer.as<TestGla::Config>().heads == 2);
    CHECK(t.models[1].mixer.name() == "attention");
    CHECK(t.models[1].stack[1].as<TestAttention::Config>().window == 16);
    CHECK(t.models[1].mixer.make(64, "x")->say() == "attention heads=8");
    CHECK(t.model.mixer.make(64, "x")->say() == "gla heads=2 width=64 tag=x");
  }

  TEST_CASE("config: components copy deeply and keep defaults set in code") {
    Component<Mixer> a{"gla"};
    a.as<TestGla::Config>().heads = 7;
    Component<Mixer> b = a;
    b.as<TestGla::Config>().heads = 9;
    CHECK(a.as<TestGla::Config>().heads == 7);
    CHECK_THROWS_AS(a.as<Rope>(), Error);
    CHECK(contains(error_of([] { Component<Mixer> c{"glaa"}; }), "did you mean 'gla'"));
    Train t;
    t.model.mixer = a;
    read_config(ConfigTree::from_text("model: {mixer: {expand_k: 2}}"), t);
    CHECK(t.model.mixer.as<TestGla::Config>().heads == 7);
    CHECK(t.model.mixer.as<TestGla::Config>().expand_k == 2);
  }

  TEST_CASE("config: broken YAML") {
    struct Case {
      const char* yaml;
      const char* at;    // the message begins with it
      const char* part;  // and holds this
    };
    const Case cases[] = {
        // Unknown and mistyped keys.
        {"stesp: 5\n", "t.yaml:1:1: stesp: unknown key", "did you mean 'steps'?"},
        {"lr: 0.1\nmodel:\n  widht: 8\n", "t.yaml:3:3: model.widht: unknown key", "'width'"},
        {"model:\n  mixer: {name: gla, heds: 4}\n", "t.yaml:2:22: model.mixer.heds: unknown key",
         "did you mean 'heads'? allowed here: name, heads, expand_k, gate, rope, extend"},
        {"models:\n  - width: 8\n  - mixer:\n      name: gla\n      rope: {bas: 1}\n",
         "t.yaml:5:14: models.1.mixer.rope.bas: unknown key", "'base'"},
        {"model: {mixer: {name: attention, gate: swish}}",
         "t.yaml:1:34: model.mixer.gate: unknown key", "allowed here: name, heads, window, rope"},
        {"xyzzyplugh: 1\n", "t.yaml:1:1: xyzzyplugh: unknown key; allowed here: steps", "seeds"},
        {"ropes: {x: {bse: 2}}", "t.yaml:1:13: ropes.x.bse: unknown key", "'base'"},
        {"<<: 1\n", "t.yaml:1:1: <<: YAML merge keys are not used", "extend"},
        {"é: 1\n", "t.yaml:1:1: é: unknown key; allowed", ""},
        // Unknown names.
        {"model:\n  mixer: glaa\n", "t.yaml:2:10: model.mixer: unknown mixer 'glaa'",
         "did you mean 'gla'? known: attention, gla, needy"},
        {"model: {mixer: {heads: 2, name: atention}}", "t.yaml:1:33: model.mixer: unknown mixer",
         "'attention'"},
        {"model: {pattern: [gla, atention]}", "t.yaml:1:24: model.pattern.1: one of attention, gla",
         "did you mean 'attention'?"},
        {"model: {norm: layr}",
         "t.yaml:1:15: model.norm: one of rms, layer is expected, got 'layr'",
         "did you mean 'layer'?"},
        {"source: fil", "t.yaml:1:9: source: one of random, file is expected", "'file'"},
        {"source: [file]", "t.yaml:1:9: source: one of random, file is expected, got a list", ""},
        {"model: {mixer: {name: gla, gate: sigmod}}", "t.yaml:1:34: model.mixer.gate: one of",
         "did you mean 'sigmoid'?"},
        {"model: {channel: glu}", "t.yaml:1:18: model.channel: unknown mixer 'glu'",
         "did you mean 'gla'?"},
        {"model: {mixer: }", "t.yaml:1:9: model.mixer: a mixer is expected, by name",
         "got nothing"},
        {"model: {stack: [{heads: 2}]}", "t.yaml:1:18: model.stack.0: a mixer must be named",
         "known: attention, gla"},
        // Wrong types.
        {"steps: four\n", "t.yaml:1:8: steps: an integer >= 1 is expected, got 'four'", ""},
        {"steps: 1.5", "t.yaml:1:8: steps: an integer >= 1 is expected, got '1.5'", ""},
        {"steps: 1e3", "t.yaml:1:8: steps: an integer", "write 1000"},
        {"steps: 8_192", "t.yaml:1:8: steps: an integer", "write 8192"},
        {"steps: \"8\"", "t.yaml:1:8: steps: an integer", "write it without quotes"},
        {"steps: 0x10", "t.yaml:1:8: steps: an integer", "got '0x10'"},
        {"steps: 010", "t.yaml:1:8: steps: an integer >= 1 is expected, without leading zeros", ""},
        {"steps: true", "t.yaml:1:8: steps: an integer", "got 'true'"},
        {"steps:\nlr: 0.1", "t.yaml:1:1: steps: an integer", "got nothing"},
        {"steps: [1]", "t.yaml:1:8: steps: an integer", "got a list"},
        {"steps: {a: 1}", "t.yaml:1:9: steps: an integer", "got a map"},
        {"lr: fast", "t.yaml:1:5: lr: a number > 0 and < 1 is expected, got 'fast'", ""},
        {"lr: 1_0", "t.yaml:1:5: lr: a number", "write 10"},
        {"lr: '0.1'", "t.yaml:1:5: lr: a number", "write it without quotes"},
        {"lr: 1e-3x", "t.yaml:1:5: lr: a number", "got '1e-3x'"},
        {"lr: +-1", "t.yaml:1:5: lr: a number", ""},
        {"bf16: yes", "t.yaml:1:7: bf16: true or false is expected, got 'yes'", ""},
        {"bf16: 1", "t.yaml:1:7: bf16: true or false is expected", ""},
        {"bf16: \"true\"", "t.yaml:1:7: bf16: true or false is expected, got the text \"true\"",
         ""},
        {"path: [a]", "t.yaml:1:7: path: text is expected, got a list", ""},
        {"path:", "t.yaml:1:1: path: text is expected, got nothing", ""},
        {"seeds: 4", "t.yaml:1:8: seeds: a list of integer is expected, got '4'; write [4]", ""},
        {"seeds: [1, two]", "t.yaml:1:12: seeds.1: an integer >= 0 is expected, got 'two'", ""},
        {"table: [[1, a]]", "t.yaml:1:13: table.0.1: a number is expected", ""},
        {"scales: [1]", "t.yaml:1:9: scales: a map of number is expected, got a list", ""},
        {"model: gla",
         "t.yaml:1:8: model: a section (a map of its own keys) is expected, got 'gla'", ""},
        {"model: [1]", "t.yaml:1:8: model: a section", "got a list"},
        {"models: {width: 8}", "t.yaml:1:10: models: a list of section is expected, got a map", ""},
        {"model: {mixer: [gla]}", "t.yaml:1:16: model.mixer: a mixer is expected", "got a list"},
        {"model: {mixer: {name: [gla]}}", "t.yaml:1:23: model.mixer.name: the name of a mixer", ""},
        // Out of range.
        {"steps: 0", "t.yaml:1:8: steps: an integer >= 1 is expected, got '0'", ""},
        {"steps: 9223372036854775808", "t.yaml:1:8: steps: an integer >= 1 of at most 64 bits", ""},
        {"steps: 99999999999999999999999", "t.yaml:1:8: steps: an integer >= 1 of at most 64 bits",
         ""},
        {"threads: 2147483648", "t.yaml:1:10: threads: an integer >= 0 of at most 32 bits", ""},
        {"lr: 1", "t.yaml:1:5: lr: a number > 0 and < 1 is expected, got '1'", ""},
        {"lr: 0", "t.yaml:1:5: lr: a number > 0 and < 1", ""},
        {"lr: .nan", "t.yaml:1:5: lr: a finite number", ""},
        {"lr: inf", "t.yaml:1:5: lr: a finite number", ""},
        {"lr: 1e999", "t.yaml:1:5: lr: a number", "within the range of a double"},
        {"clip: nan", "t.yaml:1:7: clip: a number >= 0 is expected, not NaN", ""},
        {"clip: -.inf", "t.yaml:1:7: clip: a number >= 0", ""},
        {"seeds: []", "t.yaml:1:8: seeds: 1 to 8 elements are expected, got 0", ""},
        {"seeds: [1] * 9", "t.yaml:1:8: seeds: 1 to 8 elements are expected, got 9", ""},
        {"seeds: [-1] * 3", "t.yaml:1:9: seeds.0: an integer >= 0", "got '-1'"},
        {"scales: {a: 1, b: 0}", "t.yaml:1:19: scales.b: a number > 0", ""},
        {"model: {name: ''}", "t.yaml:1:15: model.name: text of at least 1 bytes is expected", ""},
        {"model:\n  width: 6", "t.yaml:2:10: model.width: must be a multiple of 4", ""},
        // Missing.
        {"source: file\n", "t.yaml:1:1: path: this key is required", ""},
        {"model:\n  mixer: needy\n",
         "t.yaml:2:10: model.mixer.path: this key is required: what to read", ""},
        {"model:\n  mixer:\n    name: needy\n",
         "t.yaml:3:5: model.mixer.path: this key is required", ""},
        // Duplicates.
        {"lr: 0.1\nsteps: 1\nlr: 0.2\n", "t.yaml:3:1: 'lr' is already given in line 1, column 1",
         ""},
        {"model: {width: 4, width: 8}", "t.yaml:1:19: 'width' is already given in line 1, column 9",
         ""},
        // Not a config.
        {"", "t.yaml:1:1: the config is empty", ""},
        {"# nothing\n", "t.yaml:1:1: the config is empty", ""},
        {"~\n", "t.yaml:1:1: the config is empty", ""},
        {"- a\n- b\n", "t.yaml:1:1: a config is a map (key: value), this is a list", ""},
        {"hello\n", "t.yaml:1:1: a config is a map (key: value), this is 'hello'", ""},
        {"steps: 1\n---\nsteps: 2\n", "t.yaml:", "a second YAML document begins"},
        // Not YAML.
        {"steps: 1\n  lr: 2\n", "t.yaml:2:5: not valid YAML", ""},
        {"seeds: [1, 2\n", "t.yaml:1:8: not valid YAML: this '[' is never closed", ""},
        {"path: \"abc\n", "t.yaml:1:7: not valid YAML: this quote is never closed", ""},
        {"path: {a: [1, 2}\n", "t.yaml:1:16: not valid YAML: '}' stands where '[' from line 1", ""},
        {"model:\n\twidth: 8\n", "t.yaml:2:1: a tab in the indentation", ""},
        {"a: *nowhere\n", "t.yaml:1:4: not valid YAML", ""},
        {"a: &x [*x]\n", "t.yaml:1:8: this alias lies inside its own anchor", ""},
        {"? [a]\n: b\n", "t.yaml:1:3: a key must be plain text, this is a list", ""},
        {"a: !!int 3\n", "t.yaml:1:4: YAML tags are not used here", ""},
        {"a: \x01\n", "t.yaml:1:4: byte 0x01 does not belong", ""},
        {"a: \xff\xfe\n", "t.yaml:1:4: byte 0xff does not belong", ""},
        {"é: \xc3\n", "t.yaml:1:4: byte 0xc3 does not belong", ""},
        {"a: \xed\xa0\x80\n", "t.yaml:1:4: byte 0xed", ""},
        // Repetitions.
        {"seeds: [1] * two", "t.yaml:1:12: a list is repeated by a whole number", "[a, b] * 3"},
        {"seeds: [1] * 0", "t.yaml:1:12: a list is repeated by a whole number", ""},
        {"seeds: [1] * -1", "t.yaml:1:12: a list is repeated", ""},
        {"seeds: [1] * 2.5", "t.yaml:1:12: a list is repeated", ""},
        {"seeds: [1] *", "t.yaml:1:12: a list is repeated", ""},
        {"seeds: [1] * 999999999999999999999", "t.yaml:1:12: a list is repeated", ""},
        {"seeds: [1] * 200000", "t.yaml:1:12: a list may have at most 100000 elements", ""},
        {"seeds: [1] * 1000 * 1000", "t.yaml:1:19: a list may have at most", ""},
        {"model: {a: 1} * 3", "t.yaml:1:15: only a list can be repeated", ""},
        {"path: words\n  [a] * 3\n", "t.yaml:2:3: this text looks like a repeated list; quote it",
         ""},
        {"model: {pattern: gla * x}",
         "t.yaml:1:18: model.pattern: a name is repeated by a whole number", "gla * 3"},
        {"model: {pattern: gla attention}", "t.yaml:1:18: model.pattern: a name, name * n", ""},
        {"model: {pattern: '[gla, '}", "t.yaml:1:18: model.pattern: ", "not valid YAML"},
        {"model: {pattern: [[gla * 60000] * 2]}",
         "t.yaml:1:19: model.pattern: a list may have at most", ""},
        {"model: {pattern: [gla, ]}\nmodels: 3", "t.yaml:2:9: models: a list of section",
         "got '3'"},
    };
    for (const Case& c : cases) {
      CAPTURE(std::string(c.yaml));
      const std::string message = error_of([&] { parse(c.yaml); });
      CAPTURE(message);
      CHECK(message.starts_with(c.at));
      CHECK(contains(message, c.part));
      CHECK(message.find('\n') == std::string::npos);
    }
    CHECK(std::size(cases) >= 25);
  }

  TEST_CASE("config: what is wrong comes before what is missing, each on its own line") {
    const std::string m = error_of([] { parse("source: file\npth: x\nlr: 3\n"); });
    CHECK(m ==
          "t.yaml:3:5: lr: a number > 0 and < 1 is expected, got '3'\n"
          "t.yaml:2:1: pth: unknown key, did you mean 'path'? allowed here: steps, threads, lr, "
          "clip, "
          "bf16, source, path, seeds, table, scales, ropes, rope, models, model, extend\n"
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

  TEST_CASE("config: repeated lists and patterns") {
    const std::vector<std::string> four = {"gla", "gla", "gla", "attention"};
    std::vector<std::string> twelve;
    for (int i = 0; i < 3; ++i) {
      twelve.insert(twelve.end(), four.begin(), four.end());
    }
    const char* forms[] = {
        "model:\n  pattern: [gla, gla, gla, attention] * 3\n",
        "model:\n  pattern: [gla, gla, gla, attention]*3   # a comment ] * 5\n  width: 8\n",
        "model:\n  pattern: '[gla, gla, gla, attention] * 3'\n",
        "model: {width: 8, pattern: [gla, gla, gla, attention] * 3, name: x}\n",
        "model: {pattern: [gla, gla, gla, attention] * 3}\r\n",
        "model:\n  pattern: [gla,  # one\n    gla, gla,\n    attention\n  ]  *  3\n",
        "model:\n  pattern: [[gla * 3, attention] * 3]\n",
        "model:\n  pattern: [[gla] * 3, 'attention'] * 3\n",
        "model:\n  pattern: \"[[gla] * 3, attention] * 3\"\n",
        "model:\n  pattern: [gla, gla, gla, attention] * 3",
        "model:\n  pattern: [[[gla] * 3, attention], [gla * 3, attention] * 2]",
        "\"model\":\n  \"pattern\" : [gla, gla, gla, attention] * 3",
        "\xef\xbb\xbfmodel:\n  pattern: [gla, gla, gla, attention] * 3",
        "x: &p [gla, gla, gla, attention] * 3\nmodel: {pattern: *p}",
    };
    for (const char* yaml : forms) {
      CAPTURE(std::string(yaml));
      std::string text = yaml;
      Model m;
      const ConfigTree tree = ConfigTree::from_text(text, "t.yaml");
      if (text.starts_with("x:")) {
        struct Both {
          std::vector<std::string> x;
          Model model;
          void fields(FieldVisitor& f) {
            f("x", x);
            f("model", model);
          }
        } both;
        read_config(tree, both);
        CHECK(both.x == twelve);
        m = both.model;
      } else {
        Train t;
        read_config(tree, t);
        m = t.model;
      }
      CHECK(m.pattern == twelve);
    }
    const Train t = parse(
        "seeds: [1, 2] * 2\n"
        "path: \"[a] * 3\"\n"
        "model:\n"
        "  name: it's a [b] * 2 name\n"
        "  stack: [gla, {name: attention, window: 4}] * 2\n"
        "models:\n"
        "- {stack: gla * 2}\n"
        "- stack: '[gla, {name: attention, window: 4}] * 2'\n");
    CHECK(t.seeds == std::vector<Index>{1, 2, 1, 2});
    CHECK(t.path == "[a] * 3");
    CHECK(t.model.name == "it's a [b] * 2 name");
    REQUIRE(t.model.stack.size() == 4);
    CHECK(t.model.stack[3].as<TestAttention::Config>().window == 4);
    CHECK(t.models[0].stack.size() == 2);
    CHECK(t.models[1].stack[3].as<TestAttention::Config>().window == 4);
    // Block scalars and quoted text are left alone.
    const Train block = parse("path: |\n  [a] * 3\n  b: [c] * 2\nseeds: [5] * 2\nsource: random\n");
    CHECK(block.path == "[a] * 3\nb: [c] * 2\n");
    CHECK(block.seeds == std::vector<Index>{5, 5});

    CHECK(parse_pattern("gla") == std::vector<std::string>{"gla"});
    CHECK(parse_pattern("a * 2") == std::vector<std::string>{"a", "a"});
    CHECK(parse_pattern("[a, b*2, [c, d] * 2] * 1") ==
          std::vector<std::string>{"a", "b", "b", "c", "d", "c", "d"});
    CHECK(parse_pattern("[]").empty());
    for (const char* bad : {"", "[a", "a]", "[a] * b", "[a] * 0", "* 3", "a b", "[{x: 1}]",
                            "a * 2 * 3", "[a, , b]", "a *", "[a] + [b]"}) {
      CAPTURE(std::string(bad));
      const std::string message = error_of([&] { parse_pattern(bad); });
      CHECK(message.starts_with(fmt::format("pattern '{}':1:", bad)));
    }
  }

  TEST_CASE("config: overrides") {
    const std::string base = R"(
steps: 5
models:
  - mixer: gla
  - {mixer: {name: gla, heads: 2, rope: {dim: 8}}, pattern: [gla] * 2}
seeds: [1, 2]
)";
    Train t = parse(base, {"models.0.mixer.heads=3", "models.1.mixer.rope.base=2", "lr=1e-2",
                           "seeds=[7]*2", "scales.norm=0.5", "model.mixer.heads=9",
                           "model.pattern=[gla * 2, attention]", "path=a=b", "rope={dim: 2}"});
    CHECK(t.models[0].mixer.as<TestGla::Config>().heads == 3);
    CHECK(t.models[1].mixer.as<TestGla::Config>().heads == 2);
    CHECK(t.models[1].mixer.as<TestGla::Config>().rope.base == 2);
    CHECK(t.models[1].mixer.as<TestGla::Config>().rope.dim == 8);
    CHECK(t.lr == 1e-2);
    CHECK(t.seeds == std::vector<Index>{7, 7});
    CHECK(t.scales.at("norm") == 0.5);
    CHECK(t.model.mixer.as<TestGla::Config>().heads == 9);
    CHECK(t.model.pattern == std::vector<std::string>{"gla", "gla", "attention"});
    CHECK(t.path == "a=b");
    CHECK(t.rope->dim == 2);
    // Choosing another component drops the settings of the former one, in either order.
    for (const auto& overrides :
         {std::vector<std::string>{"models.1.mixer.heads=5", "models.1.mixer.name=attention"},
          {"models.1.mixer.name=attention", "models.1.mixer.heads=5"},
          {"models.1.mixer.heads=5", "models.1.mixer=attention"}}) {
      t = parse(base, overrides);
      CHECK(t.models[1].mixer.as<TestAttention::Config>().heads == 5);
      CHECK(t.models[1].mixer.as<TestAttention::Config>().rope.dim == 0);
    }
    t = parse(base, {"models.1.pattern.1=attention"});
    CHECK(t.models[1].pattern == std::vector<std::string>{"gla", "attention"});
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
         "--set 'models.2.width=4': 'models' is a list of 2 elements (t.yaml:4:3)",
         "'2' is none of 0 to 1"},
        {"models.x.width=4", "--set 'models.x.width=4': 'models' is a list", ""},
        {"table.0=[1]", "--set 'table.0=[1]': 'table' is not written in the file", ""},
        {"model.mixer=glaa", "--set 'model.mixer=glaa': model.mixer: unknown mixer 'glaa'",
         "'gla'"},
        {"steps.x=4", "--set 'steps.x=4': steps: an integer", ""},
        {"seeds=[1", "--set 'seeds=[1':1:", "not valid YAML"},
        {"seeds=[1] * x", "--set 'seeds=[1] * x':1:11: a list is repeated", ""},
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
    const ConfigTree tree = ConfigTree::from_file(top);
    Train t;
    read_config(tree, t);
    CHECK(t.steps == 7);
    CHECK(t.lr == 0.5);
    CHECK(t.seeds == std::vector<Index>{4});
    CHECK(t.model.name == "mid");
    CHECK(t.model.width == 32);
    CHECK(t.model.mixer.as<TestGla::Config>().heads == 3);
    CHECK(t.model.mixer.as<TestGla::Config>().gate == "none");
    CHECK(t.models[0].mixer.as<TestAttention::Config>().window == 9);
    CHECK(t.models[0].mixer.as<TestAttention::Config>().heads == 6);
    CHECK(tree.files() == std::vector<std::string>{top, dir / "mixers/att.yaml",
                                                   dir / "base/mid.yaml", dir / "base/low.yaml"});
    CHECK(tree.has("model.mixer.gate"));
    CHECK(!tree.has("model.mixer.expand_k"));
    CHECK(tree.where("model.mixer.gate") == (dir / "base/low.yaml") + ":3:55");
    CHECK(tree.where("models.0.mixer.nothing") == top + ":6:13");

    // Another name drops the settings of the base's component, down to its sections; another `name`
    // further up does not.
    std::string file =
        dir.write("other.yaml",
                  "extend: base/mid.yaml\n"
                  "model: {name: changed, mixer: {name: attention, rope: {base: 3}}}\n");
    t = read_config_file<Train>(file);
    CHECK(t.model.width == 32);
    CHECK(t.model.mixer.as<TestAttention::Config>().heads == 8);
    CHECK(t.model.mixer.as<TestAttention::Config>().rope.base == 3);
    CHECK(t.model.mixer.as<TestAttention::Config>().rope.dim == 0);
    file = dir.write("named.yaml", "extend: base/mid.yaml\nmodel: {name: changed}\n");
    t = read_config_file<Train>(file);
    CHECK(t.model.mixer.as<TestGla::Config>().heads == 2);
    CHECK(t.model.mixer.as<TestGla::Config>().rope.dim == 8);
    // A short form below a map.
    dir.write("short.yaml", "model: {mixer: attention}\n");
    file = dir.write("long.yaml", "extend: [short.yaml]\nmodel: {mixer: {window: 5}}\n");
    CHECK(read_config_file<Train>(file).model.mixer.as<TestAttention::Config>().window == 5);
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
        {"extend: syntax.yaml\n", "syntax.yaml:1:4: not valid YAML: this '[' is never closed"},
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
    t.clip = INFINITY;
    t.path = "a \"b\"\n\tc: #1 é \\";
    t.source = "file";
    t.scales = {{"1", 1e-8}, {"true", 3}};
    t.table = {{1, 2}, {}};
    t.ropes["x y"].dim = 3;
    t.models.resize(2);
    t.models[0].name = "12";
    t.models[0].mixer = Component<Mixer>("attention");
    t.models[0].mixer.as<TestAttention::Config>().window = 3;
    t.models[0].channel = Component<Mixer>("gla");
    t.models[1].stack.resize(1);
    t.models[1].stack[0].choose("gla");
    t.model.pattern = parse_pattern("[gla * 2, attention] * 2");
    const std::string yaml = dump_yaml(t);
    CHECK(contains(yaml, "lr: 0.1\nclip: .inf\nbf16: false\nsource: file\n"));
    CHECK(contains(yaml, "\nscales:\n  \"1\": 1e-08\n  \"true\": 3\n"));
    CHECK(contains(yaml,
                   "\nmodels:\n  - name: \"12\"\n    width: 64\n    mixer:\n      name: attention\n"
                   "      heads: 8\n      window: 3\n      rope:\n"));
    CHECK(contains(yaml, "\n  pattern: [gla, gla, attention, gla, gla, attention]\n"));
    const Train back = parse(yaml);
    CHECK(dump_yaml(back) == yaml);
    CHECK(back.path == t.path);
    CHECK(back.models[0].name == "12");
    CHECK(config_hash(back) == config_hash(t));
    CHECK(dump_yaml(parse(dump_yaml(t, {.comments = true}))) == yaml);
    CHECK(
        contains(dump_yaml(t, {.comments = true}), "lr: 0.1  # peak learning rate; > 0 and < 1\n"));
    CHECK(config_hash(t).size() == 16);
    t.threads = 5;  // not hashed
    CHECK(config_hash(back) == config_hash(t));
    t.model.mixer.as<TestGla::Config>().rope.base *= 1 + 1e-15;
    CHECK(config_hash(back) != config_hash(t));
    CHECK(config_hash(Rope{}) == "f282d01b26da3b23");
    CHECK(dump_json(Rope{}) == R"({"base":10000,"dim":0})");
    CHECK(contains(dump_json(back), R"("clip":"inf")"));
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
      s.scales[text] = 1;
      const Train r = parse(dump_yaml(s));
      CHECK(r.path == text);
      CHECK(r.scales.count(text) == 1);
    }
  }

  TEST_CASE("config: validate what code filled in") {
    Train t;
    validate_config(t);
    t.models.resize(2);
    t.models[1].width = 0;
    t.lr = NAN;
    CHECK(error_of([&] { validate_config(t); }) ==
          "config: lr: a finite number > 0 and < 1 is expected, got '.nan'\n"
          "config: models.1.width: an integer >= 1 is expected, got '0'");
  }

  TEST_CASE("config: listings") {
    const std::vector<FieldDoc> docs = describe_config<Train>();
    REQUIRE(docs.size() == 14);
    CHECK(docs[0].name == "steps");
    CHECK(docs[0].type == "integer");
    CHECK(docs[0].default_value == "1000");
    CHECK(docs[0].range == ">= 1");
    CHECK(docs[0].help == "optimizer steps");
    CHECK(docs[2].default_value == "0.001");
    CHECK(docs[5].range == "one of random, file");
    CHECK(docs[8].type == "list of list of number");
    CHECK(docs[11].type == "section or null");
    CHECK(docs[11].default_value == "null");
    CHECK(docs[11].children.size() == 2);
    CHECK(docs[12].type == "list of section");
    CHECK(docs[12].children.size() == 7);
    const std::vector<FieldDoc>& model = docs[13].children;
    CHECK(model[2].type == "mixer");
    CHECK(model[2].default_value == "gla");
    CHECK(model[3].default_value == "[gla]");
    CHECK(model[4].type == "list of mixer");
    CHECK(model[5].type == "mixer or null");
    CHECK(Mixer::registry().names() == std::vector<std::string>{"attention", "gla", "needy"});
    const std::vector<FieldDoc> gla = describe_component(Mixer::registry(), "gla");
    CHECK(gla.size() == 4);
    CHECK(contains(format_fields(gla),
                   "heads: integer, default 4, >= 1 and <= 64  -- number of heads\n"));
    CHECK(contains(format_fields(gla), "  base: number, default 10000, > 0"));
    CHECK(contains(format_fields(describe_component(Mixer::registry(), "needy")),
                   "path: text, required"));
    CHECK(contains(error_of([] { describe_component(Mixer::registry(), "glla"); }),
                   "did you mean 'gla'"));
  }

  TEST_CASE("config: no text crashes the reader") {
    // Every prefix of a good config, and the config with one character replaced, either reads or
    // raises the one kind of error.
    const std::string good =
        "steps: 5 # c\nseeds: [1, 2] * 2\nmodel: &m {pattern: \"[gla] * 2\", mixer: {name: gla, "
        "heads: 2}}\n"
        "models:\n  - *m\npath: |\n  text\nscales: {'a': 1.0, b: 2}\n";
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
