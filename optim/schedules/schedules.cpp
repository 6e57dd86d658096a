// The schedules of transformers' get_scheduler family, by the definitions of their documentation:
// w warm-up steps, T total steps, n updates made, p = (n - w) / (T - w). The warm-up alone is
// another: theirs gives the update after n others the share n / w of the peak, so that the first
// moves nothing; ours gives it (n + 1) / w.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>

#include "optim/schedule.h"

namespace ls {
namespace optim {
enum class EndShape : std::uint8_t { kLinear, kCosine, kOneMinusSqrt };
}
template <>
struct EnumNames<optim::EndShape> {
  static constexpr std::string_view kKind = "shape";
  static constexpr std::array<std::string_view, 3> kNames = {"linear", "cosine", "1-sqrt"};
};
}  // namespace ls

namespace ls::optim {

Schedule::Registry& Schedule::registry() {
  static auto* const registry = new Registry("schedule");
  return *registry;
}

namespace {

double cosine_half(double x) {
  return 0.5 * (1 + std::cos(std::numbers::pi * x));
}

/// Linear warm-up to the peak, then what `after` says of the progress p.
class WarmedUp : public Schedule {
 public:
  WarmedUp(const Warmup& warmup, const ScheduleArgs& args)
      : args_(args), warmup_(warmup.count(args.total_steps)) {}
  double lr(Index n) const final {
    if (n < warmup_) {
      return args_.peak * static_cast<double>(n + 1) / static_cast<double>(warmup_);
    }
    return after(n, static_cast<double>(n - warmup_) /
                        static_cast<double>(std::max<Index>(1, args_.total_steps - warmup_)));
  }

 protected:
  virtual double after(Index n, double p) const = 0;
  ScheduleArgs args_;
  Index warmup_;
};

class Constant final : public WarmedUp {
 public:
  using Config = Warmup;
  Constant(const Config& c, const ScheduleArgs& a) : WarmedUp(c, a) {}
  double after(Index, double) const override { return args_.peak; }
};
LS_REGISTER(Schedule, Constant, "constant", "the peak rate after the warm-up");

class LinearDecay final : public WarmedUp {
 public:
  using Config = Warmup;
  LinearDecay(const Config& c, const ScheduleArgs& a) : WarmedUp(c, a) {}
  double after(Index, double p) const override { return args_.peak * std::max(0.0, 1 - p); }
};
LS_REGISTER(Schedule, LinearDecay, "linear", "linear decay to zero at the last step");

class Cosine final : public WarmedUp {
 public:
  struct Config : Warmup {
    double num_cycles = 0.5, min_share = 0;
    template <class F>
    void fields(F& f) {
      Warmup::fields(f);
      f("num_cycles", num_cycles,
        {.help = "waves of the cosine; half a wave ends at the minimum", .above = 0});
      f("min_share", min_share, {.help = "lowest rate over the peak", .min = 0, .max = 1});
    }
  };
  Cosine(const Config& c, const ScheduleArgs& a) : WarmedUp(c, a), c_(c) {}
  double after(Index, double p) const override {
    const double f = cosine_half(2 * c_.num_cycles * p);
    return args_.peak * std::max(0.0, f * (1 - c_.min_share) + c_.min_share);
  }

 private:
  Config c_;
};
LS_REGISTER(Schedule, Cosine, "cosine", "cosine decay to min_share of the peak");

class CosineRestarts final : public WarmedUp {
 public:
  struct Config : Warmup {
    double num_cycles = 1;
    template <class F>
    void fields(F& f) {
      Warmup::fields(f);
      f("num_cycles", num_cycles, {.help = "decays from the peak to zero", .above = 0});
    }
  };
  CosineRestarts(const Config& c, const ScheduleArgs& a) : WarmedUp(c, a), c_(c) {}
  double after(Index, double p) const override {
    return p >= 1 ? 0 : args_.peak * std::max(0.0, cosine_half(std::fmod(c_.num_cycles * p, 1.0)));
  }

 private:
  Config c_;
};
LS_REGISTER(Schedule, CosineRestarts, "cosine_with_restarts",
            "cosine decay to zero, again and again");

class Polynomial final : public WarmedUp {
 public:
  struct Config : Warmup {
    double power = 1, lr_end = 1e-7;
    template <class F>
    void fields(F& f) {
      Warmup::fields(f);
      f("power", power, {.help = "exponent of the share of steps that is left", .above = 0});
      f("lr_end", lr_end, {.help = "rate at the last step and after", .min = 0});
    }
  };
  Polynomial(const Config& c, const ScheduleArgs& a) : WarmedUp(c, a), c_(c) {}
  double after(Index n, double p) const override {
    return n > args_.total_steps ? c_.lr_end
                                 : (args_.peak - c_.lr_end) * std::pow(1 - p, c_.power) + c_.lr_end;
  }

