#include "autograd/call.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "autograd/remake.h"
#include "autograd/tape.h"

namespace ls::ag {
namespace {

thread_local CheckFinite* check_finite = nullptr;

class OpNode final : public NodeFn {
 public:
  /// `done`: an input whose gradient is in its place already, or -1.
  OpNode(const OpInfo& op, std::span<const Tensor> in, std::span<const Tensor> out,
         Attributes attrs, Kept kept, int done)
      : op_(op),
        attrs_(std::move(attrs)),
        kept_(std::move(kept)),
        done_(done),
        shapes_(shapes_of(in)),
        dtype_(op_dtype(op, shapes_)),
        in_(in.size()),
        out_(out.size()) {
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (op.in[i].saved && in[i].defined()) {
        in_[i] = Saved(in[i]);
      }
    }
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (op.out[i].saved && out[i].defined()) {
        out_[i] = Saved(out[i]);
      }
    }
  }
  std::string name() const override { return op_.name; }
  bool takes_place(std::size_t) const override { return true; }
  void backward(std::span<const Tensor> dout, const std::vector<bool>& wanted,
                std::span<Tensor> din) override {
    const std::vector<Tensor> in = load(in_);
    const std::vector<Tensor> out = load(out_);
    std::vector<bool> missing = wanted;
    if (done_ >= 0) {
      LS_CHECK(!std::exchange(walked_, true), kInternal,
               "{}: the gradient of {} was put in its place by the forward pass: one backward pass",
               op_.name, op_.in[static_cast<std::size_t>(done_)].name);
      missing[static_cast<std::size_t>(done_)] = false;
    }
    std::vector<Tensor> grads =
        run_backward(op_, in, out, dout, missing, shapes_, dtype_, attrs_, din, kept_);
    std::move(grads.begin(), grads.end(), din.begin());
  }

 private:
  std::vector<Tensor> load(const std::vector<Saved>& saved) const {
    std::vector<Tensor> out;
    out.reserve(saved.size());
    for (const Saved& s : saved) {
      out.push_back(s.get(op_.name));
    }
    return out;
  }
  const OpInfo& op_;
  Attributes attrs_;
  Kept kept_;
  int done_;
  bool walked_ = false;
  std::vector<ShapeOf> shapes_;
  DType dtype_;
  std::vector<Saved> in_, out_;
};

void check_outputs(const OpInfo& op, std::span<const Tensor> out) {
  for (std::size_t k = 0; k < out.size(); ++k) {
    if (!out[k].defined() || !is_float(out[k].dtype())) {
      continue;
    }
    const Tensor t = out[k].to(cpu()).to(DType::kF64).contiguous();
    const std::span<const double> x(t.data<double>(), static_cast<std::size_t>(t.numel()));
    const auto at = std::ranges::find_if_not(x, [](double v) { return std::isfinite(v); });
    CheckFinite::tell(at == x.end(), [&] {
      return Error(ErrorKind::kNumeric,
                   fmt::format("op {}: output {} ({}) is {} at element {}", op.name, op.out[k].name,
                               out[k].describe(), *at, at - x.begin()));
    });
  }
}

std::vector<Var> call_with(const OpInfo& op, std::span<const Var> inputs, Attributes attrs,
                           const std::vector<bool>& spent, std::vector<Tensor> places = {}) {
  std::vector<Tensor> in;
  in.reserve(inputs.size());
  for (const Var& v : inputs) {
    in.push_back(v.defined() ? v.value() : Tensor());
  }
  const bool recorded = Tape::records(inputs);
  for (std::size_t i = 0; recorded && i < inputs.size(); ++i) {
    LS_CHECK(
        !inputs[i].requires_grad() || op.in[i].differentiable, kUnsupported,
        "op {}: input {} has no gradient, but one is wanted; detach() it where it is meant as a "
        "constant",
        op.name, op.in[i].name);
  }
  Kept kept;
  Tape::Place place;
  const auto [input, output] = op.gradient_in_forward;
  if (recorded && input >= 0) {
    place = Tape::current()->leaf_place(inputs[static_cast<std::size_t>(input)]);
    places.resize(op.out.size());
    places[static_cast<std::size_t>(output)] = place.view;
  }
  std::vector<Tensor> out = run_forward(op, in, attrs, spent, recorded ? &kept : nullptr, places);
  if (check_finite) {
    check_outputs(op, out);
  }
  const bool done = input >= 0 && place.holds(out[static_cast<std::size_t>(output)]);
  if (done) {
    place.written();
    out[static_cast<std::size_t>(output)] = Tensor();
  }
  if (recorded) {
    if (Remaking* const remaking = Remaking::current()) {
      remaking->note(op, in, out, attrs);
    }
    return Tape::current()->record(
        std::make_unique<OpNode>(op, in, out, std::move(attrs), std::move(kept), done ? input : -1),
        inputs, out);
  }
  return std::vector<Var>(out.begin(), out.end());
}

}  // namespace

std::vector<Var> call(const OpInfo& op, std::span<const Var> inputs,
                      std::shared_ptr<const void> attrs) {
  return call_with(op, inputs, std::move(attrs), {});
}

std::vector<Var> call(const OpInfo& op, std::span<const Var> inputs,
                      std::shared_ptr<const void> attrs, std::vector<Tensor> places) {
  return call_with(op, inputs, std::move(attrs), {}, std::move(places));
}

std::vector<Var> call(const OpInfo& op, std::vector<Var>&& inputs,
                      std::shared_ptr<const void> attrs) {
  std::vector<bool> spent;
  if (op.continues() && !Tape::records(inputs)) {
    for (const Var& v : inputs) {
      spent.push_back(v.data().use_count() == 1 && v.value().storage_use_count() == 1);
    }
  }
  return call_with(op, inputs, std::move(attrs), spent);
}

CheckFinite::CheckFinite(Found found) : found_(found), around_(check_finite) {
  check_finite = this;
}
CheckFinite::~CheckFinite() {
  check_finite = around_;
}

void CheckFinite::tell(bool finite, const std::function<Error()>& fault) {
  CheckFinite* const asked = check_finite;
  if (!finite && (!asked || asked->found_ == Found::kThrown)) {
    throw fault();
  }
  if (asked && !asked->first_) {
    if (finite) {
      ++asked->passed_;
    } else {
      asked->first_ = fault();
    }
  }
}

}  // namespace ls::ag
