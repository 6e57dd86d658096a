#pragma once
// Outputs that a tape may drop after the forward pass and make again for the backward pass.
//
//   LS_REMADE(ShortConv, "y");
//   LS_REMADE(AddRmsNorm, "y").from("x", "sum").nothing("residual");
#include <string>
#include <utility>
#include <vector>

#include "core/base/enum_names.h"
#include "core/op/op_info.h"

namespace ls {

/// What a tape makes again in the backward pass in place of keeping it; the bits are the same.
enum class Remake : std::uint8_t {
  kNone,
  kOutputs,   ///< what costs little more than passing through memory once: norms, convolutions
  kProducts,  ///< and products of matrices
};
template <>
struct EnumNames<Remake> {
  static constexpr std::string_view kKind = "remake";
  static constexpr std::array<std::string_view, 3> kNames = {"none", "outputs", "products"};
};

/// How an op makes one of its outputs again: by another run of its own, on inputs that are kept.
/// By default they are those of the first run, which should be what the op saves anyhow.
struct RemadeOutput {
  int output = -1;
  Remake level = Remake::kOutputs;
  /// Of each input: itself, an output of the first run by its number, or nothing.
  std::vector<int> from;
  static constexpr int kItself = -1, kNothing = -2;
};

namespace detail {
struct RemadeTraits {
  std::string output;
  Remake level = Remake::kOutputs;
  std::vector<std::pair<std::string, std::string>> from;
  std::vector<std::string> nothing;
};
void register_remade(const OpInfo& op, RemadeTraits traits);
}  // namespace detail

/// Of that op, or null. @throws Error(Internal) where its declaration names what the op has not
const RemadeOutput* remade_output(const OpInfo& op);

/// Built by LS_REMADE; conversion to bool registers.
class RemadeBuilder {
 public:
  RemadeBuilder(const OpInfo& op, std::string output) : op_(op) {
    traits_.output = std::move(output);
  }
  /// The second run is given that output of the first as this input.
  RemadeBuilder& from(std::string input, std::string output) {
    traits_.from.emplace_back(std::move(input), std::move(output));
    return *this;
  }
  /// The second run is given zeros, negative ones: added to anything, they change no bit.
  RemadeBuilder& nothing(std::string input) {
    traits_.nothing.push_back(std::move(input));
    return *this;
  }
  RemadeBuilder& level(Remake level) {
    traits_.level = level;
    return *this;
  }
  operator bool() {  // NOLINT: the declaration is an initialiser
    detail::register_remade(op_, traits_);
    return true;
  }

 private:
  const OpInfo& op_;
  detail::RemadeTraits traits_;
};

}  // namespace ls

#define LS_REMADE(Type, output)                         \
  [[maybe_unused]] static const bool ls_remade_##Type = \
      ::ls::RemadeBuilder(::ls::op_info<Type>(), output)
