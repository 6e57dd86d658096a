#include "core/config/pattern.h"

#include <charconv>

#include "core/base/error.h"
#include "core/config/fields.h"

namespace ls {
namespace {

using Kind = ConfigNode::Kind;

class Expander {
 public:
  explicit Expander(ListElements& out) : out_(out) {}

  void run(const ConfigNode& node, bool pattern) {
    if (node.kind == Kind::kScalar && node.text.starts_with('[')) {
      // The whole expression was quoted.
      try {
        out_.held.push_back(parse_yaml(node.text, std::make_shared<const std::string>("")));
      } catch (const Error& e) {
        return fail(node.place, fmt::format("in {}{}", node.describe(), e.message()));
      }
      ConfigNode& list = out_.held.back();
      set_places(list, node.place);
      return run(list, pattern);
    }
    if (pattern) {
      return joined(node);
    }
    if (node.kind != Kind::kList) {
      return fail(node.place, fmt::format("a list is expected, got {}", node.describe()));
    }
    for (const ConfigNode& item : node.items) {
      out_.nodes.push_back(&item);
    }
    repeat(0, node.repeat, node.place);
  }

 private:
  void fail(const Place& place, std::string what) {
    if (out_.fault.empty()) {
      out_.fault = std::move(what);
      out_.fault_place = place;
    }
  }

  void repeat(std::size_t begin, Index times, const Place& place) {
    const std::size_t n = out_.nodes.size() - begin;
    if (n > 0 && times > kMaxConfigNodes / static_cast<Index>(n)) {
      return fail(place, fmt::format("a list may have at most {} elements", kMaxConfigNodes));
    }
    out_.nodes.reserve(begin + n * static_cast<std::size_t>(times));
    for (Index t = 1; t < times; ++t) {
      for (std::size_t i = 0; i < n; ++i) {
        out_.nodes.push_back(out_.nodes[begin + i]);
      }
    }
    if (static_cast<Index>(out_.nodes.size()) > kMaxConfigNodes) {
      fail(place, fmt::format("a list may have at most {} elements", kMaxConfigNodes));
    }
  }

  void joined(const ConfigNode& node) {
    const std::size_t begin = out_.nodes.size();
    if (!out_.fault.empty()) {
      return;
    }
    switch (node.kind) {
      case Kind::kNull:
        return fail(node.place, "a name or a list is expected, got nothing");
      case Kind::kMap:
        out_.nodes.push_back(&node);
        return;
      case Kind::kList:
        for (const ConfigNode& item : node.items) {
          joined(item);
        }
        return repeat(begin, node.repeat, node.place);
      case Kind::kScalar:
        return name(node);
    }
  }

  // A name, or name * n.
  void name(const ConfigNode& node) {
    const std::string& text = node.text;
    const std::size_t star = text.find('*');
    const std::string stem = text.substr(0, text.find_last_not_of(" \t", star - 1) + 1);
    bool good = !stem.empty() && star != 0;
    for (const char c : stem) {
      good = good && (std::isalnum(static_cast<unsigned char>(c)) ||
                      std::string_view("_.:/+-").find(c) != std::string_view::npos);
    }
    if (!good) {
      return fail(node.place,
                  fmt::format("a name, name * n, [a, b, ...] or [a, b, ...] * n is expected, "
                              "got {}",
                              node.describe()));
    }
    if (star == std::string::npos) {
      out_.nodes.push_back(&node);
      return;
    }
    const std::size_t digits = std::min(text.find_first_not_of(" \t", star + 1), text.size());
    const char* end = text.data() + text.size();
    Index n = 0;
    const auto parsed = std::from_chars(text.data() + digits, end, n);
    if (parsed.ec != std::errc() || parsed.ptr != end || n < 1) {
      return fail(node.place,
                  fmt::format("a name is repeated by a whole number of at least 1, as in "
                              "{} * 3, got {}",
                              stem, node.describe()));
    }
    out_.held.push_back(node);
    out_.held.back().text = stem;
    out_.nodes.push_back(&out_.held.back());
    repeat(out_.nodes.size() - 1, n, node.place);
  }

  ListElements& out_;
};

}  // namespace

ListElements list_elements(const ConfigNode& node, bool pattern) {
  ListElements out;
  Expander(out).run(node, pattern);
  return out;
}

std::vector<std::string> parse_pattern(std::string_view expression) {
  const auto source = std::make_shared<const std::string>(fmt::format("pattern '{}'", expression));
  const ConfigNode node = parse_yaml(expression, source);
  const ListElements elements = list_elements(node, true);
  LS_CHECK(elements.fault.empty(), kConfig, "{}: {}", elements.fault_place.text(), elements.fault);
  std::vector<std::string> names;
  for (const ConfigNode* n : elements.nodes) {
    LS_CHECK(n->kind == Kind::kScalar, kConfig, "{}: a name is expected, got {}", n->place.text(),
             n->describe());
    names.push_back(n->text);
  }
  return names;
}

}  // namespace ls
