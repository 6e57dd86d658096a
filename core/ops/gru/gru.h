#pragma once
#include "core/base/enum_names.h"
#include "core/op/scan_attrs.h"

namespace ls::ops {

/// What the reset gate of a GRU multiplies.
enum class Reset : std::uint8_t {
  kAfter,   ///< the recurrent product of the candidate
  kBefore,  ///< the hidden vector before that product
};

/// GRU cell over a sequence, by heads: r, z = sigmoid(gx_t + bias + h_{t-1} R^T), and
///   reset after:   n = tanh(gx_t + bias + r (h_{t-1} R_n^T + bias_n))
///   reset before:  n = tanh(gx_t + bias + (r h_{t-1}) R_n^T)
///   h_t = z h_{t-1} + (1 - z) n
/// @shape  gx [B,T,3D]: input part of the gates, blocks r, z, n of D channels
///         r [heads,3d,d], D = heads d  bias [3D], bias_n [D] (reset after only), h0 [N,D], each or
///         absent (0)  offsets [N+1] -> y [B,T,D]  hT [B,D]
/// @dtype  gx, y any one float; r, biases, states and sums acc
/// @grad   hand-written for all float inputs; none through gates, hidden (all h_t) and inner (what
///         the reset gate multiplies, or what it makes of it), which are kept
/// @source Cho 1406.1078 (before), as in cuDNN and PyTorch (after); block-diagonal R as lstm
struct Gru {
  template <class T>
  struct In {
    T gx, r, bias, bias_n, h0, offsets;
  };
  template <class T>
  struct Out {
    T y, hT, gates, hidden, inner;
  };
  struct Attrs : ScanAttrs {
    Reset reset = Reset::kAfter;
    void fields(auto&& f) const {
      ScanAttrs::fields(f);
      f("reset", reset, "what the reset gate multiplies");
    }
  };
};

}  // namespace ls::ops

template <>
struct ls::EnumNames<ls::ops::Reset> {
  static constexpr std::string_view kKind = "place of the reset gate";
  static constexpr std::array<std::string_view, 2> kNames = {"after", "before"};
};
