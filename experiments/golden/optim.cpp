// Reference results of update rules, clipping and schedules. Optimizer states and parameters are
// kept in the acc type, whatever the check's.
#include <cmath>

#include "core/config/yaml.h"
#include "experiments/golden/golden.h"
#include "optim/clip.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"

namespace ls::optim {
namespace {

using golden::GoldenCall;

template <class Part>
struct Chosen {
  Component<Part> part;
  template <class F>
  void fields(F& f) {
    f("part", part, {.required = true});
  }
};
/// `fields` is the inside of a YAML map, "name: sgd, momentum: 0.9".
template <class Part>
Component<Part> choose(const std::string& fields) {
  return read_config_text<Chosen<Part>>("part: {" + fields + "}", "golden case").part;
}

template <class T>
std::string field(const char* name, const T& value) {
  return fmt::format(", {}: {}", name, value);
}

Tensor stack(const std::vector<Tensor>& parts) {
  Shape shape = parts[0].shape();
  Shape stacked = {static_cast<Index>(parts.size())};
  for (const Index n : shape) {
    stacked.push_back(n);
  }
  Tensor all = Tensor::empty(stacked, parts[0].dtype());
  for (std::size_t i = 0; i < parts.size(); ++i) {
    all.select(0, static_cast<Index>(i)).copy_(parts[i]);
  }
  return all;
}

/// Runs a rule over param0, param1, ... with the gradients grad0 [N,...], ... of N steps.
void run_rule(GoldenCall& c, const std::string& fields) {
  const std::unique_ptr<Optimizer> rule = choose<Optimizer>(fields).make();
  std::vector<ParamSlice> params;
  std::vector<Tensor> all_grads;
  for (std::size_t i = 0; c.has(fmt::format("param{}", i)); ++i) {
    params.push_back({.value = c.acc(fmt::format("param{}", i)).value().to(cpu()).clone()});
    all_grads.push_back(c.acc(fmt::format("grad{}", i)).value().to(cpu()));
  }
  LS_CHECK(!params.empty(), kIo, "the case has no input 'param0'");
  const Index steps = all_grads[0].size(0);
  const Tensor rates = c.has("lrs") ? c.values("lrs") : Tensor();
  const double rate = c.number("lr");
  const bool clips = c.has_attribute("max_norm");
  const double max_norm = c.number("max_norm"), norm_type = c.number("norm_type", 2);

  std::vector<std::vector<Tensor>> states(params.size()), seen(params.size());
  for (std::size_t i = 0; i < params.size(); ++i) {
    for (std::size_t s = 0; s < rule->state_names().size(); ++s) {
      states[i].push_back(Tensor::zeros(params[i].value.shape(), params[i].value.dtype()));
    }
  }
  std::vector<double> norms;
  for (Index n = 0; n < steps; ++n) {
    std::vector<Tensor> grads;
    for (const Tensor& g : all_grads) {
      grads.push_back(g.select(0, n).contiguous());
    }
    StepArgs args = {.lr = rates.defined() ? rates.slow_at(n) : rate, .step = n + 1};
    if (clips) {
      norms.push_back(gradient_norm(grads, norm_type));
      args.grad_scale = clip_factor(norms.back(), max_norm);
    }
    for (std::size_t i = 0; i < params.size(); ++i) {
      params[i].grad = grads[i];
      rule->update(params[i], states[i], args);
      seen[i].push_back(params[i].value.clone());
    }
  }
  for (std::size_t i = 0; i < params.size(); ++i) {
    c.out(fmt::format("params{}", i), stack(seen[i]));
  }
  if (clips) {
    c.out("grad_norm", Tensor::from(norms));
  }
}

LS_GOLDEN(Adamw, "adamw") {
  const std::vector<double> betas = c.numbers("betas");
  LS_CHECK(betas.size() == 2, kIo, "betas has {} numbers, expected 2", betas.size());
  run_rule(c, "name: adamw" + field("beta1", betas[0]) + field("beta2", betas[1]) +
                  field("eps", c.number("eps")) + field("weight_decay", c.number("weight_decay")));
}

LS_GOLDEN(Sgd, "sgd") {
  run_rule(c, "name: sgd" + field("momentum", c.number("momentum")) +
                  field("dampening", c.number("dampening")) +
                  field("weight_decay", c.number("weight_decay")) +
                  field("nesterov", c.flag("nesterov")));
}

LS_GOLDEN(ClipGradNorm, "clip_grad_norm") {
  std::vector<Tensor> grads;
  for (std::size_t i = 0; c.has(fmt::format("grad{}", i)); ++i) {
    grads.push_back(c.acc(fmt::format("grad{}", i)).value().clone());
  }
  const double norm = clip_grad_norm_(grads, c.number("max_norm"), c.number("norm_type", 2));
  for (std::size_t i = 0; i < grads.size(); ++i) {
    c.out(fmt::format("clipped{}", i), grads[i]);
  }
  c.out("grad_norm", Tensor::from(std::vector<double>{norm}));
}

LS_GOLDEN(LrSchedule, "lr_schedule") {
  // Names of the file that are ours under another name.
  static const std::map<std::string, std::string> kNames = {{"constant_with_warmup", "constant"},
                                                            {"cosine_with_min_lr", "cosine"}};
  // Its attributes, and our fields.
  static const std::pair<const char*, const char*> kNumbers[] = {{"num_cycles", "num_cycles"},
                                                                 {"min_lr_rate", "min_share"},
                                                                 {"timescale", "timescale"},
                                                                 {"lr_end", "lr_end"},
                                                                 {"power", "power"},
                                                                 {"min_lr_ratio", "min_share"},
                                                                 {"warmup_steps", "warmup_steps"},
                                                                 {"decay_steps", "decay_steps"},
                                                                 {"stable_steps", "stable_steps"}};
  static const std::pair<const char*, const char*> kTexts[] = {{"warmup_type", "warmup_shape"},
                                                               {"decay_type", "decay_shape"}};
  const std::string kind = c.text("kind");
  const auto ours = kNames.find(kind);
  std::string fields = "name: " + (ours == kNames.end() ? kind : ours->second);
  for (const auto& [theirs, name] : kNumbers) {
    fields += c.has_attribute(theirs) ? field(name, c.number(theirs)) : "";
  }
  for (const auto& [theirs, name] : kTexts) {
    fields += c.has_attribute(theirs) ? field(name, c.text(theirs)) : "";
  }
  const Index steps = c.integer("steps");
  const ScheduleArgs args = {.peak = c.values("peak_lr").item(),
                             .total_steps = c.integer("total_steps", steps)};
  const std::unique_ptr<Schedule> schedule = choose<Schedule>(fields).make(args);
  // Our warm-up is theirs without its first update, at whose rate nothing moves: it is one ahead.
  const Index warmup = c.integer("warmup_steps", 0);
  std::vector<double> rates;
  for (Index n = 0; n < steps; ++n) {
    if (n < warmup) {
      rates.push_back(n > 0 ? schedule->lr(n - 1) : args.peak * c.number("min_lr_ratio", 0));
    } else {
      rates.push_back(schedule->lr(n));
    }
  }
  c.out("lr", Tensor::from(rates));
}

}  // namespace
}  // namespace ls::optim
