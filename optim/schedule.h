#pragma once
// Learning-rate schedules: each is one small file in optim/schedules.
#include <memory>

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
  /// Learning rate after n updates: the first update uses lr(0).
  virtual double lr(Index n) const = 0;
};

/// Warm-up shared by the schedules: steps, or a share of the run.
struct Warmup {
  Index steps = 0;
  double share = 0;
  template <class F>
  void fields(F& f) {
    f("warmup_steps", steps, {.help = "updates over which the rate rises from 0", .min = 0});
    f("warmup_share", share, {.help = "the same as a share of all steps", .min = 0, .max = 1});
    f.check(steps == 0 || share == 0, "warmup_share",
            "is given together with warmup_steps; keep one");
  }
  Index count(Index total) const {
    return steps > 0 ? steps : static_cast<Index>(share * static_cast<double>(total));
  }
};

}  // namespace ls::optim
