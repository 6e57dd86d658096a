// Text to tree: the only source that knows yaml-cpp. The parser's events are used rather than its
// nodes, since nodes lose duplicate keys and the places of keys.
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <sstream>

#include "core/base/error.h"
#include "core/config/node.h"

namespace ls {
namespace {

struct LineColumn {
  int line, column;  // from 0, columns in bytes
  auto operator<=>(const LineColumn&) const = default;
};

// Turns byte offsets and byte columns of one text into places.
class Locator {
 public:
  Locator(std::string_view text, std::shared_ptr<const std::string> source)
      : text_(text), source_(std::move(source)) {
    starts_.push_back(0);
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '\n') {
        starts_.push_back(i + 1);
      }
    }
  }
  LineColumn at(std::size_t offset) const {
    const auto it = std::upper_bound(starts_.begin(), starts_.end(), offset) - 1;
    return {static_cast<int>(it - starts_.begin()), static_cast<int>(offset - *it)};
  }
  Place place(LineColumn p) const {
    Place out{source_, p.line + 1, p.column + 1};
    if (p.line >= 0 && p.line < static_cast<int>(starts_.size())) {
      const std::size_t begin = starts_[static_cast<std::size_t>(p.line)];
      const std::size_t end =
          std::min(begin + static_cast<std::size_t>(std::max(p.column, 0)), text_.size());
      for (std::size_t i = begin; i < end; ++i) {
        out.column -= (static_cast<unsigned char>(text_[i]) & 0xc0u) == 0x80u;
      }
    }
    return out;
  }
  Place place(const YAML::Mark& m) const { return place(LineColumn{m.line, m.column}); }
  [[noreturn]] void fail(const Place& at, const std::string& what) const {
    LS_FAIL(kConfig, "{}: {}", at.text(), what);
  }

 private:
  std::string_view text_;
  std::shared_ptr<const std::string> source_;
  std::vector<std::size_t> starts_;
};

// Length of the UTF-8 character at the start of `s`, 0 if there is none.
std::size_t utf8_length(std::string_view s) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned char c = byte(0);
  const std::size_t n = c < 0x80         ? 1
                        : (c >> 5) == 6  ? 2
                        : (c >> 4) == 14 ? 3
                        : (c >> 3) == 30 ? 4
                                         : 0;
  if (n == 0 || n > s.size()) {
    return 0;
  }
  std::uint32_t code = n == 1 ? c : c & (0x7fu >> n);
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

void check_text(std::string_view text, const Locator& where) {
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t n = utf8_length(text.substr(i));
    const auto c = static_cast<unsigned char>(text[i]);
    if (n == 0 || (c < 0x20 && c != '\n' && c != '\r' && c != '\t') || c == 0x7f) {
      where.fail(
          where.place(where.at(i)),
          fmt::format("byte 0x{:02x} does not belong in a text file; a config is UTF-8 text", c));
    }
    i += n;
  }
}

// YAML has no `[a, b] * 3`. This finds each repetition behind a flow list, blanks it out so that
// the parser sees the list alone (and lines and columns stay right), and remembers the factor under
// the place of the opening bracket. It follows just enough of YAML to know brackets from text.
class RepeatFinder {
 public:
  RepeatFinder(std::string& text, const Locator& where) : text_(text), where_(where) {}

  std::map<LineColumn, Index> run() {
    while (pos_ < text_.size()) {
      line_start_ = pos_;
      const std::size_t body = skip(pos_, " ");
      const int indent = static_cast<int>(body - line_start_);
      const bool blank = body >= text_.size() || text_[body] == '\n' || text_[body] == '\r';
      if (block_indent_ >= 0 && (blank || indent > block_indent_)) {
        next_line();
        continue;
      }
      block_indent_ = -1;
      pos_ = body;
      if (at(body) == '\t' &&
          std::string_view("\r\n#").find(at(skip(body, " \t"))) == std::string_view::npos) {
        where_.fail(where_.place(where_.at(body)), "a tab in the indentation; YAML wants spaces");
      }
      while (value(indent)) {
      }
      next_line();
    }
    return std::move(found_);
  }

 private:
  char at(std::size_t i) const { return i < text_.size() ? text_[i] : '\n'; }
  bool space_at(std::size_t i) const {
    const char c = at(i);
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
  }
  std::size_t skip(std::size_t i, std::string_view set) const {
    const std::size_t end = text_.find_first_not_of(set, i);
    return end == std::string::npos ? text_.size() : end;
  }
  void next_line() {
    const std::size_t end = text_.find('\n', pos_);
    pos_ = end == std::string::npos ? text_.size() : end + 1;
  }

