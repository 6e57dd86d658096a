#include "core/op/op.h"

#include <algorithm>
#include <charconv>

#include "core/base/profile.h"
#include "core/base/registration.h"
#include "core/tensor/rows.h"

namespace ls {
namespace {

thread_local int reference_depth = 0;

bool is_symbol_char(char c) {
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

bool is_symbol(std::string_view axis) {
  if (axis.empty() || !is_symbol_char(axis[0])) {
    return false;
  }
  for (const char c : axis) {
    if (!is_symbol_char(c) && !(c >= '0' && c <= '9')) {
      return false;
    }
  }
  return true;
}

ArgSpec parse_arg(std::string_view text, const std::string& op) {
  ArgSpec arg;
  arg.text = std::string(text);
  const auto bad = [&](const char* why) {
    LS_FAIL(kInternal, "op {}: argument '{}' of the contract: {}", op, std::string(text), why);
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
  if (!type.empty() && type.back() == '?') {
    arg.optional = true;
    type.remove_suffix(1);
  }
  if (!type.empty()) {
    if (type.front() != ':') {
      bad("expected :dtype after the brackets");
    }
    type.remove_prefix(1);
    if (type == "acc") {
      arg.type = ArgSpec::Type::kAcc;
    } else if (type == "any") {
      arg.type = ArgSpec::Type::kAny;
    } else {
      arg.type = ArgSpec::Type::kExact;
      arg.exact = parse_enum<DType>(type);
    }
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
    } else {
      arg.axes.emplace_back(axis);
    }
  }
  return arg;
}

std::vector<ArgSpec> parse_args(const std::string& contract, const std::string& op) {
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
    args.push_back(parse_arg(std::string_view(contract).substr(i, j - i), op));
    i = j;
  }
  return args;
}

Shape shape_of(const ArgSpec& arg, const Bindings& b, const std::string& op) {
  Shape s;
  if (arg.ellipsis) {
    s = b.ellipsis;
  }
  for (const std::string& axis : arg.axes) {
    const std::optional<Index> n = b.evaluate(axis);
    LS_CHECK(n.has_value(), kInternal, "op {}: axis '{}' of output {} is not bound", op, axis,
             arg.text);
    s.push_back(*n);
  }
  return s;
}

DType type_of(const ArgSpec& arg, DType t) {
  switch (arg.type) {
    case ArgSpec::Type::kAcc:
      return acc_dtype(t);
    case ArgSpec::Type::kExact:
      return arg.exact;
    default:
      return t;
  }
}

[[noreturn]] void shape_mismatch(const OpInfo& op, const ArgSpec& arg, const Tensor& t,
                                 std::span<const Tensor> in) {
  std::string all;
  for (std::size_t i = 0; i < op.in.size(); ++i) {
    if (in[i].defined()) {
      all += (all.empty() ? "" : ", ") + op.in[i].name + " " + in[i].describe();
    }
  }
  LS_FAIL(kShape, "{}: argument {} has shape {}; the contract is ({}), the call has {}", op.name,
          arg.text, t.shape().str(), op.contract_in, all);
}

Bindings check_inputs(const OpInfo& op, std::span<const Tensor> in, DType t) {
  LS_CHECK(in.size() == op.in.size(), kInternal, "{}: {} inputs for {} arguments", op.name,
           in.size(), op.in.size());
  Bindings b;
  for (std::size_t i = 0; i < in.size(); ++i) {
    const ArgSpec& arg = op.in[i];
    const Tensor& x = in[i];
    if (!x.defined()) {
      LS_CHECK(arg.optional, kShape, "{}: argument {} is missing", op.name, arg.text);
      continue;
    }
    if (arg.type != ArgSpec::Type::kAny) {
      const DType want = type_of(arg, t);
      LS_CHECK(x.dtype() == want, kDType, "{}: argument {} is {}, expected {}", op.name, arg.text,
               x.describe(), enum_name(want));
    }
    const int named = static_cast<int>(arg.axes.size());
    if (arg.ellipsis) {
      if (x.rank() < named) {
        shape_mismatch(op, arg, x, in);
      }
      Shape lead;
      for (int a = 0; a < x.rank() - named; ++a) {
        lead.push_back(x.shape()[a]);
      }
      if (!b.ellipsis_bound) {
        b.ellipsis = lead;
        b.ellipsis_bound = true;
      } else if (!(b.ellipsis == lead)) {
        shape_mismatch(op, arg, x, in);
      }
    } else if (x.rank() != named) {
      shape_mismatch(op, arg, x, in);
    }
    for (int a = 0; a < named; ++a) {
      const std::string& axis = arg.axes[a];
      const Index n = x.shape()[x.rank() - named + a];
      if (is_symbol(axis)) {
        if (!b.has(axis)) {
          b.set(axis, n);
        } else if (b[axis] != n) {
          shape_mismatch(op, arg, x, in);
        }
      }
    }
  }
  return b;
}

void check_expressions(const OpInfo& op, std::span<const Tensor> in, const Bindings& b) {
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (!in[i].defined()) {
      continue;
    }
    const ArgSpec& arg = op.in[i];
    const int named = static_cast<int>(arg.axes.size());
    for (int a = 0; a < named; ++a) {
      const std::optional<Index> want = b.evaluate(arg.axes[a]);
      if (want && *want != in[i].shape()[in[i].rank() - named + a]) {
        shape_mismatch(op, arg, in[i], in);
      }
    }
  }
}

Tensor convert_float(const Tensor& t, DType from, DType to) {
  return t.defined() && t.dtype() == from ? t.to(to) : t;
}

std::vector<Tensor> convert_all(std::span<const Tensor> ts, DType from, DType to) {
  std::vector<Tensor> out;
  out.reserve(ts.size());
  for (const Tensor& t : ts) {
    out.push_back(convert_float(t, from, to));
  }
  return out;
}

template <class Table>
const typename Table::value_type* find_kernel(const Table& kernels, const Table& reference,
                                              DType t) {
  const auto i = static_cast<std::size_t>(t);
  if (reference_depth == 0 && kernels[i]) {
    return &kernels[i];
  }
  return reference[i] ? &reference[i] : nullptr;
}

/// A gradient of this shape and type can be written to `place`.
bool fits(const Tensor& place, const Shape& shape, DType t) {
  return place.defined() && place.dtype() == t && place.shape() == shape && pieces_of(place);
}

/// Memory for an output that follows `from`, which nobody else holds: over it where it is a state,
/// behind it where it is a cache to which `fresh` rows come and of which `shape[1]` are kept. A
/// cache without room gets half as many rows more than it needs. Undefined where it cannot follow.
Tensor following(const Tensor& from, const Tensor& fresh, const Shape& shape, DType t) {
  if (from.dtype() != t) {
    return {};
  }
  if (!fresh.defined()) {
    return from.shape() == shape && from.is_contiguous() ? from : Tensor();
  }
  const Index rows = from.size(1) + fresh.size(1), kept = shape[1];
  if (const Tensor longer = from.extended(1, rows); longer.defined()) {
    return longer.slice(1, rows - kept, rows);
  }
  constexpr Index kFewest = 64;
  Shape roomy = shape;
  roomy[1] = kept + std::max(kFewest, kept / 2);
  return Tensor::empty(roomy, t).slice(1, 0, kept);
}

bool is_half(DType t) {
  return t == DType::kBF16 || t == DType::kF16;
}

}  // namespace

