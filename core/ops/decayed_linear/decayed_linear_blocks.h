#pragma once
// Decayed linear attention as a linear scan in blocks (core/ops/common/linear_scan/), any sizes and
// operands.
#include "core/op/report.h"
#include "core/ops/common/linear_scan/operands.h"
#include "core/ops/decayed_linear/decayed_linear_heads.h"

namespace ls::ops::decayed_linear {

template <class Machine, class T>
struct Blocks {
  using A = acc_t<T>;
  using Op = DecayedLinear;
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
    c.dg = rows_to<A>(din.g);
    c.dgk = rows_to<A>(din.gk);
    c.dgv = rows_to<A>(din.gv);
    c.du = common::elements<A>(din.u);
    c.ds0 = linear_scan::state_to<A>(din.s0, c.dv);
    linear_scan::backward(machine, c);
  }

 private:
  static Call call_of(const Op::In<TensorView>& in, const Op::Attrs& attrs) {
    using linear_scan::rows_in;
    Call c;
    const Heads heads(in);
    linear_scan::set_extents("decayed_linear", c, in.k, in.v, in.offsets,
                             linear_scan::entries_of(in.s0));
    c.group = heads.group();
    c.key_share = heads.state / heads.key;
    c.query_share = heads.query < heads.state ? heads.state / heads.query : 1;
    c.bonus_share = heads.state / heads.bonus;
    c.scale = A(attrs.scale);
    c.exclusive = in.u.defined();
    c.q = rows_in<T>(in.q);
    c.k = rows_in<T>(in.k);
    c.v = rows_in<T>(in.v);
    c.g = in.decay.defined() ? linear_scan::Rows<const A>{in.decay.data<A>(), 0, 0, 1}
                             : rows_in<A>(in.g);
    c.gk = rows_in<A>(in.gk);
    c.gv = rows_in<A>(in.gv);
    c.u = common::elements<A>(in.u);
    c.s0 = linear_scan::state_in<A>(in.s0, c.dv);
    return c;
  }
};

}  // namespace ls::ops::decayed_linear
