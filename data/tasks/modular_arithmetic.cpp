// Arithmetic modulo m, in four shapes:
//   sum         m digits; the label at every position is the running sum
//   cycle       steps -1, 0, +1 on a ring of m places (tokens 0, 1, 2); the label is the place
//   expression  digits and the operators + - x in turn, usual precedence, then "="; the label there
//               is the value
//   brackets    the same with brackets and signs, drawn recursively for an exact length
// Sources: Delétang et al., "Neural networks and the Chomsky hierarchy", 2022 (arXiv 2207.02098),
// for the generators; Grazzi et al., 2024 (arXiv 2411.12537), for answers told at "=", trained at
// 3 .. 40 and tested at 40 .. 256; Fan et al., 2023 (arXiv 2309.07412), for the sum, trained at 40
// and tested at 500. Expressions have odd lengths: in an odd number of tokens a blank goes before.
#include <algorithm>

#include "core/base/error.h"
#include "data/length_plan.h"
#include "data/task.h"

namespace ls::data {
namespace {
enum class Arithmetic : std::uint8_t { kSum, kCycle, kExpression, kBrackets };
enum class ArithmeticLabels : std::uint8_t { kAll, kLast };
}  // namespace
}  // namespace ls::data

template <>
struct ls::EnumNames<ls::data::Arithmetic> {
  static constexpr std::string_view kKind = "variant";
  static constexpr std::array<std::string_view, 4> kNames = {"sum", "cycle", "expression",
                                                             "brackets"};
};
template <>
struct ls::EnumNames<ls::data::ArithmeticLabels> {
  static constexpr std::string_view kKind = "labels";
  static constexpr std::array<std::string_view, 2> kNames = {"all", "last"};
};

namespace ls::data {
namespace {

/// Tokens of expressions: digits 0 .. m-1, then these.
enum Sign : Index { kPlus, kMinus, kTimes, kOpen, kClose, kEquals, kBlank, kSigns };

Index modulo(Index x, Index m) {
  return ((x % m) + m) % m;
}

/// Value of an expression by recursive descent; signs bind like brackets around a digit.
class Evaluator {
 public:
  Evaluator(std::span<const std::int64_t> tokens, Index modulus) : rest_(tokens), m_(modulus) {}
  Index sum() {
    Index value = product();
    while (!rest_.empty() && (sign() == kPlus || sign() == kMinus)) {
      const bool plus = sign() == kPlus;
      next();
      const Index other = product();
      value = modulo(plus ? value + other : value - other, m_);
    }
    return value;
  }

 private:
  Index product() {
    Index value = factor();
    while (!rest_.empty() && sign() == kTimes) {
      next();
      value = value * factor() % m_;
    }
    return value;
  }
  Index factor() {
    if (sign() == kMinus) {
      next();
      return modulo(-factor(), m_);
    }
    if (sign() == kOpen) {
      next();
      const Index value = sum();
      next();
      return value;
    }
    const Index digit = rest_.front();
    next();
    return digit;
  }
  Index sign() const { return rest_.front() - m_; }
  void next() { rest_ = rest_.subspan(1); }

  std::span<const std::int64_t> rest_;
  Index m_;
};

class ModularArithmetic final : public Task {
 public:
  struct Config {
    Arithmetic variant = Arithmetic::kSum;
    Index modulus = 5;
    ArithmeticLabels labels = ArithmeticLabels::kAll;
    bool times = false;
    LengthGrid lengths{{.length = 40}, {40, 80, 160}};

    template <class F>
    void fields(F& f) {
      f("variant", variant,
        {.help = "running sum, place on a ring, or the value of an expression told at its end"});
      f("modulus", modulus, {.help = "m", .min = 2, .max = 1 << 16});
      f("labels", labels, {.help = "sum and cycle: which positions are to be answered"});
      f("times", times, {.help = "brackets: products too, besides + and -"});
      lengths.fields(f);
      const std::optional<Index> bad =
          lengths.first_length([&](Index t) { return t < (expression() ? 2 : 1); });
      f.check(!bad, "length",
              fmt::format("{} is too short for an expression and '='", bad.value_or(0)));
    }
    bool expression() const {
      return variant == Arithmetic::kExpression || variant == Arithmetic::kBrackets;
    }
  };

  ModularArithmetic(const Config& config, const TaskArgs& args)
      : Task("modular_arithmetic", args), config_(config), m_(config.modulus) {
    info_.classes = m_;
    info_.vocab_in = config.expression()                    ? m_ + kSigns
                     : config.variant == Arithmetic::kCycle ? 3
                                                            : m_;
    info_.metrics = {"tok_acc", "seq_acc"};
    add_slice(Split::kTrain, config.lengths.slice());
    add_test_slices(config.lengths.test_slices());
  }

