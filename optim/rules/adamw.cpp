#include <cmath>

#include "optim/elementwise.h"

namespace ls::optim {
namespace {

/// Decoupled weight decay (Loshchilov & Hutter 1711.05101): p *= 1 - lr wd, then
/// p -= lr (m / (1 - b1^n)) / (sqrt(v / (1 - b2^n)) + eps).
class AdamW final : public Optimizer {
 public:
  struct Config : AdamWNumbers {
    template <class F>
    void fields(F& f) {
      f("beta1", beta1, {.help = "decay of the mean gradient", .min = 0, .below = 1});
      f("beta2", beta2, {.help = "decay of the mean squared gradient", .min = 0, .below = 1});
      f("eps", eps, {.help = "number added to the root of the mean squared gradient", .min = 0});
      f("weight_decay", weight_decay,
        {.help = "share of a weight that an update at rate 1 takes away, for weights that decay",
         .min = 0});
    }
  };
  explicit AdamW(const Config& c) : c_(c) {}
  std::vector<std::string> state_names() const override { return {"m", "v"}; }
  RuleNumbers numbers() const override { return static_cast<const AdamWNumbers&>(c_); }
  void update(ParamSlice& p, std::span<Tensor> state, const StepArgs& a) const override {
    const auto n = static_cast<double>(a.step);
    const double correct1 = 1 / (1 - std::pow(c_.beta1, n)),
                 correct2 = 1 / (1 - std::pow(c_.beta2, n));
    const double keep = p.decay ? 1 - a.lr * c_.weight_decay : 1;
    for_elements(p, state,
                 [&]<class T>(T* value, const T* grad, T* const* s, Index begin, Index end) {
                   const T b1 = static_cast<T>(c_.beta1), b2 = static_cast<T>(c_.beta2),
                           eps = static_cast<T>(c_.eps);
                   const T one_minus_b1 = static_cast<T>(1 - c_.beta1),
                           one_minus_b2 = static_cast<T>(1 - c_.beta2);
                   const T rate = static_cast<T>(a.lr * correct1), c2 = static_cast<T>(correct2);
                   const T decay = static_cast<T>(keep), scale = static_cast<T>(a.grad_scale);
                   T* __restrict m = s[0];
                   T* __restrict v = s[1];
                   T* __restrict x = value;
                   const T* __restrict dx = grad;
                   for (Index i = begin; i < end; ++i) {
                     const T g = dx[i] * scale;
                     m[i] = b1 * m[i] + one_minus_b1 * g;
                     v[i] = b2 * v[i] + one_minus_b2 * g * g;
                     x[i] = decay * x[i] - rate * m[i] / (std::sqrt(v[i] * c2) + eps);
                   }
                 });
  }

 private:
  Config c_;
};
LS_REGISTER(Optimizer, AdamW, "adamw",
            "Adam with decoupled weight decay (Loshchilov & Hutter 2017)");

}  // namespace
}  // namespace ls::optim
