#include "core/ops/top_k/top_k.h"

#include <cmath>
#include <vector>

namespace ls::ops {
namespace {

void bind(const TopK::In<Tensor>& in, const TopK::Attrs& a, Bindings& b) {
  LS_CHECK(a.k >= 1 && a.k <= in.x.size(-1), kShape, "top_k: k = {} of rows of {}", a.k,
           in.x.size(-1));
  b.set("K", a.k);
}

template <class Real>
struct Reference {
  /// NaN is the greatest number.
  static bool greater(Real x, Real y) { return std::isnan(x) ? !std::isnan(y) : x > y; }
  static void forward(const TopK::In<Tensor>& in, TopK::Out<Tensor>& out, const TopK::Attrs& a) {
    const std::vector<Real> x = in.x.to_vector<Real>();
    const Index d = in.x.size(-1);
    for (Index r = 0; r < in.x.numel() / d; ++r) {
      const Real* row = x.data() + r * d;
      std::vector<bool> taken(static_cast<std::size_t>(d));
      for (Index i = 0; i < a.k; ++i) {
        Index best = -1;  // the first greatest of those that are left
        for (Index c = 0; c < d; ++c) {
          if (!taken[static_cast<std::size_t>(c)] && (best < 0 || greater(row[c], row[best]))) {
            best = c;
          }
        }
        taken[static_cast<std::size_t>(best)] = true;
        out.values.data<Real>()[r * a.k + i] = row[best];
        out.index.data<std::int64_t>()[r * a.k + i] = best;
      }
    }
  }
  static void backward(const TopK::In<Tensor>&, const TopK::Out<Tensor>& out,
                       const TopK::Out<Tensor>& dout, TopK::In<Tensor>& din, const TopK::Attrs& a) {
    const std::vector<Real> dvalues = dout.values.to_vector<Real>();
    const std::vector<std::int64_t> index = out.index.to_vector<std::int64_t>();
    din.x.zero_();
    for (std::size_t i = 0; i < index.size(); ++i) {
      const Index row = static_cast<Index>(i) / a.k;
      din.x.data<Real>()[row * din.x.size(-1) + index[i]] = dvalues[i];
    }
  }
};

Cost cost(const TopK::In<Tensor>& in, const TopK::Attrs&) {
  return {.bytes = 1.0 * in.x.bytes(), .flops = 1.0 * in.x.numel()};
}

LS_OP(TopK, "top_k", "the k greatest elements of each row and their places")
    .in("x[...,D]")
    .out("values[...,K] index[...,K]:i64")
    .saves("index")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
