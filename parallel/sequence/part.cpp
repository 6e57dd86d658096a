#include "parallel/sequence/part.h"

#include <algorithm>
#include <utility>

namespace ls::parallel {

using ag::Var;

Tensor value_of(const Var& v) {
  return v.defined() ? v.value() : Tensor();
}

Part::Part(const layers::ScanInfo& scan, const Vars& inputs, std::shared_ptr<const void> attrs,
           const layers::Stretch& stretch, const layers::ScanCall& call, layers::SeqRunner& runner,
           bool recorded)
    : scan_(scan),
      attrs_(std::move(attrs)),
      stretch_(stretch),
      call_(call),
      runner_(runner),
      recorded_(recorded) {
  for (const Var& v : inputs) {
    in_.push_back(own(v));
  }
  for (Var& v : call_.fresh) {
    v = own(v);
  }
  for (const layers::StatePort& port : scan.states) {
    port_in_.push_back(static_cast<std::size_t>(scan.op->input_index(port.input)));
    port_out_.push_back(static_cast<std::size_t>(scan.op->output_index(port.output)));
  }
}

Device& Part::device() const {
  const auto given = std::find_if(in_.begin(), in_.end(), [](const Var& v) { return v.defined(); });
  return given == in_.end() ? cpu() : given->value().device();
}

/// A leaf of this part's tape.
Var Part::own(const Var& v) const {
  return recorded_ && v.requires_grad() ? Var::leaf(v.value()) : v.detach();
}

Tensors Part::states_of(const Vars& out) const {
  Tensors s;
  for (const std::size_t p : port_out_) {
    s.push_back(value_of(out[p]));
  }
  return s;
}

Tensors Part::given() const {
  Tensors s;
  for (std::size_t p = 0; p < states(); ++p) {
    const ag::NoGrad no_grad;
    s.push_back(value_of(layers::first_states(in_[port_in_[p]], p, stretch_, call_)));
  }
  return s;
}

bool Part::has_fresh() const {
  return std::any_of(call_.fresh.begin(), call_.fresh.end(),
                     [](const Var& v) { return v.defined(); });
}

Tensors Part::empty_states() const {
  Vars in = in_;
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (in[i].defined() && layers::is_sequence(scan_.op->in[i])) {
      in[i] = Var(in[i].value().slice(1, 0, 0));
    }
  }
  for (const std::size_t p : port_in_) {
    in[p] = Var();
  }
  const ag::NoGrad no_grad;
  return states_of(runner_.run(scan_, in, attrs_, layers::Stretch(stretch_.rows(), 0),
                               {.slot = call_.slot, .fresh = {}}));
}

Tensors Part::like_summary() const {
  return scan_.identity ? scan_.identity(values(), attrs()) : Tensors();
}

Tensors Part::incoming() const {
  Tensors s;
  for (const Var& v : states_) {
    s.push_back(value_of(v));
  }
  if (std::any_of(s.begin(), s.end(), [](const Tensor& t) { return !t.defined(); })) {
    const Tensors zeros = empty_states();
    for (std::size_t p = 0; p < s.size(); ++p) {
      s[p] = s[p].defined() ? s[p] : zeros[p];
    }
  }
  return s;
}

Tensors Part::values() const {
  Tensors in;
  for (const Var& v : in_) {
    in.push_back(value_of(v));
  }
  for (const std::size_t p : port_in_) {
    in[p] = Tensor();
  }
  return in;
}

/// The op's derivative needs nothing that a run would have kept.
bool Part::runs_locally() const {
  const OpInfo& op = *scan_.op;
  const DeviceType kernels =
      device().properties().runs_host_code ? DeviceType::kCpu : device().type();
  return scan_.local && !stretch_.has_documents() &&
         std::none_of(op.out.begin(), op.out.end(), [](const ArgSpec& o) { return o.saved; }) &&
         std::none_of(op.kernels.begin(), op.kernels.end(),
                      [&](const Kernel& k) { return k.device == kernels && k.keeps; });
}

const Tensors& Part::summary() {
  if (!summary_.empty()) {
    return summary_;
  }
  const ag::NoGrad no_grad;
  if (out_.empty() && runs_locally()) {
    local_ = scan_.local(values(), attrs());
    summary_ = local_->summary;
    layers::check_summary(scan_, summary_);
    return summary_;
  }
  std::vector<std::vector<Index>> starts;
  for (Index r = 0; r < stretch_.rows() && stretch_.has_documents(); ++r) {
    starts.emplace_back();
    for (const Index s : stretch_.starts(r)) {
      starts.back().push_back(s * call_.updates);
    }
  }
  Tensors fresh;
  for (const Var& v : call_.fresh) {
    fresh.push_back(value_of(v));
  }
  summary_ = layers::summarize(scan_, values(), attrs(), starts, fresh);
  return summary_;
}

Tensors Part::run(const Tensors* states) {
  if (local_) {
    return finish(states);
  }
  Vars in = in_;
  call_.begun = states != nullptr;
  for (std::size_t p = 0; states && p < port_in_.size(); ++p) {
    in[port_in_[p]] = recorded_ ? Var::leaf((*states)[p]) : Var((*states)[p]);
  }
  for (const std::size_t p : port_in_) {
    states_.push_back(in[p]);
  }
  if (recorded_) {
    const ag::EnableGrad enable;
    tape_ = std::make_unique<ag::Tape>();
    out_ = runner_.run(scan_, in, attrs_, stretch_, call_);
    tape_->close();
  } else {
    out_ = runner_.run(scan_, in, attrs_, stretch_, call_);
  }
  return states_of(out_);
}

