#include "optim/elementwise.h"

namespace ls::optim {
namespace {

/// g += wd p; b = momentum b + (1 - dampening) g (b = g in the first step); p -= lr b, or
/// p -= lr (g + momentum b) with Nesterov.
class Sgd final : public Optimizer {
 public:
  struct Config : SgdNumbers {
    template <class F>
    void fields(F& f) {
      f("momentum", momentum,
        {.help = "share of the last update that is kept", .min = 0, .below = 1});
      f("dampening", dampening, {.help = "1 - this weighs the new gradient", .min = 0, .max = 1});
      f("weight_decay", weight_decay,
        {.help = "share of a weight that is added to its gradient, for weights that decay",
         .min = 0});
      f("nesterov", nesterov, {.help = "look ahead by one momentum step"});
      f.check(!nesterov || (momentum > 0 && dampening == 0), "nesterov",
              "needs momentum > 0 and dampening 0");
    }
  };
  explicit Sgd(const Config& c) : c_(c) {}
  std::vector<std::string> state_names() const override {
    return c_.momentum > 0 ? std::vector<std::string>{"momentum"} : std::vector<std::string>{};
  }
  RuleNumbers numbers() const override { return static_cast<const SgdNumbers&>(c_); }
  void update(ParamSlice& p, std::span<Tensor> state, const StepArgs& a) const override {
    for_elements(p, state, [&]<class T>(T* x, const T* dx, T* const* s, Index begin, Index end) {
      const T wd = p.decay ? static_cast<T>(c_.weight_decay) : T(0),
              scale = static_cast<T>(a.grad_scale);
      const T mu = static_cast<T>(c_.momentum), lr = static_cast<T>(a.lr);
      const T fresh = a.step == 1 ? T(1) : static_cast<T>(1 - c_.dampening);
      for (Index i = begin; i < end; ++i) {
        T g = dx[i] * scale + wd * x[i];
        if (s[0]) {
          s[0][i] = mu * s[0][i] + fresh * g;
          g = c_.nesterov ? g + mu * s[0][i] : s[0][i];
        }
        x[i] -= lr * g;
      }
    });
  }

 private:
  Config c_;
};
LS_REGISTER(Optimizer, Sgd, "sgd", "stochastic gradient descent with momentum");

}  // namespace
}  // namespace ls::optim
