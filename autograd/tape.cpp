#include "autograd/tape.h"

#include <atomic>
#include <cmath>

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

bool same_place(const Tensor& a, const Tensor& b) {
  return a.shares_storage(b) && a.layout().offset() == b.layout().offset();
}

// A leaf's gradient into its place, where it may have been made already.
void put(VarData& leaf, const Tensor& grad) {
  if (leaf.grad.defined()) {
    accumulate(leaf.grad, grad, true);
    return;
  }
  if (!same_place(grad, leaf.grad_place) || !grad.is_contiguous()) {
    leaf.grad_place.copy_(grad);
  }
  leaf.grad = leaf.grad_place;
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

const Tensor& Saved::get(const std::string& node) const {
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

void Tape::add_gradient(const InputRef& ref, Tensor grad) {
  if (ref.leaf && ref.leaf->grad_place.defined()) {
    put(*ref.leaf, grad);
  } else if (ref.leaf) {
    // Leaves own their gradients: sums over ranks are taken in place.
    if (!ref.leaf->grad.defined() && grad.storage_use_count() != 1) {
      grad = grad.clone();
    }
    accumulate(ref.leaf->grad, std::move(grad));
  } else {
    Node& node = nodes_[ref.node];
    accumulate(node.grads[ref.output], std::move(grad));
  }
}

Tensor Tape::place(const InputRef& ref) {
  const Shape* shape = nullptr;
  const InputRef* at = &ref;
  while (!at->leaf && at->node >= 0) {
    Node& node = nodes_[at->node];
    if (node.grads[at->output].defined()) {
      return {};
    }
    if (const Shape* const reshaped = node.fn->only_reshapes()) {
      shape = shape ? shape : reshaped;
      at = node.inputs.data();
      continue;
    }
    const Tensor p = node.fn->gradient_place(at->output);
    if (!p.defined() || !shape) {
      return p;
    }
    const Tensor view = p.reshape(*shape);
    return view.shares_storage(p) ? view : Tensor();
  }
  if (!at->leaf || at->leaf->grad.defined() || !at->leaf->grad_place.defined()) {
    return {};
  }
  return shape ? at->leaf->grad_place.view(*shape) : at->leaf->grad_place;
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
    InputRef ref;
    ref.leaf = d->node < 0 ? d : nullptr;
    ref.node = d->node;
    ref.output = d->output;
    add_gradient(ref, seeds[i]);
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
  for (std::size_t i = 0; i < din.size(); ++i) {
    const bool is_leaf = node.inputs[i].leaf != nullptr;
    if (wanted[i] && (is_leaf ? node.fn->takes_leaf_place(i) : node.fn->takes_place(i))) {
      din[i] = place(node.inputs[i]);
    }
    for (std::size_t j = 0; din[i].defined() && j < i; ++j) {
      if (din[j].defined() && same_place(din[i], din[j])) {  // a leaf that is two inputs
        din[i] = Tensor();
      }
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
    LS_CHECK(!check_finite_ || all_finite(din[i]), kNumeric,
             "the gradient of input {} of {} is the first that is not finite{}", i, node.fn->name(),
             node.made_while.empty() ? "" : ", computed while " + node.made_while);
    add_gradient(node.inputs[i], std::move(din[i]));
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