 private:
  Config c_;
};
LS_REGISTER(Schedule, Polynomial, "polynomial", "(peak - lr_end) (1 - p)^power + lr_end");

class InverseSqrt final : public WarmedUp {
 public:
  struct Config : Warmup {
    std::optional<double> timescale;
    template <class F>
    void fields(F& f) {
      Warmup::fields(f);
      f("timescale", timescale,
        {.help = "steps; the warm-up (10000 without one) when null", .above = 0});
    }
  };
  InverseSqrt(const Config& c, const ScheduleArgs& a) : WarmedUp(c, a) {
    timescale_ = c.timescale.value_or(warmup_ > 0 ? static_cast<double>(warmup_) : 10000.0);
  }
  double after(Index n, double) const override {
    const double shift = timescale_ - static_cast<double>(warmup_);
    return args_.peak / std::sqrt((static_cast<double>(n) + shift) / timescale_);
  }

 private:
  double timescale_;
};
LS_REGISTER(Schedule, InverseSqrt, "inverse_sqrt", "peak / sqrt of the step");

/// Warm-up, plateau, decay, each end scaled to min_share (Hu et al. 2404.06395).
class Wsd final : public Schedule {
 public:
  struct Config : Warmup {
    std::optional<Index> decay_steps, stable_steps;
    double decay_share = 0.1, min_share = 0;
    EndShape warmup_shape = EndShape::kLinear, decay_shape = EndShape::kLinear;
    template <class F>
    void fields(F& f) {
      Warmup::fields(f);
      f("decay_steps", decay_steps,
        {.help = "updates of the final decay; decay_share of all when null", .min = 0});
      f("stable_steps", stable_steps,
        {.help = "updates at the peak; the rest of the run when null", .min = 0});
      f("decay_share", decay_share,
        {.help = "final decay as a share of all steps", .min = 0, .max = 1});
      f("min_share", min_share, {.help = "rate over the peak at both ends", .min = 0, .max = 1});
      f("warmup_shape", warmup_shape, {.help = "how the rate rises"});
      f("decay_shape", decay_shape, {.help = "how the rate falls"});
    }
  };
  Wsd(const Config& c, const ScheduleArgs& a)
      : c_(c), peak_(a.peak), warmup_(c.count(a.total_steps)) {
    decay_ = c.decay_steps.value_or(
        static_cast<Index>(c.decay_share * static_cast<double>(a.total_steps)));
    stable_ = c.stable_steps.value_or(std::max<Index>(0, a.total_steps - warmup_ - decay_));
    LS_CHECK(
        warmup_ + stable_ + decay_ <= a.total_steps, kConfig,
        "a warm-up of {}, a plateau of {} and a decay of {} updates are {}, the schedule has {}; "
        "lower one of them, leave stable_steps out, or raise steps",
        warmup_, stable_, decay_, warmup_ + stable_ + decay_, a.total_steps);
  }
  double lr(Index n) const override {
    const auto scaled = [&](double f) { return peak_ * (f * (1 - c_.min_share) + c_.min_share); };
    if (n < warmup_) {
      const double p = static_cast<double>(n + 1) / static_cast<double>(warmup_);
      return scaled(1 - fall(c_.warmup_shape, p, true));
    }
    if (n < warmup_ + stable_) {
      return peak_;
    }
    if (n < warmup_ + stable_ + decay_) {
      return scaled(fall(c_.decay_shape,
                         static_cast<double>(n - warmup_ - stable_) / static_cast<double>(decay_),
                         false));
    }
    return peak_ * c_.min_share;
  }

 private:
  /// From 1 at p = 0 to 0 at p = 1. The square root of a rise is taken from its far end.
  static double fall(EndShape shape, double p, bool rise) {
    switch (shape) {
      case EndShape::kLinear:
        return 1 - p;
      case EndShape::kCosine:
        return cosine_half(p);
      case EndShape::kOneMinusSqrt:
        return rise ? std::sqrt(1 - p) : 1 - std::sqrt(p);
    }
    return 0;
  }
  Config c_;
  double peak_;
  Index warmup_, stable_ = 0, decay_ = 0;
};
LS_REGISTER(Schedule, Wsd, "wsd", "warm-up, stable plateau, decay (Hu et al. 2024)");

}  // namespace
}  // namespace ls::optim
