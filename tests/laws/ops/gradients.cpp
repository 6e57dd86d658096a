// Any of the gradients asked for, any of the incoming ones absent, none where there is none.
#include <algorithm>

#include "autograd/call.h"
#include "autograd/tape.h"
#include "tests/laws/ops/checker.h"

namespace ls::test::op_laws {

void Checker::subsets(DType t) {
  if (!has_backward()) {
    return;
  }
  const Call whole = call(inputs(t), cotangents(t));
  for (std::size_t i = 0; i < op_.in.size(); ++i) {
    if (!whole.din[i].defined()) {
      continue;
    }
    for (const bool alone : {true, false}) {
      std::vector<bool> wanted = alone ? std::vector<bool>(op_.in.size()) : all_wanted();
      wanted[i] = alone;
      Call part = whole;
      part.din = backward(whole, whole.dout, wanted);
      for (std::size_t k = 0; k < wanted.size(); ++k) {
        if (part.din[k].defined() != wanted[k]) {
          fault("subset: d{} is {} where it is {}", in_name(k), wanted[k] ? "not given" : "given",
                wanted[k] ? "wanted" : "not wanted");
        } else if (!wanted[k]) {
          part.din[k] = whole.din[k];
        }
      }
      same(fmt::format("subset: {}, {} d{}", enum_name(t), alone ? "only" : "all but", in_name(i)),
           part, whole, allowed(t));
    }
  }
}

void Checker::absent(DType t) {
  if (!has_backward()) {
    return;
  }
  const Tensors dout = cotangents(t);
  const Call whole = call(inputs(t), dout);
  const auto compare = [&](const std::string& what, const Tensors& partly, Tensors zeros) {
    for (std::size_t i = 0; i < zeros.size(); ++i) {
      if (dout[i].defined() && !partly[i].defined()) {
        zeros[i] = Tensor::zeros(dout[i].shape(), dout[i].dtype(), *device_);
      }
    }
    Call got = whole, want = whole;
    got.din = backward(whole, partly, all_wanted());
    want.din = backward(whole, zeros, all_wanted());
    same(fmt::format("absent: {}, {}", enum_name(t), what), got, want, allowed(t));
  };
  compare("no gradient at all", Tensors(dout.size()), Tensors(dout.size()));
  for (std::size_t i = 0; i < dout.size(); ++i) {
    if (dout[i].defined()) {
      Tensors one(dout.size()), others = dout;
      one[i] = dout[i];
      others[i] = Tensor();
      compare("only d" + op_.out[i].name, one, one);
      compare("all but d" + op_.out[i].name, others, others);
    }
  }
}

void Checker::no_gradients() {
  const Tensors in = inputs(DType::kF32);
  const auto refused = [&](const std::string& argument, const auto& call) {
    try {
      call();
      fault("no gradient: one of {} is not refused", argument);
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::kUnsupported || !has_word(e.message(), op_.name) ||
          !has_word(e.message(), argument)) {
        fault("no gradient: one of {} gives the {} error '{}'", argument, error_kind_name(e.kind()),
              e.message());
      }
    }
  };
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (in[i].defined() && is_float(in[i].dtype()) && !op_.in[i].differentiable) {
      refused(in_name(i), [&] {
        std::vector<ag::Var> vars(in.begin(), in.end());
        vars[i] = ag::Var::leaf(in[i]);
        const ag::Tape tape;
        ag::call(op_, vars, case_.attrs);
      });
    }
  }
  const std::vector<bool> wanted = all_wanted();
  // Without an input that has one nothing is recorded.
  const bool recorded =
      has_backward() && std::find(wanted.begin(), wanted.end(), true) != wanted.end();
  for (std::size_t k = 0; k < op_.out.size() && recorded; ++k) {
    std::vector<ag::Var> vars;
    for (std::size_t i = 0; i < in.size(); ++i) {
      vars.push_back(wanted[i] ? ag::Var::leaf(in[i]) : ag::Var(in[i]));
    }
    ag::Tape tape;
    const ag::Var out = ag::call(op_, vars, case_.attrs)[k];
    if (out.defined() && is_float(out.dtype()) && !op_.out[k].differentiable) {
      refused(op_.out[k].name,
              [&] { tape.backward(out, Tensor::zeros(out.shape(), out.dtype())); });
    }
  }
}

}  // namespace ls::test::op_laws
