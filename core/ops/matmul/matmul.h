#pragma once

namespace ls::ops {

/// Matrix products, one for each index of the leading axes: c = alpha * op(a) op(b), with op the
/// transpose of the last two axes or nothing.
/// @shape  op(a) [...,M,K], op(b) [...,K,N] -> c [...,M,N]; a is stored [...,K,M] with trans_a, b
///         [...,N,K] with trans_b
/// @dtype  any one float; sums in acc
/// @grad   exact
/// @cost   2 M N K flop a product; views whose last two axes are rows or columns of a matrix, and
///         whose leading axes lie at one step, are read where they are
struct Matmul {
  template <class T>
  struct In {
    T a, b;
  };
  template <class T>
  struct Out {
    T c;
  };
  struct Attrs {
    bool trans_a = false, trans_b = false;
    double alpha = 1;
    void fields(auto&& f) const {
      f("trans_a", trans_a, "a is stored transposed");
      f("trans_b", trans_b, "b is stored transposed");
      f("alpha", alpha, "factor on the product");
    }
  };
};

}  // namespace ls::ops
