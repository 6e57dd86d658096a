// Text to tree: the only source that knows yaml-cpp. The parser's events are used rather than its
// nodes, since these say which list is still open where a text goes wrong.
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "core/config/node.h"

namespace ls {
namespace {

using Kind = ConfigNode::Kind;

// Turns bytes of one text into places.
class Locator {
 public:
  Locator(std::string_view text, std::shared_ptr<const std::string> source)
      : text_(text), source_(std::move(source)) {}
  Place place(const YAML::Mark& m) const {
    const std::size_t end = std::min(offset(m), text_.size());
    return place(m.line, end - std::min(end, static_cast<std::size_t>(m.column)), end);
  }
  Place place(std::size_t offset) const {
    const std::string_view before = text_.substr(0, offset);
    return place(std::count(before.begin(), before.end(), '\n'), before.rfind('\n') + 1, offset);
  }
  static std::size_t offset(const YAML::Mark& m) {
    return static_cast<std::size_t>(std::max(m.pos, 0));
  }
  char at(std::size_t i) const { return i < text_.size() ? text_[i] : '\n'; }
  std::string_view text() const { return text_; }
  // `at`: a mark or an offset.
  template <class At>
  [[noreturn]] void fail(const At& at, const std::string& what) const {
    LS_FAIL(kConfig, "{}: {}", place(at).text(), what);
  }
  Place place(const Place& p) const { return p; }

 private:
  // Columns count characters: bytes that do not continue one.
  Place place(std::ptrdiff_t line, std::size_t begin, std::size_t end) const {
    const std::string_view before = text_.substr(begin, end - begin);
    const auto starts = std::count_if(before.begin(), before.end(), [](char c) {
      return (static_cast<unsigned char>(c) & 0xc0u) != 0x80u;
    });
    return {source_, static_cast<int>(line) + 1, static_cast<int>(starts) + 1};
  }
  std::string_view text_;
  std::shared_ptr<const std::string> source_;
};

// Length of the UTF-8 character at the start of `s`, 0 if there is none.
std::size_t utf8_length(std::string_view s) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(s[i]); };
  const auto lead = static_cast<unsigned char>(~byte(0));
  const auto ones = static_cast<std::size_t>(__builtin_clz(static_cast<unsigned>(lead) << 24 | 1));
  const std::size_t n = ones == 0 ? 1 : ones;
  if (ones == 1 || n > 4 || n > s.size()) {
    return 0;
  }
  std::uint32_t code = n == 1 ? byte(0) : byte(0) & (0x7fu >> n);
  for (std::size_t i = 1; i < n; ++i) {
    if ((byte(i) & 0xc0u) != 0x80u) {
      return 0;
    }
    code = (code << 6) | (byte(i) & 0x3fu);
  }
  constexpr std::uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xd800 && code < 0xe000;
  return code < kLeast[n] || code > 0x10ffff || surrogate ? 0 : n;
}

void check_text(const Locator& where) {
  const std::string_view text = where.text();
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t n = utf8_length(text.substr(i));
    const auto c = static_cast<unsigned char>(text[i]);
    if (n == 0 || (c < 0x20 && c != '\n' && c != '\r' && c != '\t')) {
      where.fail(i, fmt::format(
                        "byte 0x{:02x} does not belong in a text file; a config is UTF-8 text", c));
    }
    i += n;
  }
}

class TreeBuilder final : public YAML::EventHandler {
 public:
  explicit TreeBuilder(const Locator& where) : where_(where) {
    root_.place = where.place(std::size_t{0});
  }

  ConfigNode take() { return std::move(root_); }