Index Bindings::operator[](std::string_view symbol) const {
  for (const auto& [name, value] : values_) {
    if (name == symbol) {
      return value;
    }
  }
  LS_FAIL(kInternal, "axis symbol {} is not bound", std::string(symbol));
}

bool Bindings::has(std::string_view symbol) const {
  for (const auto& [name, value] : values_) {
    if (name == symbol) {
      return true;
    }
  }
  return false;
}

void Bindings::set(std::string symbol, Index value) {
  values_.emplace_back(std::move(symbol), value);
}

bool Bindings::dropped(std::string_view name) const {
  for (const std::string& d : dropped_) {
    if (d == name) {
      return true;
    }
  }
  return false;
}

std::optional<Index> Bindings::evaluate(std::string_view e) const {
  const auto term = [&](std::string_view t) -> std::optional<Index> {
    Index n = 1;
    while (!t.empty()) {
      const auto star = t.find('*');
      const std::string_view f = t.substr(0, star);
      t = star == std::string_view::npos ? std::string_view() : t.substr(star + 1);
      Index k = 0;
      if (std::from_chars(f.data(), f.data() + f.size(), k).ec == std::errc()) {
        n *= k;
      } else if (has(f)) {
        n *= (*this)[f];
      } else {
        return std::nullopt;
      }
    }
    return n;
  };
  Index sum = 0;
  Index sign = 1;
  std::size_t begin = 0;
  for (std::size_t i = 0; i <= e.size(); ++i) {
    if (i == e.size() || e[i] == '+' || e[i] == '-') {
      const std::optional<Index> t = term(e.substr(begin, i - begin));
      if (!t) {
        return std::nullopt;
      }
      sum += sign * *t;
      sign = i < e.size() && e[i] == '-' ? -1 : 1;
      begin = i + 1;
    }
  }
  return sum;
}

