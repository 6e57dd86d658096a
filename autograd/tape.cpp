#include "autograd/tape.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "autograd/call.h"
#include "autograd/remake.h"
#include "core/base/profile.h"
#include "core/tensor/dispatch.h"

namespace ls::ag {
namespace {
thread_local Tape* innermost = nullptr;
thread_local int no_grad_depth = 0;
std::atomic<std::uint64_t> next_id{1};

// In place when nobody else can see the slot, or it is a place that others may see.
void accumulate(Tensor& slot, Tensor grad, bool shared = false) {
  if (!slot.defined()) {
    slot = std::move(grad);
    return;
  }
  const profile::Scope timed("sum of gradients", "backward");
  if (!shared && (slot.storage_use_count() != 1 || !slot.is_contiguous())) {
    slot = slot.clone();
  }
  slot.add_(grad);
}

/// Places never overlap in part: they are one if they begin at the same element.
bool same_place(const Tensor& a, const Tensor& b) {
  return a.defined() && b.defined() && a.shares_storage(b) &&
         a.layout().offset() == b.layout().offset();
}

/// Nobody else can see it.
bool own(const Tensor& t) {
  return t.storage_use_count() == 1 && t.is_contiguous();
}

bool all_finite(const Tensor& t) {
  if (!is_float(t.dtype())) {
    return true;
  }
  bool finite = true;
  const Tensor c = t.to(cpu()).contiguous();
  dispatch_float(c.dtype(), [&]<class T>() {
    const T* p = c.data<T>();
    for (Index i = 0; i < c.numel() && finite; ++i) {
      finite = std::isfinite(convert<double>(p[i]));
    }
  });
  return finite;
}
}  // namespace

bool same_elements(const Tensor& a, const Tensor& b) {
  if (!a.shares_storage(b) || a.layout().offset() != b.layout().offset() ||
      a.dtype() != b.dtype() || !(a.shape() == b.shape())) {
    return false;
  }
  for (int axis = 0; axis < a.rank(); ++axis) {
    if (a.size(axis) > 1 && a.stride(axis) != b.stride(axis)) {
      return false;
    }
  }
  return true;
}

Saved::Saved(const Tensor& t)
    : tensor_(t),
      version_(t.version()),
      remade_(Remaking::current() ? Remaking::current()->find(t) : nullptr) {}

const Tensor& Saved::get(const std::string& node) const {
  if (remade_) {
    remade_->make();
  }
  LS_CHECK(!tensor_.defined() || tensor_.version() == version_, kInternal,
           "{}: a tensor that the backward pass needs ({}) was changed in place after it was saved",
           node, tensor_.describe());
  return tensor_;
}

Tape::Tape() : id_(next_id++), check_finite_(innermost && innermost->check_finite_) {
  open();
}

void Tape::open() {
  LS_CHECK(!open_, kInternal, "a tape is opened twice");
  outer_ = innermost;
  innermost = this;
  open_ = true;
}

void Tape::close() {
  LS_CHECK(innermost == this, kInternal, "a tape is closed that is not the innermost");
  innermost = outer_;
  outer_ = nullptr;
  open_ = false;
}

Tape::~Tape() {
  // From the end, in a loop: no recursion through saved tensors, however long the tape.
  while (!nodes_.empty()) {
    nodes_.pop_back();
  }
  if (open_) {
    innermost = outer_;
  }
}

Tape* Tape::current() {
  return innermost;
}

bool Tape::records(std::span<const Var> inputs) {
  if (!innermost || no_grad_depth > 0) {
    return false;
  }
  for (const Var& v : inputs) {
    if (v.requires_grad()) {
      return true;
    }
  }
  return false;
}

std::vector<Var> Tape::record(std::unique_ptr<NodeFn> fn, std::span<const Var> inputs,
                              std::span<const Tensor> outputs) {
  Node node;
  node.inputs.reserve(inputs.size());
  for (const Var& v : inputs) {
    InputRef ref;
    if (v.requires_grad()) {
      const VarData& d = *v.data();
      ref.wanted = true;
      if (d.node < 0) {
        ref.leaf = v.data();
      } else {
        LS_CHECK(d.tape_id == id_, kInternal,
                 "{}: an input was recorded on another tape; detach it or compute it again",
                 fn->name());
        ref.node = d.node;
        ref.output = d.output;
      }
    }
    node.inputs.push_back(std::move(ref));
  }
  std::vector<Var> vars;
  vars.reserve(outputs.size());
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    Var v{outputs[i]};
    node.dtypes.push_back(v.defined() ? v.dtype() : DType::kF32);
    if (v.defined() && is_float(v.dtype())) {
      VarData& d = *v.data_;
      d.requires_grad = true;
      d.tape_id = id_;
      d.node = static_cast<Index>(nodes_.size());
      d.output = static_cast<int>(i);
    }
    vars.push_back(std::move(v));
  }
  node.grads.resize(outputs.size());
  node.fn = std::move(fn);
  if (check_finite_) {
    node.made_while = innermost_context();
  }
  nodes_.push_back(std::move(node));
  return vars;
}

