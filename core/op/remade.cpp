#include "core/op/remade.h"

#include <map>

#include "core/base/error.h"
#include "core/base/registration.h"

namespace ls {
namespace {

/// Names become numbers when they are first asked for: ops are declared in any order.
struct Entry {
  detail::RemadeTraits traits;
  RemadeOutput output;  // with output >= 0 once resolved
};
std::map<const OpInfo*, Entry>& entries() {
  static auto* const all = new std::map<const OpInfo*, Entry>;
  return *all;
}

void resolve(const OpInfo& op, Entry& e) {
  const auto found = [&](int index, const std::string& name) {
    LS_CHECK(index >= 0, kInternal, "op {}: LS_REMADE names {}, which it does not have", op.name,
             name);
    return index;
  };
  RemadeOutput out;
  out.level = e.traits.level;
  out.from.assign(op.in.size(), RemadeOutput::kItself);
  for (const auto& [input, output] : e.traits.from) {
    out.from[static_cast<std::size_t>(found(op.input_index(input), input))] =
        found(op.output_index(output), output);
  }
  for (const std::string& input : e.traits.nothing) {
    out.from[static_cast<std::size_t>(found(op.input_index(input), input))] =
        RemadeOutput::kNothing;
  }
  out.output = found(op.output_index(e.traits.output), e.traits.output);
  e.output = std::move(out);
}

}  // namespace

void detail::register_remade(const OpInfo& op, RemadeTraits traits) {
  entries()[&op].traits = std::move(traits);
  check_at_start([&op] { remade_output(op); });
}

const RemadeOutput* remade_output(const OpInfo& op) {
  const auto it = entries().find(&op);
  if (it == entries().end()) {
    return nullptr;
  }
  if (it->second.output.output < 0) {
    resolve(op, it->second);
  }
  return &it->second.output;
}

}  // namespace ls