  // From a place of block context where a value may begin to the next such place; false if the line
  // has no other.
  bool value(int indent) {
    pos_ = skip(pos_, " \t");
    const std::size_t begin = pos_;
    properties();
    const char c = at(pos_);
    if (c == '\n') {
      return false;
    }
    if ((c == '-' || c == '?' || c == ':') && space_at(pos_ + 1)) {
      ++pos_;
      return true;
    }
    if (c == '|' || c == '>') {
      block_indent_ = indent;
      return false;
    }
    if (c == '\'' || c == '"') {
      quoted();
    } else if (c == '[' || c == '{') {
      flow(begin);
    } else if (c == '#') {
      return false;
    }
    for (; at(pos_) != '\n'; ++pos_) {
      if (text_[pos_] == ':' && space_at(pos_ + 1)) {
        ++pos_;
        return true;
      }
      if (text_[pos_] == '#' && pos_ > line_start_ && space_at(pos_ - 1)) {
        return false;
      }
    }
    return false;
  }

  void quoted() {
    const std::size_t begin = pos_;
    const char quote = text_[pos_++];
    for (; pos_ < text_.size(); ++pos_) {
      if (text_[pos_] == '\\' && quote == '"') {
        ++pos_;
      } else if (text_[pos_] == quote) {
        if (quote == '\'' && at(pos_ + 1) == quote) {
          ++pos_;
          continue;
        }
        ++pos_;
        return;
      }
    }
    where_.fail(where_.place(where_.at(begin)), "not valid YAML: this quote is never closed");
  }

  // Anchors and tags before a value; the parser counts them as its beginning.
  void properties() {
    while (at(pos_) == '&' || at(pos_) == '!') {
      while (!space_at(pos_) && std::string_view(",]}").find(at(pos_)) == std::string_view::npos) {
        ++pos_;
      }
      pos_ = skip(pos_, " \t");
    }
  }

  // From an opening bracket to behind its closing one. `begin`: the same with its properties.
  void flow(std::size_t begin) {
    struct Open {
      std::size_t begin, bracket;
    };
    std::vector<Open> open;
    bool token_start = true, after_quotes = false;
    while (pos_ < text_.size()) {
      if (token_start && !open.empty()) {
        pos_ = skip(pos_, " \t\r\n");
        begin = pos_;
        properties();
      }
      const char c = at(pos_);
      const bool quotes = after_quotes;
      after_quotes = after_quotes && space_at(pos_);
      if (c == '[' || c == '{') {
        open.push_back({begin, pos_++});
        token_start = true;
      } else if (c == ']' || c == '}') {
        const Open last = open.back();
        if ((text_[last.bracket] == '[') != (c == ']')) {
          where_.fail(where_.place(where_.at(pos_)),
                      fmt::format("not valid YAML: '{}' stands where '{}' from line {} must close",
                                  c, text_[last.bracket], where_.at(last.bracket).line + 1));
        }
        open.pop_back();
        ++pos_;
        repetition(last.begin, text_[last.bracket] == '[');
        if (open.empty()) {
          return;
        }
        token_start = false;
      } else if ((c == '\'' || c == '"') && token_start) {
        quoted();
        token_start = false;
        after_quotes = true;
      } else if (c == '#' && space_at(pos_ - 1)) {
        pos_ = std::min(text_.find('\n', pos_), text_.size());
      } else {
        if (!space_at(pos_)) {
          token_start = c == ',' || (c == ':' && (quotes || space_at(pos_ + 1))) ||
                        (c == '?' && token_start && space_at(pos_ + 1));
        }
        ++pos_;
      }
    }
    where_.fail(
        where_.place(where_.at(open.back().bracket)),
        fmt::format("not valid YAML: this '{}' is never closed", text_[open.back().bracket]));
  }

  // Behind a closing bracket.
  void repetition(std::size_t begin, bool list) {
    Index factor = 1;
    for (std::size_t star = skip(pos_, " \t"); at(star) == '*'; star = skip(pos_, " \t")) {
      const std::size_t digits = skip(star + 1, " \t");
      const std::size_t end = skip(digits, "0123456789");
      const std::size_t after = skip(end, " \t");
      Index n = 0;
      const auto parsed = std::from_chars(text_.data() + digits, text_.data() + end, n);
      const bool ends =
          after > end || std::string_view("\r\n,]}*").find(at(end)) != std::string_view::npos;
      if (end == digits || !ends || parsed.ec != std::errc() || n < 1 || !list) {
        where_.fail(where_.place(where_.at(star)),
                    list ? "a list is repeated by a whole number of at least 1, as in "
                           "[a, b] * 3"
                         : "only a list can be repeated, as in [a, b] * 3");
      }
      if (n > kMaxConfigNodes || factor * n > kMaxConfigNodes) {
        where_.fail(where_.place(where_.at(star)),
                    fmt::format("a list may have at most {} elements", kMaxConfigNodes));
      }
      factor *= n;
      for (std::size_t i = star; i < end; ++i) {
        text_[i] = ' ';
      }
      pos_ = end;
    }
    if (factor != 1) {
      found_[where_.at(begin)] = factor;
    }
  }

