#include "parallel/sequence/heads.h"

#include <algorithm>

#include "autograd/tape.h"

namespace ls::parallel {

using ag::Var;

int axis_of(const ArgSpec& arg, const std::vector<std::string>& symbols) {
  const auto axis = std::find_if(arg.axes.begin(), arg.axes.end(), [&](const Axis& a) {
    return std::find(symbols.begin(), symbols.end(), a.text) != symbols.end();
  });
  return -static_cast<int>(arg.axes.end() - axis);
}

HeadParts::HeadParts(const layers::ScanInfo& scan, const Vars& inputs, int wanted) {
  const bool turns = scan.kind == layers::FamilyKind::kRelay;
  const auto of_head = [&](const ArgSpec& a) { return axis_of(a, scan.heads); };
  const auto of_row = [](const ArgSpec& a) {  // states have entries N where documents do
    const bool rows = !a.axes.empty() && (a.axes[0] == "B" || a.axes[0] == "N");
    return rows ? -static_cast<int>(a.axes.size()) : 0;
  };
  if (cut(scan, inputs, wanted, of_head, true) && count_ > 1) {
    return;
  }
  for (int parts = wanted > 1 && turns ? kMostTurns : wanted; parts > 1 && count_ == 1; --parts) {
    by_rows_ = cut(scan, inputs, parts, of_row, false);
  }
}

bool HeadParts::cut(const layers::ScanInfo& scan, const Vars& inputs, int wanted,
                    const AxisOf& axis, bool fresh) {
  in_.clear();
  out_.clear();
  for (const ArgSpec& a : scan.op->in) {
    in_.push_back(axis(a));
  }
  for (const layers::StatePort& port : scan.states) {
    const auto given = static_cast<std::size_t>(scan.op->input_index(port.input));
    in_.push_back(fresh ? in_[given] : 0);
  }
  for (const ArgSpec& a : scan.op->out) {
    out_.push_back(axis(a));
  }
  bool falls = std::all_of(out_.begin(), out_.end(), [](int axis) { return axis < 0; });
  for (std::size_t i = 0; i < inputs.size() && falls; ++i) {
    const Index n = inputs[i].defined() && in_[i] < 0 ? inputs[i].size(in_[i]) : wanted;
    falls = n > 0 && n % wanted == 0;
  }
  count_ = falls ? wanted : 1;
  return falls;
}

layers::Stretch HeadParts::stretch(const layers::Stretch& all, int part) const {
  const Index n = by_rows_ ? all.rows() / count_ : 0;
  return by_rows_ ? all.of_rows(part * n, (part + 1) * n) : all;
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