int OpInfo::input_index(std::string_view wanted) const {
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (in[i].name == wanted) {
      return static_cast<int>(i);
    }
  }
  return -1;
}

int OpInfo::output_index(std::string_view wanted) const {
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (out[i].name == wanted) {
      return static_cast<int>(i);
    }
  }
  return -1;
}

Registry<const OpInfo*>& op_registry() {
  static auto* const registry = new Registry<const OpInfo*>("op");
  return *registry;
}

UseReference::UseReference() {
  ++reference_depth;
}
UseReference::~UseReference() {
  --reference_depth;
}

DType op_dtype(const OpInfo& op, std::span<const Tensor> in) {
  for (std::size_t i = 0; i < op.in.size(); ++i) {
    if (op.in[i].type == ArgSpec::Type::kFloat && in[i].defined()) {
      LS_CHECK(is_float(in[i].dtype()), kDType, "{}: argument {} is {}, expected a float type",
               op.name, op.in[i].text, in[i].describe());
      return in[i].dtype();
    }
  }
  return DType::kF32;
}

std::vector<Tensor> run_forward(const OpInfo& op, std::span<const Tensor> in, const void* attrs,
                                const std::vector<bool>& spent) {
  profile::Scope timed(op.name, "forward");
  if (profile::running() && op.cost) {
    const Cost cost = op.cost(in, attrs);
    timed.cost(cost.bytes, cost.flops);
  }
  const DType t = op_dtype(op, in);
  Bindings b = check_inputs(op, in, t);
  if (op.bind) {
    op.bind(in, attrs, b);
  }
  check_expressions(op, in, b);

  const ForwardKernel* kernel = find_kernel(op.forward_cpu, op.forward_reference, t);
  const DType run = kernel || !is_half(t) ? t : DType::kF32;
  if (!kernel && run != t) {
    kernel = find_kernel(op.forward_cpu, op.forward_reference, run);
  }
  LS_CHECK(kernel, kUnsupported, "{}: no CPU kernel for {}", op.name, enum_name(t));

  std::vector<Tensor> out(op.out.size());
  const bool own_kernel = kernel == &op.forward_cpu[static_cast<std::size_t>(t)];
  for (const OpInfo::Continued& c : op.continued) {
    const auto i = static_cast<std::size_t>(c.input), o = static_cast<std::size_t>(c.output);
    if (own_kernel && !spent.empty() && spent[i]) {
      out[o] = following(in[i], c.fresh < 0 ? Tensor() : in[static_cast<std::size_t>(c.fresh)],
                         shape_of(op.out[o], b, op.name), type_of(op.out[o], t));
    }
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (!out[i].defined() && !(op.out[i].optional && b.dropped(op.out[i].name))) {
      out[i] = Tensor::empty(shape_of(op.out[i], b, op.name), type_of(op.out[i], run));
    }
  }
  if (run == t) {
    (*kernel)(in, out, attrs);
    return out;
  }
  (*kernel)(convert_all(in, t, run), out, attrs);
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (op.out[i].type == ArgSpec::Type::kFloat) {
      out[i] = convert_float(out[i], run, t);
    }
  }
  return out;
}

