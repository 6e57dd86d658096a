#pragma once
// How the contract of an op is read. A contract lists arguments as name[axes]dtype?:
//   axes   symbols bound at first sight (B, T), integers, `...` for any leading axes, or sums and
//          products of symbols and integers (W-1, 4*H) that are checked, not bound
//   dtype  nothing: the op's float type, the same for all such arguments; :acc f32, or f64 when the
//          op's type is f64; :i64, :f32, ... exactly that; :any unchecked
//   ?      after the brackets or dtype: may be absent
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor/shape.h"

namespace ls {

/// One axis of an argument: a sum of products of symbols and integers.
struct Axis {
  struct Term {
    Index factor = 1;
    std::vector<int> symbols;  ///< places among the op's symbols
  };
  std::string text;  ///< as written
  std::vector<Term> terms;
  int symbol = -1;  ///< of an axis that is one symbol and nothing else

  friend bool operator==(const Axis& a, const Axis& b) { return a.text == b.text; }
  friend bool operator==(const Axis& a, std::string_view text) { return a.text == text; }
};

/// One argument of a contract, and what the op's declaration says of it.
struct ArgSpec {
  enum class Type : std::uint8_t { kFloat, kAcc, kExact, kAny };
  std::string name;
  std::vector<Axis> axes;  ///< without the ellipsis
  bool ellipsis = false;
  Type type = Type::kFloat;
  DType exact = DType::kF32;  ///< for kExact
  bool optional = false;
  std::string text;  ///< as written

  bool saved = false;           ///< kept for the backward pass
  bool differentiable = false;  ///< of an input: has a gradient; of an output: one may arrive
  bool grad_is_acc = false;     ///< of an input: the gradient has the acc type
  /// Of an output: the input in whose memory it may be made, and the input with its new rows, -1
  /// where there is none. See OpBuilder::continues.
  int continues = -1, fresh = -1;

  /// In a call whose float type is t; kAny is t.
  DType dtype(DType t) const;
  DType grad_dtype(DType t) const { return grad_is_acc ? acc_dtype(t) : dtype(t); }
};

/// Reads a list of arguments; symbols that are new are appended to `symbols`.
/// @throws Error(Internal) naming op and argument
std::vector<ArgSpec> parse_contract(std::string_view contract, const std::string& op,
                                    std::vector<std::string>& symbols);
/// Place of the argument of that name, -1 if there is none.
int index_of(const std::vector<ArgSpec>& args, std::string_view name);

/// Values of the contract's symbols in one call.
class Bindings {
 public:
  /// `symbols`: the op's, which outlive this.
  explicit Bindings(const std::vector<std::string>& symbols)
      : symbols_(&symbols), values_(symbols.size(), kUnbound) {}
  /// @throws Error(Internal) for a symbol that was never bound.
  Index operator[](std::string_view symbol) const;
  bool has(std::string_view symbol) const { return at(symbol) != kUnbound; }
  /// A symbol keeps the first value that it gets. @throws Error(Internal) on one that the contract
  /// does not have
  void set(std::string_view symbol, Index value);
  /// False where it is bound to another value.
  bool bind(int symbol, Index value);
  /// The optional output `name` is not produced by this call.
  void drop_output(std::string name) { dropped_.push_back(std::move(name)); }
  bool dropped(std::string_view name) const;
  /// Empty where a symbol is unbound.
  std::optional<Index> evaluate(const Axis& axis) const;

  Shape ellipsis;  ///< the axes that `...` stood for
  bool ellipsis_bound = false;

 private:
  static constexpr Index kUnbound = -1;
  Index at(std::string_view symbol) const;
  const std::vector<std::string>* symbols_;
  std::vector<Index> values_;
  std::vector<std::string> dropped_;
};

}  // namespace ls
