#include "experiments/train_step.h"

#include <cmath>

#include "autograd/tape.h"
#include "core/base/profile.h"
#include "core/op/report.h"
#include "experiments/model_io.h"
#include "experiments/part.h"
#include "optim/clip.h"

namespace ls::experiments {

TrainStep::TrainStep(const RunPart& part)
    : part_(part), schedule_(make_schedule(part.config, part.model_config)) {
  if (part.comm.size() > 1) {
    grad_sync_.emplace(part.comm);
  }
}

StepReport TrainStep::run(const data::Batch& batch, RunState& state) {
  const std::vector<data::Batch> pieces = batch.pieces(part_.config.accumulate);
  part_.model->parameters().clear_grads();
  double totals[2] = {0, 0};  // loss, labels
  const layers::ModelState before = state.carried;
  for (const data::Batch& piece : pieces) {
    totals[0] += forward_backward(piece, state.carried);
    totals[1] += static_cast<double>(piece.labelled);
  }
  if (grad_sync_) {
    part_.comm.all_reduce(totals, 2, DType::kF64);
  }
  StepReport report{.updated = totals[1] > 0, .lr = schedule_->lr(state.step)};
  if (report.updated) {
    apply(pieces, before, totals[0], totals[1], state, report);
    ++state.updates;
  }
  ++state.step;
  state.tokens += batch.global_rows * batch.length;
  return report;
}

void TrainStep::apply(const std::vector<data::Batch>& pieces, const layers::ModelState& before,
                      double loss, double labels, RunState& state, StepReport& report) {
  const std::vector<Tensor> grads = gathered_gradients();
  const double scale = 1.0 / labels;
  report.loss = loss * scale;
  {
    const profile::Scope timed("gradient norm");
    report.gradient_norm = optim::gradient_norm(grads) * scale;
  }
  if (!std::isfinite(report.loss) || !std::isfinite(report.gradient_norm)) {
    std::string origin = origin_of_non_finite(pieces, before);
    // The rows that show it may lie on another rank; the first rank that found it is heard.
    Communicator& comm = part_.comm;
    const int finder =
        comm.reduce_value(origin.empty() ? comm.size() : comm.rank(), ReduceOp::kMin);
    if (finder < comm.size()) {
      parallel::broadcast_text(comm, origin, finder);
    } else {
      origin = "it did not appear again in the same update";
    }
    LS_FAIL(kNumeric,
            "the {} of update {} of model {}, seed {}, is not finite: {}; {}; lower lr, raise the "
            "warm-up or lower clip",
            std::isfinite(report.loss) ? "gradient" : "loss", state.step + 1, part_.model->label(),
            part_.seed, origin, part_.last_good_checkpoint());
  }
  const double limit = part_.config.clip;
  update(grads, scale * (limit > 0 ? optim::clip_factor(report.gradient_norm, limit) : 1.0), state);
}

double TrainStep::forward_backward(const data::Batch& batch, layers::ModelState& carried,
                                   bool check_finite) {
  if (batch.rows == 0) {
    return 0;
  }
  ag::Tape tape;
  tape.set_check_finite(check_finite);
  layers::SeqOptions options = sequence_options(part_.config.scan, batch);
  options.incoming = part_.carries() && batch.continues ? &carried : nullptr;
  options.keep_states = part_.carries();
  const OpReports reports;
  layers::SeqContext seq(batch.rows, batch.length, options);
  layers::Model& model = *part_.model;
  const layers::Model::Loss loss =
      model.loss(model.hidden({batch.tokens, batch.vectors}, seq), batch.labels);
  const auto count = static_cast<double>(batch.labelled);
  const double sum = batch.labelled > 0 ? loss.mean.value().item() * count : 0;
  // Gradients of the sum over tokens; the update divides by the tokens of all pieces and ranks. A
  // batch without labels has none, but what other ranks wait for still runs.
  const ag::Var ends[] = {loss.mean, seq.added_loss()};
  Tensor seeds[2];
  for (int i = 0; i < 2 && batch.labelled > 0; ++i) {
    seeds[i] = ends[i].defined() ? Tensor::full(ends[i].shape(), ends[i].dtype(), count) : Tensor();
  }
  tape.backward(ends, seeds);
  if (part_.carries()) {
    carried = seq.outgoing().detached();
  }
  if (forms_.empty()) {
    forms_ = reports.forms();
  }
  return sum;
}

std::vector<Tensor> TrainStep::gathered_gradients() {
  std::vector<Tensor> grads;
  std::vector<parallel::RawBuffer> buffers;
  for (ag::Parameter& p : part_.model->parameters().items()) {
    if (!p.var.grad().defined()) {
      p.var.mutable_grad() = Tensor::zeros(p.var.shape(), p.var.dtype());
    }
    if (!p.var.grad().is_contiguous()) {
      p.var.mutable_grad() = p.var.grad().contiguous();
    }
    grads.push_back(p.var.grad());
    if (grad_sync_) {
      buffers.push_back({p.var.mutable_grad().raw(), p.var.value().numel(), p.var.grad().dtype()});
    }
  }
  if (grad_sync_) {
    grad_sync_->sum(buffers);
  }
  return grads;
}

void TrainStep::update(const std::vector<Tensor>& grads, double scale, RunState& state) {
  const profile::Scope timed("optimizer");
  const optim::StepArgs args{
      .lr = schedule_->lr(state.step), .step = state.updates + 1, .grad_scale = scale};
  for (std::size_t i = 0; i < grads.size(); ++i) {
    ag::Parameter& p = part_.model->parameters().items()[i];
    optim::ParamSlice slice{p.var.mutable_value(), grads[i], p.decay};
    part_.optimizer->update(slice, state.optimizer[i], args);
  }
}

std::string TrainStep::origin_of_non_finite(const std::vector<data::Batch>& pieces,
                                            layers::ModelState carried) {
  ag::ParameterSet& parameters = part_.model->parameters();
  for (const ag::Parameter& p : parameters.items()) {
    if (!all_finite(p.var.value())) {
      return "parameter " + p.name + " holds a value that is not finite";
    }
  }
  try {
    const ag::CheckFinite check;
    parameters.clear_grads();
    for (const data::Batch& piece : pieces) {
      forward_backward(piece, carried, true);
    }
    for (const ag::Parameter& p : parameters.items()) {
      if (!all_finite(p.var.grad())) {
        return "the sum of gradients of " + p.name + " overflows";
      }
    }
    return "";
  } catch (const Error& e) {
    // The innermost context of a forward pass is the layer.
    const std::string all = e.what(), begin = "\n  while running ";
    const std::size_t at = all.find(begin);
    if (at == std::string::npos) {
      return e.message();
    }
    const std::size_t from = at + begin.size();
    return e.message() + ", computed while running " +
           all.substr(from, all.find('\n', from) - from);
  }
}

}  // namespace ls::experiments
