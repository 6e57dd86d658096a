#include "core/config/compare.h"

#include <doctest/doctest.h>

#include <optional>
#include <vector>

#include "core/config/yaml.h"

using namespace ls;

namespace {

class Part {
 public:
  using Registry = ComponentRegistry<Part>;
  static Registry& registry() {
    static Registry registry("part");
    return registry;
  }
  virtual ~Part() = default;
};
struct CompareWheel final : Part {
  struct Config {
    Index spokes = 8;
    std::string drawing;
    template <class F>
    void fields(F& f) {
      f("spokes", spokes, {.help = "spokes"});
      f("drawing", drawing, {.help = "file", .hashed = false, .file = true});
    }
  };
  explicit CompareWheel(const Config&) {}
};
LS_REGISTER(Part, CompareWheel, "wheel", "a wheel");
struct CompareSail final : Part {
  struct Config {
    double area = 2;
    template <class F>
    void fields(F& f) {
      f("area", area, {.help = "area"});
    }
  };
  explicit CompareSail(const Config&) {}
};
LS_REGISTER(Part, CompareSail, "sail", "a sail");

struct Cart {
  std::string name = "cart", manual;
  bool roof = false;
  std::optional<double> speed;
  std::vector<Index> seats = {1};
  std::vector<Component<Part>> parts = {"wheel"};
  std::vector<std::string> songs;
  template <class F>
  void fields(F& f) {
    f("name", name, {.help = "name", .hashed = false});
    f("manual", manual, {.help = "file", .file = true});
    f("roof", roof, {.help = "roof"});
    f("speed", speed, {.help = "speed"});
    f("seats", seats, {.help = "seats"});
    f("parts", parts, {.help = "parts"});
    f("songs", songs, {.help = "files", .file = true});
  }
};

std::string changes(const std::string& before, const std::string& after) {
  const Cart a = read_config_text<Cart>(before), b = read_config_text<Cart>(after);
  const auto found = changed_fields(a, b);
  CHECK(found.empty() == (config_hash(a) == config_hash(b)));
  return changes_text(found);
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("config: what two configs differ in") {
    CHECK(changes("{}", "{}").empty());
    CHECK(changes("{}", "{name: other, parts: [{name: wheel, drawing: x}]}").empty());
    CHECK(changes("{}", "{roof: true, speed: 0.1, manual: m}") ==
          "manual: '' -> 'm', roof: false -> true, speed: null -> 0.1");
    CHECK(changes("{seats: [1, 2]}", "{seats: [1, 2, 3]}") == "seats: [1, 2] -> [1, 2, 3]");
    CHECK(changes("{}", "{parts: [{name: wheel, spokes: 9}]}") == "parts.0.spokes: 8 -> 9");
    CHECK(changes("{}", "{parts: [sail]}") == "parts.0: wheel -> sail");
    CHECK(changes("{parts: [{name: wheel, spokes: 9}, sail]}", "{parts: [sail]}") ==
          "parts.0: wheel -> sail, parts.1: sail -> nothing");
    CHECK(changes("{}", "{parts: [wheel, sail]}") == "parts.1: nothing -> sail");
    CHECK(changes("{songs: [a]}", "{songs: [b]}") == "songs: ['a'] -> ['b']");
  }

  TEST_CASE("config: files from the directory in which a config was read") {
    Cart c = read_config_text<Cart>(
        "{manual: a/../b, name: a, songs: [x, /y], parts: [{name: wheel, drawing: d}, {name: "
        "wheel}]}");
    make_paths_absolute(c, "/home/me");
    CHECK(c.manual == "/home/me/b");
    CHECK(c.name == "a");
    CHECK(c.songs == std::vector<std::string>{"/home/me/x", "/y"});
    const std::string text = dump_json(c);
    CHECK(text.find(R"("drawing":"/home/me/d")") != std::string::npos);
    CHECK(text.find(R"("drawing":"")") != std::string::npos);
  }
}
