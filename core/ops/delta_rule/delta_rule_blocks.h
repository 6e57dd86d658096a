#pragma once
// The delta rule as a linear scan in blocks (core/ops/common/linear_scan/), any sizes and operands.
#include "core/op/report.h"
#include "core/ops/common/linear_scan/operands.h"
#include "core/ops/delta_rule/delta_rule.h"

namespace ls::ops::delta_rule {

template <class Machine, class T>
struct Blocks {
  using A = acc_t<T>;
  using Op = DeltaRule;
  using Call = linear_scan::Call<T, T>;

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out,
                      const Op::Attrs& attrs) {
    Machine machine;
    Call c = call_of(in, attrs);
    report_form<Op>("chunk of {}", Call::C);
    c.o = linear_scan::rows_to<T>(out.o);
    c.sT = linear_scan::state_to<A>(out.sT, c.dv);
    linear_scan::forward(machine, c);
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& attrs) {
    using linear_scan::rows_to;
    Machine machine;
    Call c = call_of(in, attrs);
    c.go = linear_scan::rows_in<T>(dout.o);
    c.gsT = linear_scan::state_in<A>(dout.sT, c.dv);
    c.dq = rows_to<T>(din.q);
    c.dk_ = rows_to<T>(din.k);
    c.dv_ = rows_to<T>(din.v);
    c.da = rows_to<T>(din.a);
    c.db = rows_to<T>(din.b);
    c.dbeta = rows_to<T>(din.beta);
    c.dg = rows_to<A>(din.g);
    c.dgk = rows_to<A>(din.gk);
    c.ds0 = linear_scan::state_to<A>(din.s0, c.dv);
    linear_scan::backward(machine, c);
  }

 private:
  static Call call_of(const Op::In<TensorView>& in, const Op::Attrs& attrs) {
    using linear_scan::rows_in;
    Call c;
    linear_scan::set_extents("delta_rule", c, in.k, in.v, in.offsets,
                             linear_scan::entries_of(in.s0));
    c.key_share = c.query_share = c.heads / in.k.size(2);
    c.scale = A(attrs.scale);
    c.eps = A(Op::kNormEps);
    c.normalize = attrs.qk_l2norm;
    c.erase = in.a.defined() ? linear_scan::Erase::kLowRank : linear_scan::Erase::kKey;
    c.q = rows_in<T>(in.q);
    c.k = rows_in<T>(in.k);
    c.v = rows_in<T>(in.v);
    c.beta = rows_in<T>(in.beta);
    c.a = rows_in<T>(in.a);
    c.b = rows_in<T>(in.b);
    c.g = rows_in<A>(in.g);
    c.gk = rows_in<A>(in.gk);
    c.s0 = linear_scan::state_in<A>(in.s0, c.dv);
    return c;
  }
};

}  // namespace ls::ops::delta_rule