bool Tape::Place::holds(const Tensor& t) const {
  return view.defined() && t.defined() && same_elements(t, view);
}

Tape::InputRef Tape::ref_of(const Var& v) {
  const std::shared_ptr<VarData>& d = v.data();
  InputRef ref;
  ref.leaf = d->node < 0 ? d : nullptr;
  ref.node = d->node;
  ref.output = d->output;
  return ref;
}

Tensor& Tape::gradient_of(const InputRef& ref) {
  return ref.leaf ? ref.leaf->grad
                  : nodes_[static_cast<std::size_t>(ref.node)]
                        .grads[static_cast<std::size_t>(ref.output)];
}

Tape::Place Tape::place(const InputRef& ref) {
  if (ref.leaf) {
    Tensor& grad = ref.leaf->grad;
    const Tensor& fixed = ref.leaf->grad_place;
    if (!grad.defined()) {
      return {fixed, &grad, fixed, fixed.defined(), fixed.defined()};
    }
    const bool there = fixed.defined() && same_elements(grad, fixed);
    return there || own(grad) ? Place{grad.adding(), &grad, grad, there, there} : Place{};
  }
  if (ref.node < 0) {
    return {};
  }
  Node& node = nodes_[static_cast<std::size_t>(ref.node)];
  const Tensor& slot = node.grads[static_cast<std::size_t>(ref.output)];
  Place p;
  if (node.fn->hands_on()) {
    p = place(node.inputs.front());
    p.view = p.fixed ? node.fn->place_of(ref.output, p.view) : Tensor();
  } else {
    const Tensor view = node.fn->place_of(ref.output, {});
    p = {view, &gradient_of(ref), view, view.defined(), false};
  }
  if (!p.view.defined() || (slot.defined() && !same_elements(slot, p.view))) {
    return slot.defined() && own(slot) ? Place{slot.adding(), &gradient_of(ref), slot} : Place{};
  }
  p.view = p.view.adding(p.view.adds() || slot.defined());
  return p;
}

Tape::Place Tape::leaf_place(const Var& v) {
  const Place p = v.requires_grad() ? place(ref_of(v)) : Place{};
  return p.of_leaf ? p : Place{};
}

void Tape::add_gradient(const InputRef& ref, Tensor grad, bool handed_on) {
  if (handed_on) {
    const Place p = place(ref);
    if (p.fixed && p.view.adds() && p.holds(grad)) {
      return;  // put there by who computed it
    }
  }
  if (!ref.leaf) {
    Tensor& slot = gradient_of(ref);
    const bool in_place = slot.defined() && [&] {
      const Place p = place(ref);
      return p.fixed && p.holds(slot);
    }();
    accumulate(slot, std::move(grad), in_place);
    return;
  }
  VarData& leaf = *ref.leaf;
  if (!leaf.grad.defined() && leaf.grad_place.defined()) {
    leaf.grad_place.copy_(grad);
    leaf.grad = leaf.grad_place;
    return;
  }
  // Leaves own their gradients: sums over ranks are taken in place.
  if (!leaf.grad.defined() && grad.storage_use_count() != 1) {
    grad = grad.clone();
  }
  accumulate(leaf.grad, std::move(grad), leaf.grad_place.defined());
}

