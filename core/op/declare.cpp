#include "core/op/declare.h"

#include <algorithm>
#include <map>

#include "core/base/registration.h"

namespace ls {
namespace {

/// f(argument's entry) for those of `ins`, and of `outs` where it is not null, that stand in
/// `names`. @throws Error(Internal) on another name
template <class Entry, class F>
void for_named(const OpInfo& info, std::string_view names, std::vector<Entry>& ins,
               std::type_identity_t<std::vector<Entry>*> outs, F&& f) {
  while (!names.empty()) {
    const auto space = names.find(' ');
    const std::string_view name = names.substr(0, space);
    names = space == std::string_view::npos ? std::string_view() : names.substr(space + 1);
    const int i = info.input_index(name), o = outs ? info.output_index(name) : -1;
    LS_CHECK(i >= 0 || o >= 0, kInternal, "op {}: the contract has no {} '{}'", info.name,
             outs ? "argument" : "input", name);
    if (i >= 0) {
      f(ins[static_cast<std::size_t>(i)]);
    }
    if (o >= 0) {
      f((*outs)[static_cast<std::size_t>(o)]);
    }
  }
}

void check_names(const OpInfo& info, const std::vector<ArgSpec>& args) {
  for (std::size_t i = 0; i < args.size(); ++i) {
    LS_CHECK(index_of(args, args[i].name) == static_cast<int>(i), kInternal,
             "op {}: two arguments are named '{}'", info.name, args[i].name);
  }
}

/// Floats of an op with a gradient, until no_grad says otherwise.
void set_differentiable(const OpInfo& info, std::vector<ArgSpec>& args) {
  for (ArgSpec& arg : args) {
    arg.differentiable =
        info.has_backward && (arg.type != ArgSpec::Type::kExact || is_float(arg.exact));
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
  info.in = parse_contract(info.contract_in, info.name, info.symbols);
  info.out = parse_contract(info.contract_out, info.name, info.symbols);
  LS_CHECK(info.in.size() == traits.inputs && info.out.size() == traits.outputs, kInternal,
           "op {}: the contract has {} inputs and {} outputs, its structs In and Out have {} and "
           "{} members; they name the same arguments in the same order",
           info.name, info.in.size(), info.out.size(), traits.inputs, traits.outputs);
  LS_CHECK(traits.all_attrs, kInternal,
           "op {}: `fields` of its Attrs does not list every member, in their order", info.name);
  check_names(info, info.in);
  check_names(info, info.out);
  set_differentiable(info, info.in);
  set_differentiable(info, info.out);
  for_named(info, traits.saves, info.in, &info.out, [](ArgSpec& a) { a.saved = true; });
  for_named(info, traits.no_grad, info.in, &info.out, [](ArgSpec& a) { a.differentiable = false; });
  for_named(info, traits.grad_acc, info.in, nullptr, [&](ArgSpec& a) {
    LS_CHECK(a.differentiable, kInternal, "op {}: grad_acc names '{}', which has no gradient",
             info.name, a.name);
    a.grad_is_acc = true;
  });
  set_same_gradient(info, traits.same_gradient);
  if (const auto& [input, output] = traits.gradient_in_forward; !input.empty()) {
    info.gradient_in_forward = {info.input_index(input), info.output_index(output)};
    LS_CHECK(info.gradient_in_forward[0] >= 0 && info.gradient_in_forward[1] >= 0, kInternal,
             "op {}: gradient_in_forward names '{}' and '{}', of which the contract lacks one",
             info.name, input, output);
  }
  for (const auto& [input, fresh, output] : traits.continued) {
    const int from = info.input_index(input), to = info.output_index(output);
    const int rows = fresh.empty() ? -1 : info.input_index(fresh);
    LS_CHECK(from >= 0 && to >= 0 && (fresh.empty() || rows >= 0), kInternal,
             "op {}: continues names '{}', '{}', '{}', of which the contract lacks one", info.name,
             input, fresh, output);
    ArgSpec& out = info.out[static_cast<std::size_t>(to)];
    out.continues = from;
    out.fresh = rows;
  }
  for (Kernel& reference : info.references) {
    reference.in.resize(info.in.size());
    reference.out.resize(info.out.size());
    reference.file = info.file;
  }
}

/// @throws Error(Internal) where they do not fit the contract
void read_kernel_traits(const OpInfo& info, const detail::KernelTraits& traits, Kernel& k) {
  using Presence = Operand::Presence;
  k.in.resize(info.in.size());
  k.out.resize(info.out.size());
  for (const auto& [names, lies] : traits.reads) {
    for_named(info, names, k.in, &k.out, [lies = lies](Operand& o) { o.lies = lies; });
  }
  for (const auto& [names, bytes] : traits.aligned) {
    for_named(info, names, k.in, &k.out, [bytes = bytes](Operand& o) { o.alignment = bytes; });
  }
  for_named(info, traits.strided_grad, k.in, &k.out, [](Operand& o) { o.strided_grad = true; });
  for_named(info, traits.adds_grad, k.in, &k.out, [](Operand& o) { o.adds_grad = true; });
  for_named(info, traits.given, k.in, nullptr, [](Operand& o) { o.presence = Presence::kGiven; });
  for_named(info, traits.absent, k.in, nullptr, [](Operand& o) { o.presence = Presence::kAbsent; });
  for (std::size_t i = 0; i < k.in.size(); ++i) {
    const ArgSpec& arg = info.in[i];
    LS_CHECK(arg.differentiable || !k.in[i].strided_grad, kInternal,
             "op {}: strided_grad names '{}', which has no gradient", info.name, arg.name);
    LS_CHECK(arg.optional || k.in[i].presence == Presence::kAny, kInternal,
             "op {}: a kernel's given or absent names '{}', which is always given", info.name,
             arg.name);
  }
}

struct Pending {
  Kernel kernel;
  detail::KernelTraits traits;
};
/// Kernels of ops that are not declared yet.
std::map<const OpInfo*, std::vector<Pending>>& pending_kernels() {
  static auto* const pending = new std::map<const OpInfo*, std::vector<Pending>>;
  return *pending;
}

bool has_test(const Kernel& k) {
  return k.fits || std::any_of(k.in.begin(), k.in.end(), [](const Operand& o) {
           return o.presence != Operand::Presence::kAny;
         });
}

void attach(OpInfo& info, Pending pending) {
  try {
    read_kernel_traits(info, pending.traits, pending.kernel);
  } catch (const Error& e) {
    registration_faults().push_back(fmt::format("{} ({})", e.message(), pending.kernel.file));
    return;
  }
  // Behind those that are asked before it.
  const auto place = std::find_if(info.kernels.begin(), info.kernels.end(), [&](const Kernel& k) {
    return has_test(pending.kernel) && !has_test(k);
  });
  info.kernels.insert(place, std::move(pending.kernel));
}

}  // namespace

void detail::register_op(OpInfo& info, const OpTraits& traits, std::source_location where) {
  info.file = where.file_name();
  info.symbols.clear();
  try {
    read_contract(info, traits);
  } catch (const Error& e) {
    registration_faults().push_back(fmt::format("{} ({})", e.message(), info.file));
    return;
  }
  op_registry().add(info.name, &info, where);
  if (auto waiting = pending_kernels().extract(&info); !waiting.empty()) {
    for (Pending& p : waiting.mapped()) {
      attach(info, std::move(p));
    }
  }
}

void detail::register_kernel(OpInfo& info, Kernel kernel, KernelTraits traits,
                             std::source_location where) {
  kernel.file = where.file_name();
  if (kernel.name.empty()) {
    kernel.name = enum_name(kernel.device);
  }
  Pending pending{std::move(kernel), std::move(traits)};
  if (!info.in.empty()) {
    attach(info, std::move(pending));
    return;
  }
  auto& waiting = pending_kernels()[&info];
  waiting.push_back(std::move(pending));
  if (waiting.size() == 1) {
    check_at_start([&info, where] {
      LS_CHECK(!pending_kernels().contains(&info), kInternal,
               "there are kernels of an op that no LS_OP declares, or whose declaration failed "
               "({})",
               where.file_name());
    });
  }
}

}  // namespace ls
