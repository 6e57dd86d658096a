#pragma once
// Learning-rate schedules: each is one small file in optim/schedules.
#include <memory>

#include "core/base/error.h"
#include "core/config/component.h"

namespace ls::optim {

struct ScheduleArgs {
  double peak = 1;        ///< learning rate at the top
  Index total_steps = 1;  ///< of the whole run
};

class Schedule {
 public:
  using Registry = ComponentRegistry<Schedule, const ScheduleArgs&>;
  static Registry& registry();
  virtual ~Schedule() = default;
  /// Learning rate after n updates: the first update uses lr(0), which a warm-up makes positive.
  virtual double lr(Index n) const = 0;
};

/// Warm-up shared by the schedules: steps, or a share of the run.
struct Warmup {
  Index steps = 0;
  double share = 0;
  template <class F>
  void fields(F& f) {
    f("warmup_steps", steps,
      {.help = "updates over which the rate rises to the peak, in equal steps from the first on",
       .min = 0});
    f("warmup_share", share, {.help = "the same as a share of all steps", .min = 0, .max = 1});
    f.check(steps == 0 || share == 0, "warmup_share",
            "is given together with warmup_steps; keep one");
  }
  /// @throws Error(Config) where it does not fit a run of `total` updates
  Index count(Index total) const {
    LS_CHECK(steps <= total, kConfig,
             "a warm-up of {} updates does not fit a schedule of {}; lower warmup_steps, give "
             "warmup_share, or raise steps",
             steps, total);
    return steps > 0 ? steps : static_cast<Index>(share * static_cast<double>(total));
  }
};

}  // namespace ls::optim