std::vector<Tensor> run_backward(const OpInfo& op, std::span<const Tensor> in,
                                 std::span<const Tensor> out, std::span<const Tensor> dout,
                                 const std::vector<bool>& wanted, std::span<const Shape> in_shapes,
                                 DType t, const void* attrs, std::span<const Tensor> places) {
  for (std::size_t i = 0; i < dout.size(); ++i) {
    LS_CHECK(!dout[i].defined() || op.differentiable_out[i], kUnsupported,
             "op {}: output {} has no gradient, but what is differentiated depends on it; detach() "
             "it where it is meant as a constant",
             op.name, op.out[i].name);
  }
  const BackwardKernel* kernel = find_kernel(op.backward_cpu, op.backward_reference, t);
  const DType run = kernel || !is_half(t) ? t : DType::kF32;
  if (!kernel && run != t) {
    kernel = find_kernel(op.backward_cpu, op.backward_reference, run);
  }
  LS_CHECK(kernel, kUnsupported, "{}: no CPU backward kernel for {}", op.name, enum_name(t));
  const bool own_kernel = kernel == &op.backward_cpu[static_cast<std::size_t>(t)];
  std::vector<Tensor> din(op.in.size());
  if (op.same_gradient[0] >= 0) {
    const auto first = static_cast<std::size_t>(op.same_gradient[0]),
               second = static_cast<std::size_t>(op.same_gradient[1]);
    if (wanted[first] && wanted[second]) {
      std::vector<bool> once = wanted;
      once[second] = false;
      din = run_backward(op, in, out, dout, once, in_shapes, t, attrs, places);
      din[second] = din[first];
      return din;
    }
  }
  for (std::size_t i = 0; i < din.size(); ++i) {
    if (wanted[i] && op.differentiable[i]) {
      const DType g = op.grad_is_acc[i] ? acc_dtype(run) : type_of(op.in[i], run);
      const bool in_place =
          own_kernel && !places.empty() && op.strided_grad[i] && fits(places[i], in_shapes[i], g);
      din[i] = in_place ? places[i] : Tensor::empty(in_shapes[i], g);
    }
  }
  const auto defined = [](const Tensor& x) { return x.defined(); };
  if (std::none_of(din.begin(), din.end(), defined)) {
    return din;
  }
  if (std::none_of(dout.begin(), dout.end(), defined)) {
    for (std::size_t i = 0; i < din.size(); ++i) {
      if (din[i].defined()) {
        din[i] =
            Tensor::zeros(in_shapes[i], op.grad_is_acc[i] ? acc_dtype(t) : type_of(op.in[i], t));
      }
    }
    return din;
  }
  if (run == t) {
    (*kernel)(in, out, dout, din, attrs);
    return din;
  }
  (*kernel)(convert_all(in, t, run), convert_all(out, t, run), convert_all(dout, t, run), din,
            attrs);
  for (std::size_t i = 0; i < din.size(); ++i) {
    if (din[i].defined() && op.in[i].type == ArgSpec::Type::kFloat && !op.grad_is_acc[i]) {
      din[i] = convert_float(din[i], run, t);
    }
  }
  return din;
}

