#include "autograd/functional.h"

#include <functional>
#include <numeric>
#include <utility>

#include "autograd/tape.h"

namespace ls::ag {
namespace {

/// One-input node whose derivative is a function of the gradient alone.
class UnaryNode final : public NodeFn {
 public:
  UnaryNode(const char* name, std::function<Tensor(const Tensor&)> fn)
      : name_(name), fn_(std::move(fn)) {}
  std::string name() const override { return name_; }
  void backward(std::span<const Tensor> dout, const std::vector<bool>&,
                std::span<Tensor> din) override {
    din[0] = fn_(dout[0]);
  }

 private:
  const char* name_;
  std::function<Tensor(const Tensor&)> fn_;
};

/// `value` as the result of a Node made of `args`, or alone where no gradient is wanted.
template <class Node, class... Args>
Var result(std::span<const Var> in, const Tensor& value, Args&&... args) {
  if (!Tape::records(in)) {
    return Var(value);
  }
  auto node = std::make_unique<Node>(std::forward<Args>(args)...);
  return Tape::current()->record(std::move(node), in, {&value, 1})[0];
}
template <class Fn>
Var unary(const char* name, const Var& x, const Tensor& value, Fn&& derivative) {
  return result<UnaryNode>({&x, 1}, value, name, std::forward<Fn>(derivative));
}

class ReshapeNode final : public NodeFn {
 public:
  ReshapeNode(const Shape& from, const Shape& to) : from_(from), to_(to) {}
  std::string name() const override { return "reshape"; }
  bool hands_on() const override { return true; }
  Tensor place_of(int, const Tensor& input_place) override {
    return input_place.layout().can_view(to_) ? input_place.view(to_) : Tensor();
  }
  void backward(std::span<const Tensor> dout, const std::vector<bool>&,
                std::span<Tensor> din) override {
    din[0] = dout[0].reshape(from_);
  }

 private:
  Shape from_, to_;
};

class SplitNode final : public NodeFn {
 public:
  SplitNode(const Tensor& x, int axis, std::vector<Index> extents)
      : shape_(x.shape()),
        dtype_(x.dtype()),
        device_(x.device()),
        axis_(axis),
        extents_(std::move(extents)) {}
  std::string name() const override { return "split"; }
  Tensor place_of(int output, const Tensor&) override {
    return part(static_cast<std::size_t>(output));
  }
  void backward(std::span<const Tensor> dout, const std::vector<bool>&,
                std::span<Tensor> din) override {
    for (std::size_t i = 0; i < extents_.size(); ++i) {
      Tensor own = part(i);
      if (!dout[i].defined()) {
        own.zero_();
      } else if (!same_elements(dout[i], own)) {
        own.copy_(dout[i]);
      }
    }
    din[0] = std::move(whole_);
  }

 private:
  Tensor part(std::size_t i) {
    if (!whole_.defined()) {
      whole_ = Tensor::empty(shape_, dtype_, device_);
    }
    const Index at = std::accumulate(extents_.begin(), extents_.begin() + i, Index{0});
    return whole_.slice(axis_, at, at + extents_[i]);
  }
  Shape shape_;
  DType dtype_;
  Device& device_;
  int axis_;
  std::vector<Index> extents_;
  Tensor whole_;  // the gradient, made when the first place is asked for
};

class ConcatNode final : public NodeFn {
 public:
  ConcatNode(int axis, std::vector<Index> extents) : axis_(axis), extents_(std::move(extents)) {}
  std::string name() const override { return "concat"; }
  void backward(std::span<const Tensor> dout, const std::vector<bool>& wanted,
                std::span<Tensor> din) override {
    Index at = 0;
    for (std::size_t i = 0; i < extents_.size(); ++i) {
      if (wanted[i]) {
        din[i] = dout[0].slice(axis_, at, at + extents_[i]);
      }
      at += extents_[i];
    }
  }

 private:
  int axis_;
  std::vector<Index> extents_;
};

class CastNode final : public NodeFn {
 public:
  explicit CastNode(DType own) : own_(own) {}
  std::string name() const override { return "cast"; }
  bool takes_wider_gradients() const override { return true; }
  bool hands_on() const override { return true; }
  /// Of whoever computes it in that type.
  Tensor place_of(int, const Tensor& input_place) override { return input_place; }
  void backward(std::span<const Tensor> dout, const std::vector<bool>&,
                std::span<Tensor> din) override {
    din[0] = dout[0].to(own_);
  }

