#include "experiments/train_step.h"

#include <cmath>

#include "autograd/tape.h"
#include "core/base/profile.h"
#include "core/op/report.h"
#include "experiments/model_io.h"
#include "experiments/part.h"
#include "optim/step.h"

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
  values_ = optim::step_values(part_.model->parameters().device(), state.updates);
  const layers::ModelState before = state.carried;
  for (const data::Batch& piece : pieces) {
    forward_backward(piece, state.carried);
  }
  StepReport report{.updated = gather_loss(pieces) > 0, .lr = schedule_->lr(state.step)};
  if (report.updated) {
    apply(pieces, before, state, report);
    ++state.updates;
  }
  ++state.step;
  state.tokens += batch.global_rows * batch.length;
  return report;
}

double TrainStep::gather_loss(const std::vector<data::Batch>& pieces) {
  double labels = 0;
  for (const data::Batch& piece : pieces) {
    labels += static_cast<double>(piece.labelled);
  }
  if (grad_sync_) {
    double totals[2] = {optim::step_value(values_, optim::StepValue::kLossSum), labels};
    part_.comm.all_reduce(totals, 2, DType::kF64);
    optim::set_step_value(values_, optim::StepValue::kLossSum, totals[0]);
    optim::set_step_value(values_, optim::StepValue::kLabels, totals[1]);
    labels = totals[1];
  }
  return labels;
}

void TrainStep::apply(const std::vector<data::Batch>& pieces, const layers::ModelState& before,
                      RunState& state, StepReport& report) {
  const std::vector<Tensor> grads = gathered_gradients();
  optim::UpdateTargets targets{{}, state.optimizer};
  for (std::size_t i = 0; i < grads.size(); ++i) {
    ag::Parameter& p = part_.model->parameters().items()[i];
    targets.params.push_back({p.var.mutable_value(), grads[i], p.decay});
  }
  optim::value_slot(values_, optim::StepValue::kRate).fill_(report.lr);
  optim::update_all(*part_.optimizer, std::move(targets), values_, part_.config.clip);
  const Tensor values = values_.to(cpu());
  report.loss = optim::step_value(values, optim::StepValue::kLoss);
  report.gradient_norm = optim::step_value(values, optim::StepValue::kNorm);
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
}

void TrainStep::forward_backward(const data::Batch& batch, layers::ModelState& carried,
                                 bool check_finite) {
  if (batch.rows == 0) {
    return;
  }
  ag::Tape tape;
  tape.set_check_finite(check_finite);
  layers::SeqOptions options = sequence_options(part_.config.scan, batch);
  options.incoming = part_.carries() && batch.continues ? &carried : nullptr;
  options.keep_states = part_.carries();
  const OpReports reports;
  layers::SeqContext seq(batch.rows, batch.length, options);
  layers::Model& model = *part_.model;
  Device& device = model.parameters().device();
  const layers::Model::Loss loss =
      model.loss(model.hidden(model_input(batch, device), seq), batch.labels.to(device));
  const auto count = static_cast<double>(batch.labelled);
  // Gradients of the sum over tokens; the update divides by the tokens of all pieces and ranks. A
  // batch without labels has none, but what other ranks wait for still runs.
  const ag::Var ends[] = {loss.mean, seq.added_loss()};
  Tensor seeds[2];
  for (int i = 0; i < 2 && batch.labelled > 0; ++i) {
    seeds[i] = ends[i].defined() ? Tensor::full(ends[i].shape(), ends[i].dtype(), count, device)
                                 : Tensor();
  }
  if (batch.labelled > 0) {
    optim::add_loss(values_, loss.mean.value(), Tensor::full({}, DType::kF64, count, device));
  }
  tape.backward(ends, seeds);
  if (part_.carries()) {
    carried = seq.outgoing().detached();
  }
  if (forms_.empty()) {
    forms_ = reports.forms();
  }
}

std::vector<Tensor> TrainStep::gathered_gradients() {
  std::vector<Tensor> grads;
  std::vector<parallel::RawBuffer> buffers;
  for (ag::Parameter& p : part_.model->parameters().items()) {
    if (!p.var.grad().defined()) {
      const Tensor& place = p.var.grad_place();  // none where it was added later
      p.var.mutable_grad() =
          place.defined() ? place
                          : Tensor::empty(p.var.shape(), p.var.dtype(), p.var.value().device());
      p.var.mutable_grad().zero_();
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
