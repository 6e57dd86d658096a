#include "autograd/gradcheck.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/call.h"
#include "autograd/tape.h"
#include "core/base/rng.h"

namespace ls::ag {
namespace {

using Values = std::vector<double>;

constexpr double kEps = std::numeric_limits<double>::epsilon();
// Rounding of a result, in units of its last place, before it is divided by the step.
constexpr double kRounding = 1000;

void require_f64(const std::string& what, const Tensor& t) {
  LS_CHECK(t.dtype() == DType::kF64, kDType, "gradcheck: {} is {}, expected f64", what,
           t.describe());
}

double norm(const Values& x) {
  double square = 0;
  for (const double v : x) {
    square += v * v;
  }
  return std::sqrt(square);
}

class Checker {
 public:
  Checker(const std::function<std::vector<Var>()>& f, const std::vector<GradcheckInput>& inputs,
          const GradcheckOptions& options)
      : f_(f), inputs_(inputs), options_(options), rng_(17, "gradcheck") {}

  GradcheckReport run() {
    Index entries = 0;
    for (const GradcheckInput& in : inputs_) {
      require_f64(in.name, in.var.value());
      entries += in.var.value().numel();
    }
    at_ = evaluate();
    if (at_.empty() || entries == 0) {
      report_.worst = "nothing to compare";
      report_.error = std::numeric_limits<double>::infinity();
      return report_;
    }
    report_.passed = true;
    for (std::size_t o = 0; o < at_.size(); ++o) {
      if (!std::isfinite(at_[o])) {
        note(std::numeric_limits<double>::infinity(), "{} is {}", element(o), at_[o]);
      }
    }
    if (entries * static_cast<Index>(at_.size()) <= options_.full) {
      jacobian();
    } else {
      directions();
    }
    return report_;
  }

 private:
  /// The results, one after the other.
  Values evaluate() {
    const NoGrad no_grad;
    Values all;
    extents_.clear();
    for (const Var& out : f_()) {
      extents_.push_back(0);
      if (out.defined() && is_float(out.dtype())) {
        require_f64("a result", out.value());
        const Values v = out.value().to_vector<double>();
        extents_.back() = v.size();
        all.insert(all.end(), v.begin(), v.end());
      }
    }
    return all;
  }

  /// Gradients of sum cotangent * results.
  std::vector<Values> pull_back(const Values& cotangent) {
    for (const GradcheckInput& in : inputs_) {
      in.var.data()->grad = Tensor();
    }
    {
      Tape tape;
      const std::vector<Var> out = f_();
      std::vector<Tensor> seeds;
      auto from = cotangent.begin();
      for (std::size_t i = 0; i < out.size(); ++i) {
        const auto to = from + static_cast<std::ptrdiff_t>(extents_[i]);
        seeds.push_back(extents_[i] > 0 ? Tensor::from(Values(from, to), out[i].shape())
                                        : Tensor());
        from = to;
      }
      tape.backward(out, seeds);
    }
    std::vector<Values> grads;
    for (const GradcheckInput& in : inputs_) {
      const Tensor grad = in.var.grad();
      const Index n = in.var.value().numel();
      if (grad.defined() && !(grad.shape() == in.var.shape())) {
        note(std::numeric_limits<double>::infinity(), "the gradient of {} is {} for {}", in.name,
             grad.describe(), in.var.value().describe());
        grads.emplace_back(static_cast<std::size_t>(n), std::nan(""));
      } else {
        grads.push_back(grad.defined() ? grad.to_vector<double>()
                                       : Values(static_cast<std::size_t>(n), 0.0));
      }
      in.var.data()->grad = Tensor();
    }
    return grads;
  }

  /// Derivative of each result along a direction of one input.
  Values difference(const GradcheckInput& in, const Tensor& direction) {
    const Tensor here = in.var.value();
    Values sum(at_.size());
    for (const double steps : {1.0, -1.0, 2.0, -2.0}) {
      in.var.data()->value = here.clone().add_(direction, steps * options_.step);
      const Values moved = evaluate();
      in.var.data()->value = here;
      LS_CHECK(moved.size() == sum.size(), kShape, "gradcheck: {} results where {} were",
               moved.size(), sum.size());
      const double factor = (std::abs(steps) == 1 ? 8 : -1) * std::copysign(1.0, steps);
      for (std::size_t o = 0; o < sum.size(); ++o) {
        sum[o] += factor * moved[o];
      }
    }
    for (double& d : sum) {
      d /= 12 * options_.step;
    }
    return sum;
  }