 private:
  DType own_;
};

class AddNode final : public NodeFn {
 public:
  std::string name() const override { return "add"; }
  void backward(std::span<const Tensor> dout, const std::vector<bool>& wanted,
                std::span<Tensor> din) override {
    for (std::size_t i = 0; i < 2; ++i) {
      if (wanted[i]) {
        din[i] = dout[0];
      }
    }
  }
};

}  // namespace

Var reshape(const Var& x, const Shape& shape) {
  const Tensor value = x.value().reshape(shape);
  return result<ReshapeNode>({&x, 1}, value, x.shape(), value.shape());
}

Var permute(const Var& x, std::initializer_list<int> axes) {
  const Tensor value = x.value().permute(axes);  // checks them
  std::vector<int> inverse(axes.size());
  int i = 0;
  for (const int a : axes) {
    inverse[a < 0 ? a + x.rank() : a] = i++;
  }
  return unary("permute", x, value,
               [inverse](const Tensor& g) { return g.permute(std::span<const int>(inverse)); });
}

Var transpose(const Var& x, int a, int b) {
  return unary("transpose", x, x.value().transpose(a, b),
               [a, b](const Tensor& g) { return g.transpose(a, b); });
}

Var slice(const Var& x, int axis, Index begin, Index end) {
  const Shape shape = x.shape();
  const DType dtype = x.dtype();
  return unary("slice", x, x.value().slice(axis, begin, end), [=](const Tensor& g) {
    Tensor full = Tensor::zeros(shape, dtype, g.device());
    full.slice(axis, begin, end).copy_(g);
    return full;
  });
}

std::vector<Var> split(const Var& x, int axis, const std::vector<Index>& extents) {
  std::vector<Tensor> parts;
  Index at = 0;
  for (const Index n : extents) {
    parts.push_back(x.value().slice(axis, at, at + n));
    at += n;
  }
  LS_CHECK(at == x.size(axis), kShape, "axis {} of shape {} is split into pieces that sum to {}",
           axis, x.shape().str(), at);
  const std::span<const Var> in(&x, 1);
  if (!Tape::records(in)) {
    return std::vector<Var>(parts.begin(), parts.end());
  }
  return Tape::current()->record(std::make_unique<SplitNode>(x.value(), axis, extents), in, parts);
}

Var concat(const std::vector<Var>& parts, int axis) {
  LS_CHECK(!parts.empty(), kShape, "nothing to concatenate");
  Shape shape = parts[0].shape();
  const int a = axis < 0 ? axis + shape.rank() : axis;
  LS_CHECK(a >= 0 && a < shape.rank(), kShape, "axis {} of tensors of shape {} to concatenate",
           axis, shape.str());
  shape[a] = 0;
  std::vector<Index> extents;
  for (const Var& p : parts) {
    Shape rest = p.shape();
    LS_CHECK(p.rank() == shape.rank() && p.dtype() == parts[0].dtype(), kShape,
             "{} and {} are concatenated", parts[0].value().describe(), p.value().describe());
    extents.push_back(rest[a]);
    rest[a] = shape[a];
    LS_CHECK(rest == shape, kShape, "{} and {} are concatenated along axis {}",
             parts[0].value().describe(), p.value().describe(), a);
    shape[a] += p.size(a);
  }
  Tensor out = Tensor::empty(shape, parts[0].dtype(), parts[0].value().device());
  Index at = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    out.slice(a, at, at + extents[i]).copy_(parts[i].value());
    at += extents[i];
  }
  return result<ConcatNode>(parts, out, a, extents);
}

namespace {

/// A parameter is converted once an update, however often it is used.
Tensor converted(const Var& x, DType dtype) {
  VarData& d = *x.data();
  const bool contiguous_leaf = d.requires_grad && d.node < 0 && d.value.is_contiguous();
  if (!contiguous_leaf) {
    return d.value.to(dtype);
  }
  if (!d.copy || !d.copy->is_of(d.value)) {
    d.copy = std::make_shared<ConvertedCopy>(d.value, false);
  }
  return d.copy->of(d.value, dtype);
}

}  // namespace

Var cast(const Var& x, DType dtype) {
  if (x.dtype() == dtype) {
    return x;
  }
  return result<CastNode>({&x, 1}, converted(x, dtype), x.dtype());
}

Var take_rows(const Var& x, const std::vector<Index>& rows) {
  Shape shape = x.shape();
  LS_CHECK(shape.rank() > 0, kShape, "rows of a tensor without axes");
  const Index sources = shape[0];
  shape[0] = static_cast<Index>(rows.size());
  Tensor out = Tensor::empty(shape, x.dtype(), x.value().device());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto at = static_cast<Index>(i);
    LS_CHECK(rows[i] < sources, kShape, "row {} of a tensor of shape {}", rows[i], x.shape().str());
    Tensor row = out.slice(0, at, at + 1);
    if (rows[i] < 0) {
      row.zero_();
    } else {
      row.copy_(x.value().slice(0, rows[i], rows[i] + 1));
    }
  }
  const Shape full = x.shape();
  return unary("take_rows", x, out, [rows, full](const Tensor& g) {
    Tensor dx = Tensor::zeros(full, g.dtype(), g.device());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto at = static_cast<Index>(i);
      if (rows[i] >= 0) {
        dx.slice(0, rows[i], rows[i] + 1).add_(g.slice(0, at, at + 1));
      }
    }
    return dx;
  });
}

Var add(const Var& a, const Var& b) {
  Tensor out = a.value().clone();
  out.add_(b.value());
  const Var in[] = {a, b};
  return result<AddNode>(in, out);
}

Var scale(const Var& x, double factor) {
  Tensor out = x.value().clone();
  out.mul_(factor);
  return unary("scale", x, out, [factor](const Tensor& g) {
    Tensor d = g.clone();
    d.mul_(factor);
    return d;
  });
}

}  // namespace ls::ag