void Tape::backward(const Var& loss, const Tensor& seed) {
  Tensor s = seed;
  if (!s.defined()) {
    LS_CHECK(loss.value().numel() == 1, kShape, "backward needs a seed for an output of shape {}",
             loss.shape().str());
    s = Tensor::full(loss.shape(), loss.dtype(), 1.0, loss.value().device());
  }
  backward(std::span<const Var>(&loss, 1), std::span<const Tensor>(&s, 1));
}

void Tape::backward(std::span<const Var> outputs, std::span<const Tensor> seeds, bool keep) {
  LS_CHECK(innermost == this, kInternal, "backward runs on the innermost tape");
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].requires_grad() || !seeds[i].defined()) {
      continue;
    }
    const std::shared_ptr<VarData>& d = outputs[i].data();
    LS_CHECK(d->node < 0 || d->tape_id == id_, kInternal,
             "backward of a value that another tape recorded");
    add_gradient(ref_of(outputs[i]), seeds[i]);
  }
  const NoGrad no_grad;
  for (Index i = size() - 1; i >= 0; --i) {
    Node& node = nodes_[static_cast<std::size_t>(i)];
    step_back(node);
    if (keep) {
      node.grads.assign(node.grads.size(), Tensor());
    } else {
      nodes_.pop_back();
    }
  }
}

// From the gradients of a node's outputs to those of its inputs.
void Tape::step_back(Node& node) {
  bool reached = node.fn->must_run();
  for (std::size_t i = 0; i < node.grads.size(); ++i) {
    Tensor& g = node.grads[i];
    reached |= g.defined();
    if (g.defined() && g.dtype() != node.dtypes[i] && !node.fn->takes_wider_gradients()) {
      g = g.to(node.dtypes[i]);
    }
  }
  if (!reached) {
    return;
  }
  std::vector<bool> wanted(node.inputs.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    wanted[i] = node.inputs[i].wanted;
  }
  std::vector<Tensor> din(node.inputs.size());
  std::vector<Place> places(din.size());
  for (std::size_t i = 0; i < din.size(); ++i) {
    if (!wanted[i] || !node.fn->takes_place(i)) {
      continue;
    }
    Place p = place(node.inputs[i]);
    const bool taken =  // by another input that is the same value
        std::ranges::any_of(places, [&](const Place& q) { return same_place(p.view, q.view); });
    if (!taken) {
      din[i] = p.view;
      places[i] = std::move(p);
    }
  }
  {
    const std::string name = node.fn->name();
    const profile::Scope timed(name, "backward");
    node.fn->backward(node.grads, wanted, din);
  }
  for (std::size_t i = 0; i < din.size(); ++i) {
    if (!din[i].defined() || !wanted[i]) {
      continue;
    }
    const auto in_place_of_another = [&](const Place& p) {
      return !places[i].holds(din[i]) && same_place(din[i], p.view);
    };
    if (std::ranges::any_of(places, in_place_of_another)) {
      din[i] = din[i].clone();  // one tensor for two: what is added to one is not the other's
    }
    if (check_finite_) {
      CheckFinite::tell(all_finite(din[i]), [&] {
        return Error(
            ErrorKind::kNumeric,
            fmt::format("the gradient of input {} of {} is the first that is not finite{}", i,
                        node.fn->name(),
                        node.made_while.empty() ? "" : ", computed while " + node.made_while));
      });
    }
    const InputRef& ref = node.inputs[i];
    if (places[i].holds(din[i])) {
      places[i].written();
      gradient_of(ref) = din[i].adding(false);
    } else {
      places[i] = {};  // a handle less on what is added to
      add_gradient(ref, std::move(din[i]), node.fn->hands_on());
    }
  }
}

NoGrad::NoGrad() {
  ++no_grad_depth;
}
NoGrad::~NoGrad() {
  --no_grad_depth;
}
EnableGrad::EnableGrad() : depth_(no_grad_depth) {
  no_grad_depth = 0;
}
EnableGrad::~EnableGrad() {
  no_grad_depth = depth_;
}
bool grad_enabled() {
  return no_grad_depth == 0;
}

}  // namespace ls::ag
