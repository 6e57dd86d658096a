// Inputs and incoming gradients of any layout, gradients written into places that are given.
#include "tests/laws/ops/checker.h"

#include <algorithm>
#include <span>

#include "tests/support/tolerance.h"

namespace ls::test::op_laws {

namespace {

Tensor copied_into(Tensor view, const Tensor& t) {
  view.copy_(t);
  return view;
}

/// Room on both sides of every axis.
Tensor padded(const Tensor& t) {
  Shape shape = t.shape();
  for (int a = 0; a < shape.rank(); ++a) {
    shape[a] += 3;
  }
  Tensor view = Tensor::full(shape, t.dtype(), 77, t.device());
  for (int a = 0; a < shape.rank(); ++a) {
    view = view.slice(a, 1, 1 + t.size(a));
  }
  return copied_into(view, t);
}

/// Every second element of memory.
Tensor interleaved(const Tensor& t) {
  Shape shape = t.shape();
  shape.push_back(2);
  return copied_into(Tensor::full(shape, t.dtype(), 77, t.device()).select(-1, 1), t);
}

/// Axes stored in the opposite order.
Tensor transposed(const Tensor& t) {
  Shape shape;
  std::vector<int> axes;
  for (int a = t.rank() - 1; a >= 0; --a) {
    shape.push_back(t.size(a));
    axes.push_back(a);
  }
  const Tensor all = Tensor::full(shape, t.dtype(), 77, t.device());
  return copied_into(all.permute(std::span<const int>(axes)), t);
}

/// The first slice of an axis everywhere, with stride 0. Integers stay as they are.
template <int axis>
Tensor expanded(const Tensor& t) {
  if (t.rank() <= axis || t.size(axis) == 0 || !is_float(t.dtype())) {
    return t;
  }
  return t.slice(axis, 0, 1).expand(t.shape());
}

/// One element everywhere, as sums send it back.
Tensor constant(const Tensor& t) {
  if (t.numel() == 0) {
    return t;
  }
  Tensor one = t;
  Shape ones;
  for (int a = 0; a < t.rank(); ++a) {
    one = one.slice(a, 0, 1);
    ones.push_back(1);
  }
  return one.expand(t.shape());
}

}  // namespace

void Checker::strides(DType t) {
  const Tensors in = inputs(t), dout = cotangents(t);
  const struct {
    const char* name;
    Layout in, dout;
  } layouts[] = {{"padded", padded, padded},
                 {"interleaved", interleaved, interleaved},
                 {"transposed", transposed, transposed},
                 {"expanded", expanded<0>, expanded<0>},
                 {"expanded along axis 1", expanded<1>, constant}};
  for (const auto& layout : layouts) {
    const Tensors x = each(in, layout.in), g = each(dout, layout.dout);
    same(fmt::format("strides: {}, {}", enum_name(t), layout.name), call(x, g),
         call(each(x, packed_copy), each(g, packed_copy)), allowed(t));
  }
}

Tensor Checker::place_like(const Tensor& t, int axis, Index unit, Tensor& all) {
  Shape shape;
  Index piece = 1;
  for (int a = 0; a < t.rank(); ++a) {
    if (a < axis) {
      shape.push_back(t.size(a));
    } else {
      piece *= t.size(a);
    }
  }
  shape.push_back(piece + 5 * unit);
  all = Tensor::full(shape, t.dtype(), 77, t.device());
  return all.slice(-1, 2 * unit, 2 * unit + piece).view(t.shape());
}

void Checker::places(DType t) {
  if (!has_backward() || !op_.kernel(device_->type(), t)) {
    return;
  }
  const Call whole = call(inputs(t), cotangents(t));
  const Kernel& kernel = *whole.kept.kernel;
  if (kernel.dtype != t || !op_.has(kernel)) {
    return;
  }
  for (int axis = 0; axis < kMaxRank; ++axis) {
    places(kernel, whole, axis, true);
    places(kernel, whole, axis, false);
  }
}

void Checker::places(const Kernel& kernel, const Call& whole, int axis, bool apart) {
  Tensors all(whole.din.size()), given(whole.din.size());
  bool any = false;
  for (std::size_t i = 0; i < given.size(); ++i) {
    const Tensor& d = whole.din[i];
    const Index alignment = kernel.in[i].alignment;
    if (kernel.in[i].strided_grad && d.defined() && axis < d.rank() && (apart || alignment > 1)) {
      const Index unit = apart ? std::max<Index>(1, alignment / dtype_size(d.dtype())) : 1;
      given[i] = place_like(d, axis, unit, all[i]);
      any = true;
    }
  }
  if (!any) {
    return;
  }
  Call got = whole;
  got.din = backward(whole, whole.dout, all_wanted(), given);
  const std::string what = fmt::format("places: {}, pieces {}from axis {}", enum_name(kernel.dtype),
                                       apart ? "" : "of any kind ", axis);
  same(what, got, whole, 0);
  for (std::size_t i = 0; i < given.size(); ++i) {
    if (!given[i].defined()) {
      continue;
    }
    // A call without any incoming gradient gives zeros of its own.
    if (apart && !got.din[i].shares_storage(given[i]) && dout_given(whole.dout)) {
      fault("{}: d{} is not there", what, in_name(i));
    }
    given[i].fill_(77);
    if (!bit_difference(all[i], Tensor::full(all[i].shape(), all[i].dtype(), 77)).empty()) {
      fault("{}: d{} is written beside its place", what, in_name(i));
    }
  }
}

void Checker::adds(DType t) {
  const Kernel* const kernel = op_.kernel(DeviceType::kCpu, t);
  if (!has_backward() || !kernel || !dout_given(cotangents(t))) {
    return;
  }
  constexpr double kBefore = 0.5;
  const Call whole = call(inputs(t), cotangents(t));
  Call got = whole, want = whole;
  const auto place = [&](bool can, const Tensor& gradient, Tensor& sum) {
    if (!can || !gradient.defined()) {
      return Tensor();
    }
    sum = Tensor::full(gradient.shape(), gradient.dtype(), kBefore);
    sum.add_(gradient);
    return Tensor::full(gradient.shape(), gradient.dtype(), kBefore).adding();
  };
  const auto there = [&](const Tensor& result, const Tensor& given, const std::string& name) {
    if (given.defined() && !result.shares_storage(given)) {
      fault("adds: {}: {} is not in its place", enum_name(t), name);
    }
  };
  Tensors in_places, out_places;
  for (std::size_t i = 0; i < whole.din.size(); ++i) {
    in_places.push_back(place(kernel->in[i].adds_grad, whole.din[i], want.din[i]));
  }
  for (std::size_t i = 0; i < whole.out.size(); ++i) {
    out_places.push_back(place(kernel->out[i].adds_grad, whole.out[i], want.out[i]));
  }
  got.out = run_forward(op_, whole.in, attrs(), {}, nullptr, out_places);
  got.din = backward(whole, whole.dout, all_wanted(), in_places);
  for (std::size_t i = 0; i < whole.din.size(); ++i) {
    there(got.din[i], in_places[i], "d" + in_name(i));
  }
  for (std::size_t i = 0; i < whole.out.size(); ++i) {
    there(got.out[i], out_places[i], op_.out[i].name);
  }
  same(fmt::format("adds: {}", enum_name(t)), got, want, allowed(t));
}

bool Checker::dout_given(const Tensors& dout) {
  return std::any_of(dout.begin(), dout.end(), [](const Tensor& d) { return d.defined(); });
}

}  // namespace ls::test::op_laws
