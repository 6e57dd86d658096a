#pragma once
// What every scan op's attributes begin with.
#include "core/base/enum_names.h"
#include "core/base/types.h"

namespace ls {

/// How a scan is computed; the result does not depend on it beyond rounding.
enum class Form : std::uint8_t {
  kAuto,       ///< the family's own rule, stated in its documentation
  kRecurrent,  ///< token by token
  kChunk,      ///< chunks of `chunk` tokens with a carried state
  kParallel,   ///< the whole sequence as one masked product
};

template <>
struct EnumNames<Form> {
  static constexpr std::string_view kKind = "form";
  static constexpr std::array<std::string_view, 4> kNames = {"auto", "recurrent", "chunk",
                                                             "parallel"};
};

/// First (only) base of the Attrs of every scan op, so that runners can set form and chunk.
struct ScanAttrs {
  Form form = Form::kAuto;
  Index chunk = 0;  ///< tokens per chunk; 0: the family's default
  void fields(auto&& f) const {
    f("form", form, "how it is computed");
    f("chunk", chunk, "tokens of a chunk; 0: the default of the op");
  }
};

}  // namespace ls