Tensors Part::finish(const Tensors* states) {
  if (recorded_) {
    const ag::EnableGrad enable;
    tape_ = std::make_unique<ag::Tape>();
    states_.push_back(states ? Var::leaf((*states)[0])
                             : layers::first_states(in_[port_in_[0]], 0, stretch_, call_));
    tape_->close();
  } else {
    states_.emplace_back(states ? (*states)[0] : given()[0]);
  }
  const ag::NoGrad no_grad;
  const Tensors out = layers::finish(scan_, *local_, incoming(), attrs());
  local_->out.clear();
  out_.assign(out.begin(), out.end());
  return states_of(out_);
}

Tensors Part::seeds(std::span<const Tensor> dout, const Tensors& dstates) const {
  Tensors seeds(dout.begin(), dout.end());
  for (std::size_t p = 0; p < states(); ++p) {
    seeds[port_out_[p]] = dstates[p];
  }
  return seeds;
}

Tensors Part::derive(std::span<const Tensor> dout, const Tensors& dstates) {
  const Tensors all = seeds(dout, dstates);
  return local_ ? derive_locally(all) : walk(all, false);
}

Tensors Part::walk(std::span<const Tensor> seeds, bool again) {
  tape_->open();
  tape_->backward(out_, seeds, again);
  tape_->close();
  Tensors d;
  for (Var& s : states_) {
    d.push_back(!s.defined()         ? Tensor()
                : s.grad().defined() ? s.grad()
                                     : Tensor::zeros(s.shape(), s.dtype(), s.value().device()));
  }
  if (again) {
    for (Vars* const list : {&in_, &call_.fresh, &states_}) {
      for (Var& v : *list) {
        if (v.defined()) {
          v.clear_grad();
        }
      }
    }
  }
  return d;
}

/// The op's derivative at the states that came in, then that of where they came from.
Tensors Part::derive_locally(std::span<const Tensor> seeds) {
  const OpInfo& op = *scan_.op;
  Tensors in = values();
  const Tensor s = in[port_in_[0]] = incoming()[0];
  if (std::none_of(seeds.begin(), seeds.end(), [](const Tensor& d) { return d.defined(); })) {
    din_.assign(in.size(), Tensor());
    return {Tensor::zeros(s.shape(), s.dtype(), s.device())};
  }
  const std::vector<ShapeOf> shapes = shapes_of(in);
  std::vector<bool> wanted;
  for (std::size_t i = 0; i < in.size(); ++i) {
    wanted.push_back(in_[i].requires_grad() || i == port_in_[0]);
    if (!op.in[i].saved) {
      in[i] = Tensor();
    }
  }
  Tensors places(places_.begin(), places_.begin() + std::min(std::ssize(places_), std::ssize(in)));
  if (!places.empty()) {
    places[port_in_[0]] = Tensor();
  }
  din_ = run_backward(op, in, Tensors(op.out.size()), seeds, wanted, shapes, op_dtype(op, shapes),
                      attrs_, places);
  const Tensor ds = std::exchange(din_[port_in_[0]], Tensor());
  if (states_[0].defined() && states_[0].requires_grad()) {
    tape_->open();
    tape_->backward(states_, {&ds, 1});
    tape_->close();
  }
  return {ds};
}

Tensor Part::before_documents(const Tensor& of_tokens) const {
  if (!stretch_.has_documents()) {
    return of_tokens;
  }
  Tensor out = of_tokens.clone();
  for (Index r = 0; r < stretch_.rows(); ++r) {
    if (const auto starts = stretch_.starts(r); !starts.empty()) {
      out.slice(0, r, r + 1).slice(1, starts[0] * call_.updates, out.size(1)).zero_();
    }
  }
  return out;
}

Tensors Part::of_outputs(std::span<const Tensor> dout) {
  if (!local_ && !scan_.read_adjoint) {
    return walk(seeds(dout, Tensors(states())), true);
  }
  const Tensor& d = dout[static_cast<std::size_t>(scan_.op->output_index(scan_.read_by))];
  const Tensor& written = summary()[0];  // has the shape of the state
  if (!d.defined()) {
    return {Tensor::zeros(written.shape(), written.dtype(), written.device())};
  }
  const Tensor read = before_documents(d);
  const Tensor ds = local_ ? layers::read_adjoint(local_->reads, read, written.size(1))
                           : scan_.read_adjoint(values(), read, attrs());
  return ds.defined() ? Tensors{ds} : walk(seeds(dout, Tensors(states())), true);
}

void Part::place_gradients(Tensors places) {
  places_ = std::move(places);
  std::size_t i = 0;
  for (Vars* const list : {&in_, &call_.fresh}) {
    for (Var& v : *list) {
      if (v.requires_grad()) {
        v.set_grad_place(places_[i]);
      }
      ++i;
    }
  }
}

Tensors Part::take_gradients() {
  Tensors din;
  for (Vars* const list : {&in_, &call_.fresh}) {
    for (Var& v : *list) {
      const std::size_t i = din.size();
      const bool of_op = local_ && i < in_.size() && i != port_in_[0];
      din.push_back(of_op         ? std::exchange(din_[i], Tensor())
                    : v.defined() ? std::exchange(v.mutable_grad(), Tensor())
                                  : Tensor());
      if (v.defined()) {
        v.set_grad_place({});
      }
    }
  }
  places_.clear();  // what lies there is the caller's alone
  return din;
}

}  // namespace ls::parallel
