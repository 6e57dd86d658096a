#include "tests/laws/ops/checker.h"

#include <algorithm>
#include <cctype>
#include <set>

#include "core/base/rng.h"
#include "tests/support/tolerance.h"

namespace ls::test::op_laws {

bool has_word(const std::string& text, const std::string& word) {
  const auto in_word = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.';
  };
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
    const std::size_t end = at + word.size();
    if ((at == 0 || !in_word(text[at - 1])) && (end == text.size() || !in_word(text[end]))) {
      return true;
    }
  }
  return false;
}

Tensors each(const Tensors& ts, Layout f) {
  Tensors out;
  for (const Tensor& t : ts) {
    out.push_back(t.defined() ? f(t) : Tensor());
  }
  return out;
}

Tensor packed_copy(const Tensor& t) {
  return t.clone();
}

Checker::Checker(const OpInfo& op, const OpCase& c) : op_(op), case_(c) {
  for (const Tensor& x : c.in) {
    terms_ = std::max(terms_, x.defined() ? x.numel() : Index{0});
  }
  Rng rng(23, "op cases/" + c.name);
  const UseReference reference;
  const Tensors out = run_forward(op, inputs(DType::kF64), attrs());
  for (std::size_t i = 0; i < out.size(); ++i) {
    const bool given = out[i].defined() && op.out[i].differentiable && is_float(out[i].dtype()) &&
                       std::count(c.kept.begin(), c.kept.end(), op.out[i].name) == 0;
    cotangent_.push_back(given ? Tensor::empty(out[i].shape(), DType::kF64) : Tensor());
    for (Index e = 0; given && e < out[i].numel(); ++e) {
      cotangent_[i].data<double>()[e] = rng.normal();
    }
  }
}

std::vector<std::string> Checker::run() {
  derivative();
  for (const DType t : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
    values(t);
  }
  for (const DType t : {DType::kF64, DType::kF32, DType::kBF16}) {
    repeats(t);
    devices(t);
    strides(t);
    subsets(t);
    absent(t);
    places(t);
    adds(t);
    continued(t);
  }
  no_gradients();
  refusals();
  cost();
  return std::move(faults_);
}

std::vector<std::string> Checker::run_on(Device& device) {
  device_ = &device;
  for (const DType t : {DType::kF64, DType::kF32, DType::kBF16}) {
    if (op_.kernel(device.type(), t)) {
      values_there(t);
      strides(t);
      subsets(t);
      absent(t);
      places(t);
      continued(t);
    }
  }
  return std::move(faults_);
}

std::vector<std::string> Checker::differentiated() const {
  std::vector<std::string> ins, outs;
  for (std::size_t i = 0; i < op_.in.size(); ++i) {
    if (all_wanted()[i] && case_.in[i].numel() > 0) {
      ins.push_back(op_.in[i].name);
    }
  }
  for (std::size_t i = 0; i < op_.out.size(); ++i) {
    if (cotangent_[i].defined() && cotangent_[i].numel() > 0) {
      outs.push_back(op_.out[i].name);
    }
  }
  if (!case_.smooth || !case_.backward || ins.empty() || outs.empty()) {
    return {};
  }
  ins.insert(ins.end(), outs.begin(), outs.end());
  return ins;
}

DType Checker::type_of(const ArgSpec& arg, const Tensor& x, DType t) const {
  return !x.defined() || !is_float(x.dtype()) ? DType::kI64
         : arg.type == ArgSpec::Type::kFloat  ? t
         : arg.type == ArgSpec::Type::kAcc    ? acc_dtype(t)
         : arg.type == ArgSpec::Type::kExact  ? arg.exact
                                              : x.dtype();
}

Tensors Checker::inputs(DType t) const {
  Tensors in = case_.in;
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (in[i].defined() && is_float(in[i].dtype())) {
      in[i] = in[i].to(type_of(op_.in[i], in[i], t));
    }
    in[i] = in[i].defined() ? in[i].to(*device_) : in[i];
  }
  return in;
}

Tensors Checker::cotangents(DType t) const {
  Tensors d = cotangent_;
  for (std::size_t i = 0; i < d.size(); ++i) {
    if (d[i].defined()) {
      d[i] = d[i].to(type_of(op_.out[i], d[i], t)).to(*device_);
    }
  }
  return d;
}

Tensors Checker::widened(Tensors ts) {
  for (Tensor& t : ts) {
    t = t.defined() && is_float(t.dtype()) ? t.to(DType::kF64) : t;
  }
  return ts;
}

std::vector<bool> Checker::all_wanted() const {
  std::vector<bool> wanted;
  for (std::size_t i = 0; i < op_.in.size(); ++i) {
    wanted.push_back(case_.backward && case_.in[i].defined() && op_.in[i].differentiable);
  }
  return wanted;
}

Tensors Checker::backward(const Call& c, const Tensors& dout, const std::vector<bool>& wanted,
                          const Tensors& places) const {
  Tensors in = c.in, out = c.out;
  const std::vector<ShapeOf> shapes = shapes_of(in);
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (!op_.in[i].saved) {
      in[i] = Tensor();
    }
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (!op_.out[i].saved) {
      out[i] = Tensor();
    }
  }
  return run_backward(op_, in, out, dout, wanted, shapes, op_dtype(op_, c.in), attrs(), places,
                      c.kept);
}

Call Checker::call(const Tensors& in, const Tensors& dout) const {
  Call c{in, {}, dout, {}};
  c.out = run_forward(op_, in, attrs(), {}, &c.kept);
  if (has_backward()) {
    c.din = backward(c, dout, all_wanted());
  }
  return c;
}

void Checker::same(const std::string& what, const Call& got, const Call& want, double allowed) {
  const auto compare = [&](const std::string& name, const Tensor& x, const Tensor& y) {
    const std::string d = allowed > 0 ? difference(x, y, allowed) : bit_difference(x, y);
    if (!d.empty()) {
      fault("{}: {}: {}", what, name, d);
    }
    return d.empty();
  };
  for (std::size_t i = 0; i < got.out.size(); ++i) {
    if (!compare(op_.out[i].name, got.out[i], want.out[i])) {
      return;
    }
  }
  for (std::size_t i = 0; i < got.din.size(); ++i) {
    if (!compare("d" + in_name(i), got.din[i], want.din[i])) {
      return;
    }
  }
}

}  // namespace ls::test::op_laws

namespace ls::test {

std::vector<std::string> check_op(const OpInfo& op, const OpCase& c) {
  try {
    return op_laws::Checker(op, c).run();
  } catch (const std::exception& e) {
    return {fmt::format("exception: {} [{}]", e.what(), c.name)};
  }
}

std::vector<std::string> check_op_on(Device& device, const OpInfo& op, const OpCase& c) {
  try {
    return op_laws::Checker(op, c).run_on(device);
  } catch (const std::exception& e) {
    return {fmt::format("exception: {} [{}]", e.what(), c.name)};
  }
}

std::vector<std::string> unchecked_gradients(const OpInfo& op, const std::vector<OpCase>& cases) {
  std::set<std::string> checked;
  for (const OpCase& c : cases) {
    for (std::string& name : op_laws::Checker(op, c).differentiated()) {
      checked.insert(std::move(name));
    }
  }
  std::vector<std::string> unchecked;
  for (const std::vector<ArgSpec>* args : {&op.in, &op.out}) {
    for (const ArgSpec& arg : *args) {
      if (arg.differentiable && checked.count(arg.name) == 0) {
        unchecked.push_back(arg.name);
      }
    }
  }
  return unchecked;
}

}  // namespace ls::test
