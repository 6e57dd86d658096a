#include "parallel/sequence/heads.h"

#include <algorithm>

#include "autograd/tape.h"

namespace ls::parallel {
namespace {

using ag::Var;

int head_axis(const layers::ScanInfo& scan, const ArgSpec& arg) {
  const auto axis = std::find_if(arg.axes.begin(), arg.axes.end(), [&](const Axis& a) {
    return std::find(scan.heads.begin(), scan.heads.end(), a.text) != scan.heads.end();
  });
  return -static_cast<int>(arg.axes.end() - axis);
}

}  // namespace

HeadParts::HeadParts(const layers::ScanInfo& scan, const Vars& inputs, int wanted) {
  for (const ArgSpec& a : scan.op->in) {
    in_.push_back(head_axis(scan, a));
  }
  for (const layers::StatePort& port : scan.states) {
    in_.push_back(in_[static_cast<std::size_t>(scan.op->input_index(port.input))]);
  }
  for (const ArgSpec& a : scan.op->out) {
    out_.push_back(head_axis(scan, a));
  }
  bool falls = std::all_of(out_.begin(), out_.end(), [](int axis) { return axis < 0; });
  for (std::size_t i = 0; i < inputs.size() && falls; ++i) {
    const Index n = inputs[i].defined() && in_[i] < 0 ? inputs[i].size(in_[i]) : wanted;
    falls = n > 0 && n % wanted == 0;
  }
  count_ = falls ? wanted : 1;
}

Tensor HeadParts::part_of(const Tensor& all, int axis, int part) const {
  if (!all.defined() || axis == 0 || count_ == 1) {
    return all;
  }
  const Index n = all.size(axis) / count_;
  return all.slice(axis, part * n, (part + 1) * n);
}

Tensor HeadParts::of_input(const Tensor& all, std::size_t i, int part) const {
  return part_of(all, in_[i], part);
}
Tensor HeadParts::of_output(const Tensor& all, std::size_t i, int part) const {
  return part_of(all, out_[i], part);
}

HeadParts::Vars HeadParts::inputs(const Vars& all, int part) const {
  Vars some;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Tensor x = all[i].defined() ? of_input(all[i].value(), i, part) : Tensor();
    some.push_back(all[i].requires_grad() ? Var::leaf(x) : Var(x));
  }
  return some;
}

layers::ScanCall HeadParts::call(const layers::ScanCall& all, std::span<const Tensor> places,
                                 int part) const {
  layers::ScanCall some = all;
  for (std::size_t i = 0; i < places.size(); ++i) {
    some.places.push_back(of_output(places[i], i, part));
  }
  const std::size_t ports = in_.size() - all.fresh.size();
  for (std::size_t p = 0; p < all.fresh.size(); ++p) {
    const Var& f = all.fresh[p];
    const Tensor x = f.defined() ? of_input(f.value(), ports + p, part) : Tensor();
    some.fresh[p] = f.requires_grad() ? Var::leaf(x) : Var(x);
  }
  return some;
}

Tensor HeadParts::joined(const std::vector<Tensor>& parts, std::size_t output,
                         const Tensor& place) const {
  if (count_ == 1 || !parts[0].defined()) {
    return parts[0];
  }
  const int axis = out_[output];
  Shape shape = parts[0].shape();
  shape[shape.rank() + axis] *= count_;
  Tensor out = place.defined() ? place : Tensor::empty(shape, parts[0].dtype(), parts[0].device());
  for (int g = 0; g < count_; ++g) {
    const Tensor& part = parts[static_cast<std::size_t>(g)];
    if (Tensor to = part_of(out, axis, g); !ag::same_elements(part, to)) {
      to.copy_(part);
    }
  }
  return out;
}

}  // namespace ls::parallel