  std::string& text_;
  const Locator& where_;
  std::size_t pos_ = 0, line_start_ = 0;
  int block_indent_ = -1;  // of the line that opened a block scalar
  std::map<LineColumn, Index> found_;
};

class TreeBuilder final : public YAML::EventHandler {
 public:
  TreeBuilder(const Locator& where, std::map<LineColumn, Index> repeats)
      : where_(where), repeats_(std::move(repeats)) {}

  ConfigNode take() {
    if (!repeats_.empty()) {
      where_.fail(where_.place(repeats_.begin()->first),
                  "this text looks like a repeated list; quote it");
    }
    return std::move(root_);
  }
  bool any() const { return documents_ > 0; }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1) {
      where_.fail(where_.place(mark), "a second YAML document begins; a config is one document");
    }
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    ConfigNode node;
    node.place = where_.place(mark);
    add(std::move(node), anchor);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto it = anchors_.find(anchor);
    if (it == anchors_.end()) {
      where_.fail(where_.place(mark), "this alias lies inside its own anchor");
    }
    count(size(it->second), where_.place(mark));
    add(it->second, 0);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    check_tag(mark, tag);
    ConfigNode node;
    node.kind = ConfigNode::Kind::kScalar;
    node.quoted = tag == "!";
    node.text = value;
    node.place = where_.place(mark);
    add(std::move(node), anchor);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(ConfigNode::Kind::kList, mark, tag, anchor);
    if (const auto it = repeats_.find({mark.line, mark.column}); it != repeats_.end()) {
      stack_.back().node.repeat = it->second;
      repeats_.erase(it);
    }
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(ConfigNode::Kind::kMap, mark, tag, anchor);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Open {
    ConfigNode node;
    YAML::anchor_t anchor;
    bool key_next;
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
      where_.fail(where_.place(mark), fmt::format("YAML tags are not used here: '{}'", tag));
    }
  }
  void open(ConfigNode::Kind kind, const YAML::Mark& mark, const std::string& tag,
            YAML::anchor_t anchor) {
    check_tag(mark, tag);
    const Place place = where_.place(mark);
    if (!stack_.empty() && stack_.back().key_next) {
      where_.fail(place, fmt::format("a key must be plain text, this is a {}",
                                     kind == ConfigNode::Kind::kMap ? "map" : "list"));
    }
    Open o{{}, anchor, kind == ConfigNode::Kind::kMap};
    o.node.kind = kind;
    o.node.place = place;
    stack_.push_back(std::move(o));
  }
  void close() {
    Open o = std::move(stack_.back());
    stack_.pop_back();
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
      if (parent.node.kind == ConfigNode::Kind::kMap) {
        if (node.kind == ConfigNode::Kind::kNull) {
          node.place = parent.node.keys.back().place;  // an absent value has no place of its own
        }
        parent.key_next = true;
      }
      parent.node.items.push_back(std::move(node));
      return;
    }
    if (node.kind != ConfigNode::Kind::kScalar) {
      where_.fail(node.place, "a key must be plain text, this is " + node.describe());
    }
    if (const int first = parent.node.find(node.text); first >= 0) {
      const Place& at = parent.node.keys[static_cast<std::size_t>(first)].place;
      where_.fail(node.place,
                  fmt::format("'{}' is already given in line {}, column {}; a key may be "
                              "written once",
                              node.text, at.line, at.column));
    }
    if (parent.node.keys.empty()) {
      parent.node.place = node.place;  // a block map begins at its first key
    }
    parent.node.keys.push_back({node.text, node.place});
    parent.key_next = false;
  }

  const Locator& where_;
  std::map<LineColumn, Index> repeats_;
  std::vector<Open> stack_;
  std::map<YAML::anchor_t, ConfigNode> anchors_;
  ConfigNode root_;
  Index nodes_ = 0;
  int documents_ = 0;
};

}  // namespace

ConfigNode parse_yaml(std::string_view text, const std::shared_ptr<const std::string>& source) {
  if (text.starts_with("\xef\xbb\xbf")) {
    text.remove_prefix(3);
  }
  const Locator where(text, source);
  check_text(text, where);
  std::string plain(text);
  TreeBuilder builder(where, RepeatFinder(plain, where).run());
  std::istringstream stream(plain);
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& e) {
    if (e.mark.is_null()) {
      LS_FAIL(kConfig, "{}: not valid YAML: {}", *source, e.msg);
    }
    where.fail(where.place(e.mark), "not valid YAML: " + e.msg);
  }
  ConfigNode root = builder.take();
  if (!builder.any()) {
    root.place = Place{source, 1, 1};
  }
  return root;
}

}  // namespace ls