  void sample(const ExampleKey& key, const ExampleView& out) const override {
    Rng numbers = rng(key);
    if (!config_.expression()) {
      std::ranges::generate(out.tokens, [&] { return numbers.below(info_.vocab_in); });
      if (config_.labels == ArithmeticLabels::kAll) {
        std::ranges::fill(out.labels, 0);
      }
      out.labels.back() = 0;
      follow(out);
      return;
    }
    Index value = 0;
    auto to = out.tokens.begin();
    if (config_.variant == Arithmetic::kExpression) {
      if (key.length % 2 != 0) {
        *to++ = m_ + kBlank;
      }
      value = write_plain(numbers, {to, out.tokens.end() - 1});
    } else {
      value = write_brackets(numbers, {to, out.tokens.end() - 1});
    }
    out.tokens.back() = m_ + kEquals;
    out.labels.back() = value;
  }

  std::vector<Predictor> predictors() const override {
    const auto answer = [this](const ExampleView& in) {
      if (!config_.expression()) {
        follow(in);
        return;
      }
      const auto begin = std::ranges::find_if(in.tokens, [&](Index t) { return t != m_ + kBlank; });
      in.labels.back() = Evaluator({begin, in.tokens.end() - 1}, m_).sum();
    };
    return {{.name = "exact", .exact = true, .answer = answer}};
  }

 private:
  void follow(const ExampleView& out) const {
    Index at = 0;
    for (std::size_t t = 0; t < out.tokens.size(); ++t) {
      const Index step = out.tokens[t] - (config_.variant == Arithmetic::kCycle ? 1 : 0);
      at = modulo(at + step, m_);
      if (out.labels[t] != kIgnore) {
        out.labels[t] = at;
      }
    }
  }

  /// Returns the value: of products summed as they end.
  Index write_plain(Rng& numbers, std::span<std::int64_t> to) const {
    Index sum = 0, product = 0, sign = 1;
    for (std::size_t i = 0; i < to.size(); ++i) {
      if (i % 2 == 1) {
        const Index op = numbers.below(3);
        to[i] = m_ + op;
        if (op != kTimes) {
          sum = modulo(sum + sign * product, m_);
          sign = op == kMinus ? -1 : 1;
        }
        continue;
      }
      to[i] = numbers.below(m_);
      const bool factor = i > 0 && to[i - 1] == m_ + kTimes;
      product = factor ? product * to[i] % m_ : to[i];
    }
    return modulo(sum + sign * product, m_);
  }

  /// The value of what it writes. The longer of two parts is taken in the loop, so that the depth
  /// of calls is at most the logarithm of the length.
  Index write_brackets(Rng& numbers, std::span<std::int64_t> to) const;
  /// d, -d, (d) or (-d). Returns the value.
  Index write_leaf(Rng& numbers, std::span<std::int64_t> to) const {
    const Index digit = numbers.below(m_);
    const std::size_t n = to.size();
    if (n >= 3) {
      to.front() = m_ + kOpen;
      to.back() = m_ + kClose;
    }
    if (n % 2 == 0) {
      to[n / 2 - 1] = m_ + kMinus;
    }
    to[n / 2] = digit;
    return modulo(n % 2 == 0 ? -digit : digit, m_);
  }

  Config config_;
  Index m_;
};

Index ModularArithmetic::write_brackets(Rng& numbers, std::span<std::int64_t> to) const {
  // What is done to the value of the part that is left, from the inside out: op other, or other op.
  struct Outer {
    Index op, other;
    bool left;  // the part is the left operand
  };
  std::vector<Outer> around;
  while (to.size() > 4) {
    const auto n = static_cast<Index>(to.size());
    const Index left = 1 + numbers.below(n - 4);
    const Index op = numbers.below(config_.times ? 3 : 2);
    to.front() = m_ + kOpen;
    to.back() = m_ + kClose;
    to[static_cast<std::size_t>(1 + left)] = m_ + op;
    const auto a = to.subspan(1, static_cast<std::size_t>(left));
    const auto b =
        to.subspan(static_cast<std::size_t>(left + 2), static_cast<std::size_t>(n - 3 - left));
    const bool a_is_long = a.size() >= b.size();
    around.push_back({op, write_brackets(numbers, a_is_long ? b : a), a_is_long});
    to = a_is_long ? a : b;
  }
  Index value = write_leaf(numbers, to);
  for (auto it = around.rbegin(); it != around.rend(); ++it) {
    const Index a = it->left ? value : it->other, b = it->left ? it->other : value;
    value = modulo(it->op == kPlus ? a + b : it->op == kMinus ? a - b : a * b, m_);
  }
  return value;
}

LS_REGISTER(Task, ModularArithmetic, "modular_arithmetic",
            "sums, steps on a ring and expressions modulo a number");

}  // namespace
}  // namespace ls::data