  // What the parser's exception means.
  [[noreturn]] void explain(const YAML::Exception& e) const {
    const std::size_t pos = Locator::offset(e.mark);
    const std::size_t line = where_.text().substr(0, pos).rfind('\n') + 1;
    const std::size_t body = where_.text().find_first_not_of(' ', line);
    if (where_.at(body) == '\t') {
      where_.fail(body, "a tab in the indentation; YAML wants spaces");
    }
    const bool deep = e.msg == YAML::ErrorMsg::BAD_FILE;  // what it says of too many brackets
    const std::string no_anchor = "the referenced anchor is not defined";  // 0.8 adds its name
    std::string what = "not valid YAML: " + (deep ? "lists and maps nest too deeply"
                                             : e.msg.starts_with(no_anchor) ? no_anchor
                                                                            : e.msg);
    const std::size_t star = where_.at(pos) == '*' ? pos : pos - std::min<std::size_t>(pos, 1);
    if (where_.at(star) == '*' && std::string_view(" 0123456789").find(where_.at(star + 1)) <= 10) {
      what += kRepeatHint;
    } else if (!stack_.empty() && stack_.back().flow) {
      const Place& begin = stack_.back().node.place;
      what += fmt::format("; the {} that begins at line {}, column {} is not closed",
                          stack_.back().node.kind == Kind::kList ? "list" : "map", begin.line,
                          begin.column);
    }
    where_.fail(e.mark, what);
  }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1) {
      where_.fail(mark, "a second YAML document begins; a config is one document");
    }
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    add({.place = where_.place(mark)}, anchor);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto it = anchors_.find(anchor);
    if (it == anchors_.end()) {
      where_.fail(mark, "this alias lies inside its own anchor");
    }
    count(size(it->second) - 1, where_.place(mark));
    add(it->second, 0);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    check_tag(mark, tag);
    check_quotes(Locator::offset(mark));
    add({.kind = Kind::kScalar, .quoted = tag == "!", .text = value, .place = where_.place(mark)},
        anchor);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value style) override {
    open(Kind::kList, mark, tag, anchor, style);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value style) override {
    open(Kind::kMap, mark, tag, anchor, style);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Open {
    ConfigNode node;
    YAML::anchor_t anchor;
    bool key_next, flow;
  };

  static Index size(const ConfigNode& node) {
    Index n = 1;
    for (const ConfigNode& item : node.items) {
      n += size(item);
    }
    return n;
  }
  void count(Index n, const Place& at) {
    nodes_ += n;
    if (nodes_ > kMaxConfigNodes) {
      where_.fail(at, fmt::format("more than {} values", kMaxConfigNodes));
    }
  }
  void check_tag(const YAML::Mark& mark, const std::string& tag) {
    if (!tag.empty() && tag != "?" && tag != "!") {
      where_.fail(mark, fmt::format("YAML tags are not used here: '{}'", tag));
    }
  }
  // The parser lets a text end inside quotes. `i`: where a scalar with its anchor begins.
  void check_quotes(std::size_t i) const {
    while (where_.at(i) == '&' || where_.at(i) == '!') {
      i = where_.text().find_first_not_of(" \t\r\n", where_.text().find_first_of(" \t\r\n", i));
    }
    const char quote = where_.at(i);
    if (quote != '\'' && quote != '"') {
      return;
    }
    const std::size_t begin = i++;
    while (i < where_.text().size() &&
           (where_.at(i) != quote || (quote == '\'' && where_.at(i + 1) == quote))) {
      i += where_.at(i) == quote || (where_.at(i) == '\\' && quote == '"') ? 2 : 1;
    }
    if (i >= where_.text().size()) {
      where_.fail(begin, "not valid YAML: this quote is never closed");
    }
  }
  void open(Kind kind, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
            YAML::EmitterStyle::value style) {
    check_tag(mark, tag);
    stack_.push_back({{.kind = kind, .place = where_.place(mark)},
                      anchor,
                      kind == Kind::kMap,
                      style == YAML::EmitterStyle::Flow});
  }
  void close() {
    Open o = std::move(stack_.back());
    stack_.pop_back();
    if (!o.node.keys.empty()) {
      o.node.place = o.node.keys[0].place;  // a block map begins at its first key
    }
    add(std::move(o.node), o.anchor);
  }
  void add(ConfigNode node, YAML::anchor_t anchor) {
    count(1, node.place);
    if (anchor != 0) {
      anchors_[anchor] = node;
    }
    if (stack_.empty()) {
      root_ = std::move(node);
      return;
    }
    Open& parent = stack_.back();
    if (!parent.key_next) {
      if (parent.node.kind == Kind::kMap) {
        if (node.kind == Kind::kNull) {
          node.place = parent.node.keys.back().place;  // an absent value has no place of its own
        }
        parent.key_next = true;
      }
      parent.node.items.push_back(std::move(node));
      return;
    }
    if (node.kind != Kind::kScalar) {
      where_.fail(node.place, "a key must be plain text, this is " + node.describe());
    }
    for (const ConfigNode::Key& key : parent.node.keys) {
      if (key.text == node.text) {
        where_.fail(node.place,
                    fmt::format("'{}' is already given in line {}, column {}; a key may be "
                                "written once",
                                node.text, key.place.line, key.place.column));
      }
    }
    parent.node.keys.push_back({node.text, node.place});
    parent.key_next = false;
  }

  const Locator& where_;
  std::vector<Open> stack_;
  std::map<YAML::anchor_t, ConfigNode> anchors_;
  ConfigNode root_;
  Index nodes_ = 0;
  int documents_ = 0;
};

}  // namespace

std::string Place::text() const {
  return line == 0 ? *source : fmt::format("{}:{}:{}", *source, line, column);
}

const ConfigNode* ConfigNode::find(std::string_view key) const {
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (keys[i].text == key) {
      return &items[i];
    }
  }
  return nullptr;
}

std::string ConfigNode::describe() const {
  if (kind != Kind::kScalar) {
    constexpr const char* kKinds[] = {"nothing", "text", "a list", "a map"};
    return kKinds[static_cast<int>(kind)];
  }
  const std::string shown = text.size() <= 60 ? text : text.substr(0, 57) + "...";
  return quoted ? fmt::format("the text \"{}\"", shown) : fmt::format("'{}'", shown);
}

ConfigNode parse_yaml(std::string_view text, const std::shared_ptr<const std::string>& source) {
  if (text.starts_with("\xef\xbb\xbf")) {
    text.remove_prefix(3);
  }
  const Locator where(text, source);
  check_text(where);
  TreeBuilder builder(where);
  std::istringstream stream{std::string(text)};
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& e) {
    builder.explain(e);
  }
  return builder.take();
}

}  // namespace ls