namespace {

/// Flags of the inputs and outputs that stand in `names`. @throws Error(Internal) on another name
void mark(const OpInfo& info, std::string_view names, std::vector<bool>& in,
          std::vector<bool>* out = nullptr) {
  in.assign(info.in.size(), false);
  if (out) {
    out->assign(info.out.size(), false);
  }
  while (!names.empty()) {
    const auto space = names.find(' ');
    const std::string_view name = names.substr(0, space);
    names = space == std::string_view::npos ? std::string_view() : names.substr(space + 1);
    const int i = info.input_index(name), o = out ? info.output_index(name) : -1;
    LS_CHECK(i >= 0 || o >= 0, kInternal, "op {}: the contract has no argument '{}'", info.name,
             name);
    if (i >= 0) {
      in[i] = true;
    }
    if (o >= 0) {
      (*out)[o] = true;
    }
  }
}

/// Floats that are not flagged.
std::vector<bool> differentiable(const OpInfo& info, const std::vector<ArgSpec>& args,
                                 std::vector<bool> flags) {
  for (std::size_t i = 0; i < args.size(); ++i) {
    flags[i] = info.has_backward && !flags[i] &&
               (args[i].type != ArgSpec::Type::kExact || is_float(args[i].exact));
  }
  return flags;
}

void check_names(const OpInfo& info, const std::vector<ArgSpec>& args) {
  for (std::size_t i = 0; i < args.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      LS_CHECK(args[i].name != args[j].name, kInternal, "op {}: two arguments are named '{}'",
               info.name, args[i].name);
    }
  }
}

void set_same_gradient(OpInfo& info, const std::array<std::string, 2>& names) {
  if (names[0].empty()) {
    return;
  }
  for (std::size_t i = 0; i < 2; ++i) {
    info.same_gradient[i] = info.input_index(names[i]);
    LS_CHECK(info.same_gradient[i] >= 0, kInternal, "op {}: the contract has no input '{}'",
             info.name, names[i]);
  }
  const ArgSpec &a = info.in[info.same_gradient[0]], &b = info.in[info.same_gradient[1]];
  LS_CHECK(a.axes == b.axes && a.ellipsis == b.ellipsis && a.type == b.type && a.exact == b.exact,
           kInternal, "op {}: {} and {} cannot have one gradient, their shapes or types differ",
           info.name, a.text, b.text);
}

/// @throws Error(Internal) where contract and traits do not fit together
void read_contract(OpInfo& info, const detail::OpTraits& traits) {
  info.in = parse_args(info.contract_in, info.name);
  info.out = parse_args(info.contract_out, info.name);
  check_names(info, info.in);
  check_names(info, info.out);
  mark(info, traits.saves, info.saves_in, &info.saves_out);
  mark(info, traits.grad_acc, info.grad_is_acc);
  mark(info, traits.strided_grad, info.strided_grad);
  set_same_gradient(info, traits.same_gradient);
  for (const auto& [input, fresh, output] : traits.continued) {
    const OpInfo::Continued c{info.input_index(input), fresh.empty() ? -1 : info.input_index(fresh),
                              info.output_index(output)};
    LS_CHECK(c.input >= 0 && c.output >= 0 && (fresh.empty() || c.fresh >= 0), kInternal,
             "op {}: continues names '{}', '{}', '{}', of which the contract lacks one", info.name,
             input, fresh, output);
    info.continued.push_back(c);
  }
  std::vector<bool> no_grad_in, no_grad_out;
  mark(info, traits.no_grad, no_grad_in, &no_grad_out);
  info.differentiable = differentiable(info, info.in, std::move(no_grad_in));
  info.differentiable_out = differentiable(info, info.out, std::move(no_grad_out));
  for (std::size_t i = 0; i < info.in.size(); ++i) {
    LS_CHECK(info.differentiable[i] || !(info.grad_is_acc[i] || info.strided_grad[i]), kInternal,
             "op {}: grad_acc or strided_grad names '{}', which has no gradient", info.name,
             info.in[i].name);
  }
}

}  // namespace

void detail::register_op(OpInfo& info, const OpTraits& traits, std::source_location where) {
  info.file = where.file_name();
  try {
    read_contract(info, traits);
  } catch (const Error& e) {
    registration_faults().push_back(fmt::format("{} ({})", e.message(), info.file));
    return;
  }
  op_registry().add(info.name, &info, where);
}

}  // namespace ls
