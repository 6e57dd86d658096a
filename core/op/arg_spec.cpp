#include "core/op/arg_spec.h"

#include <algorithm>
#include <charconv>

#include "core/base/error.h"

namespace ls {
namespace {

bool starts_symbol(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
}

std::string_view trim(std::string_view s) {
  while (!s.empty() && s.front() == ' ') {
    s.remove_prefix(1);
  }
  while (!s.empty() && s.back() == ' ') {
    s.remove_suffix(1);
  }
  return s;
}

bool is_symbol(std::string_view text) {
  return !text.empty() && starts_symbol(text[0]) &&
         std::all_of(text.begin(), text.end(),
                     [](char c) { return starts_symbol(c) || (c >= '0' && c <= '9'); });
}

int place_of(std::string_view symbol, std::vector<std::string>& symbols) {
  const auto found = std::find(symbols.begin(), symbols.end(), symbol);
  if (found != symbols.end()) {
    return static_cast<int>(found - symbols.begin());
  }
  symbols.emplace_back(symbol);
  return static_cast<int>(symbols.size()) - 1;
}

/// "4*H" with its sign. @returns false where it is no product of symbols and integers
bool read_term(std::string_view text, Index sign, std::vector<std::string>& symbols,
               Axis::Term& term) {
  term.factor = sign;
  while (true) {
    const auto star = text.find('*');
    const std::string_view factor = text.substr(0, star);
    Index n = 0;
    const char* const end = factor.data() + factor.size();
    if (is_symbol(factor)) {
      term.symbols.push_back(place_of(factor, symbols));
    } else if (const auto read = std::from_chars(factor.data(), end, n);
               read.ec == std::errc() && read.ptr == end && n >= 0) {
      term.factor *= n;
    } else {
      return false;
    }
    if (star == std::string_view::npos) {
      return true;
    }
    text.remove_prefix(star + 1);
  }
}

/// "W-1", "4*H", "T". @returns false where it is no sum of such products
bool read_axis(std::string_view text, std::vector<std::string>& symbols, Axis& axis) {
  axis.text = std::string(text);
  Index sign = 1;
  while (true) {
    const auto end = text.find_first_of("+-");
    if (!read_term(text.substr(0, end), sign, symbols, axis.terms.emplace_back())) {
      return false;
    }
    if (end == std::string_view::npos) {
      break;
    }
    sign = text[end] == '-' ? -1 : 1;
    text.remove_prefix(end + 1);
  }
  axis.symbol = is_symbol(axis.text) ? axis.terms[0].symbols[0] : -1;
  return true;
}

ArgSpec parse_arg(std::string_view text, const std::string& op, std::vector<std::string>& symbols) {
  ArgSpec arg;
  arg.text = std::string(text);
  const auto bad = [&](const char* why) {
    LS_FAIL(kInternal, "op {}: argument '{}' of the contract: {}", op, arg.text, why);
  };
  if (text.back() == '?') {
    arg.optional = true;
    text.remove_suffix(1);
  }
  const auto open = text.find('[');
  const auto close = text.find(']');
  if (open == std::string_view::npos || close == std::string_view::npos || close < open) {
    bad("expected name[axes]");
  }
  arg.name = std::string(text.substr(0, open));
  std::string_view axes = text.substr(open + 1, close - open - 1);
  std::string_view type = text.substr(close + 1);
  if (!type.empty() && type.front() != ':') {
    bad("expected :dtype after the brackets");
  }
  type.remove_prefix(type.empty() ? 0 : 1);
  if (type == "acc") {
    arg.type = ArgSpec::Type::kAcc;
  } else if (type == "any") {
    arg.type = ArgSpec::Type::kAny;
  } else if (!type.empty()) {
    arg.type = ArgSpec::Type::kExact;
    arg.exact = parse_enum<DType>(type);
  }
  while (!axes.empty()) {
    const auto comma = axes.find(',');
    const std::string_view axis = trim(axes.substr(0, comma));
    axes = comma == std::string_view::npos ? std::string_view() : axes.substr(comma + 1);
    if (axis == "...") {
      if (arg.ellipsis || !arg.axes.empty()) {
        bad("`...` stands first");
      }
      arg.ellipsis = true;
    } else if (axis.empty() || axis.find_first_of("[] ") != std::string_view::npos) {
      bad("expected axes between commas, and a bracket that closes before the next argument");
    } else if (!read_axis(axis, symbols, arg.axes.emplace_back())) {
      bad("an axis is a sum of products of symbols and integers, such as W-1 or 4*H");
    }
  }
  return arg;
}

}  // namespace

DType ArgSpec::dtype(DType t) const {
  switch (type) {
    case Type::kAcc:
      return acc_dtype(t);
    case Type::kExact:
      return exact;
    default:
      return t;
  }
}

std::vector<ArgSpec> parse_contract(std::string_view contract, const std::string& op,
                                    std::vector<std::string>& symbols) {
  std::vector<ArgSpec> args;
  std::size_t i = 0;
  while (i < contract.size()) {
    if (contract[i] == ' ') {
      ++i;
      continue;
    }
    std::size_t j = i;
    int depth = 0;
    while (j < contract.size() && (depth > 0 || contract[j] != ' ')) {
      depth += int(contract[j] == '[') - int(contract[j] == ']');
      ++j;
    }
    args.push_back(parse_arg(contract.substr(i, j - i), op, symbols));
    i = j;
  }
  return args;
}

int index_of(const std::vector<ArgSpec>& args, std::string_view name) {
  const auto found = std::find_if(args.begin(), args.end(),
                                  [name](const ArgSpec& arg) { return arg.name == name; });
  return found == args.end() ? -1 : static_cast<int>(found - args.begin());
}

Index Bindings::at(std::string_view symbol) const {
  const auto found = std::find(symbols_->begin(), symbols_->end(), symbol);
  return found == symbols_->end() ? kUnbound : values_[found - symbols_->begin()];
}

Index Bindings::operator[](std::string_view symbol) const {
  const Index value = at(symbol);
  LS_CHECK(value != kUnbound, kInternal, "axis symbol {} is not bound", symbol);
  return value;
}

void Bindings::set(std::string_view symbol, Index value) {
  const auto found = std::find(symbols_->begin(), symbols_->end(), symbol);
  LS_CHECK(found != symbols_->end(), kInternal, "the contract has no axis symbol {} to bind",
           symbol);
  bind(static_cast<int>(found - symbols_->begin()), value);
}

bool Bindings::bind(int symbol, Index value) {
  Index& own = values_[static_cast<std::size_t>(symbol)];
  if (own == kUnbound) {
    own = value;
  }
  return own == value;
}

bool Bindings::dropped(std::string_view name) const {
  return std::find(dropped_.begin(), dropped_.end(), name) != dropped_.end();
}

std::optional<Index> Bindings::evaluate(const Axis& axis) const {
  Index sum = 0;
  for (const Axis::Term& term : axis.terms) {
    Index product = term.factor;
    for (const int symbol : term.symbols) {
      const Index value = values_[static_cast<std::size_t>(symbol)];
      if (value == kUnbound) {
        return std::nullopt;
      }
      product *= value;
    }
    sum += product;
  }
  return sum;
}

}  // namespace ls
