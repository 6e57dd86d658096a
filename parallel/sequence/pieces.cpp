#include "parallel/sequence/pieces.h"

#include <algorithm>

#include "autograd/functional.h"
#include "autograd/tape.h"
#include "parallel/sequence/heads.h"

namespace ls::parallel {
namespace {

/// From the front, -1: none. Axes that a transition shares with the states lead both.
int head_axis(const layers::ScanInfo& scan, std::size_t i, const Tensor& t, int of_states) {
  const ArgSpec& arg = scan.summary[i];
  if (const int axis = axis_of(arg, scan.heads); axis < 0) {
    return t.rank() + axis;
  }
  const bool shared = arg.ellipsis && of_states < t.rank() - static_cast<int>(arg.axes.size());
  return shared ? of_states : -1;
}

}  // namespace

StatePieces::StatePieces(const layers::ScanInfo& scan, const Tensors& summary)
    : states_(scan.states.size()) {
  if (summary.empty()) {
    return;
  }
  const int first = head_axis(scan, 0, summary[0], -1);
  Index heads = first < 0 ? 0 : summary[0].size(first);
  for (std::size_t i = 0; i < summary.size(); ++i) {
    axes_.push_back(head_axis(scan, i, summary[i], first));
    const bool alike = axes_[i] >= 0 ? summary[i].size(axes_[i]) == heads : i >= states_;
    heads = alike ? heads : 0;
  }
  const Index rows = summary[0].size(0);
  if (heads <= rows) {
    axes_.assign(axes_.size(), 0);
  }
  count_ = static_cast<int>(std::clamp<Index>(std::max(heads, rows), 1, kMost));
}

int StatePieces::axis_at(std::size_t i, std::size_t size) const {
  if (size == states_ || i < axes_.size()) {
    return axes_[i];
  }
  return axes_[(i - axes_.size()) % states_];
}

Tensors StatePieces::piece(const Tensors& list, int which) const {
  Tensors some;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const int axis = count_ > 1 && list[i].defined() ? axis_at(i, list.size()) : -1;
    if (axis < 0) {
      some.push_back(list[i]);
      continue;
    }
    const Index n = list[i].size(axis);
    some.push_back(list[i].slice(axis, n * which / count_, n * (which + 1) / count_).contiguous());
  }
  return some;
}

Tensors StatePieces::joined(const std::vector<Tensors>& pieces) const {
  Tensors out;
  const ag::NoGrad no_grad;
  for (std::size_t p = 0; p < states_; ++p) {
    std::vector<ag::Var> parts;
    for (const Tensors& list : pieces) {
      if (list[p].defined()) {
        parts.emplace_back(list[p]);
      }
    }
    out.push_back(parts.empty() ? Tensor()
                                : ag::concat(parts, axes_.empty() ? 0 : axes_[p]).value());
  }
  return out;
}

}  // namespace ls::parallel