  void jacobian() {
    std::vector<std::vector<Values>> rows;  // [result][input][element]
    for (std::size_t o = 0; o < at_.size(); ++o) {
      Values one(at_.size());
      one[o] = 1;
      rows.push_back(pull_back(one));
    }
    double size = 0;
    for (const double v : at_) {
      size = std::max(size, std::abs(v));
    }
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      const Tensor& x = inputs_[i].var.value();
      std::vector<Values> columns;  // [element][result]
      for (Index e = 0; e < x.numel(); ++e) {
        Tensor direction = Tensor::zeros({x.numel()}, DType::kF64);
        direction.data<double>()[e] = 1;
        columns.push_back(difference(inputs_[i], direction.view(x.shape())));
      }
      double slope = 0;
      for (const Values& column : columns) {
        for (const double d : column) {
          slope = std::max(slope, std::abs(d));
        }
      }
      for (std::size_t e = 0; e < columns.size(); ++e) {
        for (std::size_t o = 0; o < at_.size(); ++o) {
          compare(rows[o][i][e], columns[e][o], slope, size,
                  fmt::format("d {} / d {}[{}]", element(o), inputs_[i].name, e));
        }
      }
    }
  }

  void directions() {
    for (int n = 0; n < options_.directions; ++n) {
      Values cotangent;
      for (std::size_t o = 0; o < at_.size(); ++o) {
        cotangent.push_back(rng_.normal());
      }
      Values size = at_;
      for (std::size_t o = 0; o < at_.size(); ++o) {
        size[o] *= cotangent[o];
      }
      const std::vector<Values> grads = pull_back(cotangent);
      for (std::size_t i = 0; i < inputs_.size(); ++i) {
        const Tensor& x = inputs_[i].var.value();
        if (x.numel() == 0) {
          continue;
        }
        Tensor direction = Tensor::empty({x.numel()}, DType::kF64);
        double got = 0, want = 0;
        for (Index e = 0; e < x.numel(); ++e) {
          const double d = direction.data<double>()[e] = rng_.normal();
          got += d * grads[i][e];
        }
        const Values slopes = difference(inputs_[i], direction.view(x.shape()));
        for (std::size_t o = 0; o < slopes.size(); ++o) {
          want += slopes[o] * cotangent[o];
        }
        compare(got, want, norm(grads[i]), norm(size),
                fmt::format("the derivative along direction {} of {}", n, inputs_[i].name));
      }
    }
  }

  /// `slope` is the size of the gradient, `size` that of what was differentiated.
  void compare(double got, double want, double slope, double size, const std::string& what) {
    const double allowed = options_.tolerance * slope + kRounding * kEps / options_.step * size;
    const double error = got == want ? 0 : std::abs(got - want) / allowed;
    note(std::isfinite(got) && std::isfinite(want) && std::isfinite(error)
             ? error
             : std::numeric_limits<double>::infinity(),
         "{} is {:.12g}, by differences {:.12g}", what, got, want);
  }

  template <class... Args>
  void note(double error, fmt::format_string<Args...> format, Args&&... args) {
    report_.passed &= error <= 1;
    if (error > report_.error) {
      report_.error = error;
      report_.worst = fmt::format(format, std::forward<Args>(args)...);
    }
  }

  std::string element(std::size_t flat) const {
    std::size_t result = 0;
    while (flat >= extents_[result]) {
      flat -= extents_[result++];
    }
    return fmt::format("result {}[{}]", result, flat);
  }

  const std::function<std::vector<Var>()>& f_;
  const std::vector<GradcheckInput>& inputs_;
  const GradcheckOptions& options_;
  Rng rng_;
  Values at_;
  std::vector<std::size_t> extents_;  // elements of each result
  GradcheckReport report_;
};

}  // namespace

GradcheckReport gradcheck(const std::function<std::vector<Var>()>& f,
                          const std::vector<GradcheckInput>& inputs,
                          const GradcheckOptions& options) {
  return Checker(f, inputs, options).run();
}

GradcheckReport gradcheck(const OpInfo& op, std::span<const Tensor> in,
                          const std::shared_ptr<const void>& attrs,
                          const std::vector<std::string>& omitted,
                          const GradcheckOptions& options) {
  std::vector<GradcheckInput> inputs;
  std::vector<Var> vars;
  for (std::size_t i = 0; i < in.size(); ++i) {
    const bool moves = in[i].defined() && op.in[i].differentiable;
    vars.push_back(moves ? Var::leaf(in[i]) : Var(in[i]));
    if (moves) {
      inputs.push_back({op.in[i].name, vars.back()});
    }
  }
  const auto f = [&] {
    std::vector<Var> out = call(op, vars, attrs);
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (!op.out[i].differentiable ||
          std::find(omitted.begin(), omitted.end(), op.out[i].name) != omitted.end()) {
        out[i] = Var();
      }
    }
    return out;
  };
  return gradcheck(f, inputs, options);
}

}  // namespace ls::ag
