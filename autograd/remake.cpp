#include "autograd/remake.h"

#include <algorithm>
#include <atomic>

#include "core/base/error.h"
#include "core/base/profile.h"

namespace ls::ag {
namespace {

thread_local Remaking* innermost = nullptr;
std::atomic<Index> all_given_back = 0;

/// Of that shape, without memory for more than a row: negative, so that -0 stays what it is.
Tensor negative_zeros(const Tensor& like) {
  Shape row = like.shape();
  for (int axis = 0; axis + 1 < row.rank(); ++axis) {
    row[axis] = 1;
  }
  return Tensor::full(row, like.dtype(), -0.0, like.device()).expand(like.shape());
}

}  // namespace

Remade::Remade(const OpInfo& op, const RemadeOutput& how, std::span<const Tensor> in,
               std::span<const Tensor> out, Attributes attrs)
    : op_(op),
      how_(how),
      attrs_(std::move(attrs)),
      tensor_(out[static_cast<std::size_t>(how.output)]),
      version_(tensor_.version()) {
  for (std::size_t i = 0; i < in.size(); ++i) {
    const int from = how.from[i];
    const Tensor& t = from >= 0 ? out[static_cast<std::size_t>(from)] : in[i];
    in_.push_back(from == RemadeOutput::kNothing || !t.defined() ? Saved() : Saved(t));
  }
}

void Remade::make() {
  if (!tensor_.storage()->dropped()) {
    return;
  }
  const std::string name = op_.name + ", made again";
  const profile::Scope timed(name, "backward");
  std::vector<Tensor> in;
  for (std::size_t i = 0; i < in_.size(); ++i) {
    in.push_back(how_.from[i] == RemadeOutput::kNothing ? negative_zeros(tensor_)
                                                        : in_[i].get(op_.name));
  }
  tensor_.storage()->restore(current_stream(tensor_.device()));
  std::vector<Tensor> places(op_.out.size());
  places[static_cast<std::size_t>(how_.output)] = tensor_;
  const Tensor made =
      run_forward(op_, in, attrs_, {}, nullptr, places)[static_cast<std::size_t>(how_.output)];
  if (!same_elements(made, tensor_)) {
    tensor_.copy_(made);
  }
  tensor_.storage()->set_version(version_);
}

Remaking::Remaking(Remake level) : level_(level), outer_(innermost) {
  innermost = this;
}
Remaking::~Remaking() {
  innermost = outer_;
}

Remaking* Remaking::current() {
  return innermost;
}

void Remaking::note(const OpInfo& op, std::span<const Tensor> in, std::span<const Tensor> out,
                    const Attributes& attrs) {
  const RemadeOutput* const how = remade_output(op);
  if (!how || how->level > level_) {
    return;
  }
  const Tensor& t = out[static_cast<std::size_t>(how->output)];
  if (how->level == Remake::kProducts && in[0].numel() > t.numel()) {
    return;  // little memory for the work
  }
  // The whole of a buffer that an allocator gave.
  if (t.defined() && t.storage()->allocator() && t.is_contiguous() &&
      t.bytes() == t.storage()->bytes() && t.numel() > 0) {
    all_.push_back(std::make_shared<Remade>(op, *how, in, out, attrs));
  }
}

std::shared_ptr<Remade> Remaking::find(const Tensor& t) const {
  const auto it = std::find_if(all_.begin(), all_.end(),
                               [&](const auto& r) { return r->tensor().shares_storage(t); });
  return it == all_.end() ? nullptr : *it;
}

Index Remaking::given_back() {
  return all_given_back;
}

void Remaking::done() {
  for (const std::shared_ptr<Remade>& r : all_) {
    // Each that saved it holds the value and how it is made.
    if (r.use_count() > 1 && r->as_made() && r->tensor().storage_use_count() == r.use_count()) {
      all_given_back += r->tensor().bytes();
      r->give_back();
    }
  }
  all_.clear();
}

}  // namespace ls::ag
