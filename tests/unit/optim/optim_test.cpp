#include <doctest/doctest.h>

#include <cmath>

#include "core/config/yaml.h"
#include "optim/clip.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"

using namespace ls;
using namespace ls::optim;

namespace {
struct Chosen {
  Component<Schedule> schedule;
  template <class F>
  void fields(F& f) {
    f("schedule", schedule, {});
  }
};
}  // namespace

TEST_SUITE("unit") {
  TEST_CASE(
      "schedules stay between zero and the peak and are continuous at the end of the warm-up") {
    for (const std::string& name : Schedule::registry().names()) {
      CAPTURE(name);
      const Component<Schedule> chosen(name);
      const auto s = chosen.make(ScheduleArgs{.peak = 0.5, .total_steps = 100});
      for (Index n = 0; n <= 120; ++n) {
        CHECK(s->lr(n) >= 0);
        CHECK(s->lr(n) <= 0.5);
      }
    }
  }

  TEST_CASE("a warm-up begins above zero and rises in equal steps to the peak") {
    for (const std::string& name : Schedule::registry().names()) {
      CAPTURE(name);
      const auto s = read_config_text<Chosen>("schedule: {name: " + name + ", warmup_steps: 8}")
                         .schedule.make(ScheduleArgs{.peak = 0.5, .total_steps = 100});
      for (Index n = 0; n < 8; ++n) {
        CHECK(s->lr(n) == doctest::Approx(0.5 * static_cast<double>(n + 1) / 8));
      }
      CHECK(s->lr(8) == doctest::Approx(0.5));
      CHECK(s->lr(40) > 0);
    }
    const auto slow =
        read_config_text<Chosen>("schedule: {name: wsd, warmup_steps: 4, min_share: 0.2}")
            .schedule.make(ScheduleArgs{.peak = 1, .total_steps = 100});
    CHECK(slow->lr(0) == doctest::Approx(0.4));
  }

  TEST_CASE("a schedule whose parts do not fit is refused") {
    const auto made = [](const std::string& fields, Index steps) {
      return read_config_text<Chosen>("schedule: {" + fields + "}")
          .schedule.make(ScheduleArgs{.peak = 1, .total_steps = steps});
    };
    const std::string wsd = "name: wsd, warmup_steps: 4, stable_steps: 6, decay_steps: 4";
    CHECK_THROWS_WITH_AS(made(wsd, 10), doctest::Contains("are 14, the schedule has 10"), Error);
    CHECK(made(wsd, 14)->lr(13) > 0);
    CHECK_THROWS_AS(made("name: wsd, warmup_steps: 8, decay_steps: 3", 10), Error);
    CHECK_THROWS_AS(made("name: wsd, warmup_share: 0.6, decay_share: 0.6", 10), Error);
    for (const std::string& name : Schedule::registry().names()) {
      CAPTURE(name);
      CHECK_THROWS_WITH_AS(made("name: " + name + ", warmup_steps: 11", 10),
                           doctest::Contains("warm-up of 11 updates does not fit"), Error);
    }
  }

  TEST_CASE(
      "the gradient norm is the same for any number of tensors and notices what is not finite") {
    std::vector<Tensor> grads = {Tensor::full({30000}, DType::kF32, 0.5), Tensor(),
                                 Tensor::full({4}, DType::kF64, 2.0)};
    CHECK(gradient_norm(grads) == doctest::Approx(std::sqrt(30000 * 0.25 + 16)));
    CHECK(gradient_norm(grads, INFINITY) == 2);
    CHECK(clip_grad_norm_(grads, 1.0) > 80);
    CHECK(gradient_norm(grads) == doctest::Approx(1).epsilon(1e-5));
    grads[2].fill_(NAN);
    CHECK(std::isnan(gradient_norm(grads)));
    CHECK(std::isnan(gradient_norm(grads, INFINITY)));
  }

  TEST_CASE("an update that scales gradients equals one with scaled gradients") {
    for (const std::string& name : Optimizer::registry().names()) {
      CAPTURE(name);
      const auto rule = Component<Optimizer>(name).make();
      for (const DType t : {DType::kF32, DType::kF64}) {
        Tensor values[2];
        for (int scaled = 0; scaled < 2; ++scaled) {
          ParamSlice p{Tensor::full({100}, t, 1.0), Tensor::full({100}, t, scaled ? 0.25 : 1.0),
                       true};
          std::vector<Tensor> state;
          for (std::size_t i = 0; i < rule->state_names().size(); ++i) {
            state.push_back(Tensor::zeros({100}, t));
          }
          for (Index n = 1; n <= 3; ++n) {
            rule->update(p, state, {.lr = 0.1, .step = n, .grad_scale = scaled ? 1.0 : 0.25});
          }
          values[scaled] = p.value;
        }
        CHECK(values[0].to_vector<double>() == values[1].to_vector<double>());
        CHECK(values[0].slow_at(0) < 1);
      }
    }
  }
}
