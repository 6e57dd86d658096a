#pragma once
namespace ls::kernels {

/// How far sequences, tokens and heads of rows [B,T,H,D] lie apart, in elements.
struct RowSteps {
  long long sequence = 0, token = 0, head = 0;  ///< token 0: without gaps
  /// As they are, also where there are no gaps.
  constexpr RowSteps of(int tokens, int heads, int columns) const {
    const long long row = columns, all = row * heads;
    return token != 0 ? *this : RowSteps{all * tokens, all, row};
  }
};

}  // namespace ls::kernels
