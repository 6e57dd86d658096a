#pragma once
// The passes of a call, one after the other. A `Machine` (HostMachine, cuda::Machine) gives memory
// for the call's length and runs code of blocks.
#include "core/ops/common/linear_scan/finish.h"
#include "core/ops/common/linear_scan/forward.h"
#include "core/ops/common/linear_scan/key_gradients.h"
#include "core/ops/common/linear_scan/prepare.h"
#include "core/ops/common/linear_scan/reverse.h"
#include "core/ops/common/linear_scan/score_gradients.h"

namespace ls::ops::linear_scan {

/// Sequences and their chunks, once for a call.
template <class T, class Y, class Machine>
void make_tables(Machine& machine, Call<T, Y>& call) {
  if (!call.slots) {
    common::make_stretches(machine, call.sequences);
    call.slot_count = call.batch * call.tokens / Call<T, Y>::C + call.sequences.count + 1;
    take(machine, call.slot_count, call.slots);
    machine.template launch<MakeSlots<T, Y>>({1, 1, 1}, call);
  }
}

/// Prepared operands.
template <class T, class Y, class Machine>
void prepare(Machine& machine, Call<T, Y>& call) {
  constexpr int C = Call<T, Y>::C;
  make_tables(machine, call);
  const Index states = call.batch * call.tokens * call.heads, queries = states * call.group;
  take(machine, queries * call.dk, call.q_in);
  take(machine, states * call.dk, call.k_out, call.all);
  take(machine, queries * C, call.p);
  if (call.erases()) {
    take(machine, states * call.dk, call.e_in);
    take(machine, states * C, call.mk, call.solve);
  }
  if (call.low_rank()) {
    take(machine, states * call.dk, call.b_out);
    take(machine, queries * C, call.pb);
    take(machine, states * C, call.mb);
  }
  machine.template launch<Prepare<T, Y>>({call.slot_count, call.heads, call.group}, call);
}

template <class T, class Y, class Machine>
void loop_forward(Machine& machine, const Call<T, Y>& call) {
  machine.template launch_states<Forward<T, Y>>(
      {call.sequences.count, call.heads, call.value_tiles()}, call);
}
template <class T, class Y, class Machine>
void forward(Machine& machine, Call<T, Y>& call) {
  prepare(machine, call);
  loop_forward(machine, call);
}

/// Gradients of heads that share rows, summed.
template <class T, class Y, class Machine>
void sum_rows(Machine& machine, const Call<T, Y>& call, const Rows<const T>& x,
              const acc_t<T>* from, const Rows<T>& to, Index share, bool query, bool normalized) {
  const Index heads = (query ? call.out_heads() : call.heads) / share;
  const SumRows<T, Y> sum{x, from, to, heads, share, normalized};
  const Index rows = call.batch * call.tokens * heads;
  if (to) {
    machine.launch_code({blocks_of(rows, sum.kRows), 1, 1}, sum, call);
  }
}

/// The memory of a pass backward.
template <class T, class Y, class Machine>
void take_for_backward(Machine& machine, Call<T, Y>& call) {
  constexpr int C = Call<T, Y>::C;
  const Index all = call.batch * call.tokens, states = all * call.heads;
  const Index queries = states * call.group, size = call.dk * call.dv;
  take(machine, (all / C + 1) * call.heads * size, call.states, call.gstates);
  take(machine, queries * C, call.gp);
  take(machine, queries * call.dk, call.gq);
  take(machine, states * call.dk, call.gk_row);
  if (call.erases()) {
    take(machine, states * call.dv, call.y, call.z);
    take(machine, states * C, call.gmk);
  }
  if (call.low_rank()) {
    take(machine, queries * C, call.gpb);
    take(machine, states * C, call.gmb);
    take(machine, states * call.dk, call.ga, call.gb);
  }
  if (call.dbeta || call.dweight) {
    take(machine, states * call.dv, call.gx);
  }
  if (call.dg) {
    take(machine, states * call.key_tiles(), call.gg_tile);
  }
  if (call.du) {
    take(machine, call.slot_count * call.heads * call.dk, call.gu_slot);
  }
  if (call.ds0 && call.sequences.entries > call.batch) {
    take(machine, call.sequences.count * call.heads * size, call.gs_first);
  }
}

/// Sums over what lies in several blocks.
template <class T, class Y, class Machine>
void finish(Machine& machine, const Call<T, Y>& call) {
  sum_rows(machine, call, call.q, call.gq, call.dq, call.query_share, true, call.normalize);
  sum_rows(machine, call, call.k, call.gk_row, call.dk_, call.key_share, false, call.normalize);
  sum_rows(machine, call, call.a, call.ga, call.da, call.key_share, false, false);
  sum_rows(machine, call, call.b, call.gb, call.db, call.key_share, false, false);
  if (call.dg) {
    const Index states = call.batch * call.tokens * call.heads;
    machine.template launch<SumTiles<T, Y>>({blocks_of(states, kThreads), 1, 1}, call);
  }
  if (call.du) {
    machine.template launch<SumBonus<T, Y>>(
        {call.heads / call.bonus_share, blocks_of(call.dk, kThreads), 1}, call);
  }
  if (call.ds0) {
    machine.template launch<SumStarts<T, Y>>({call.sequences.entries, call.heads, 1}, call);
  }
}

/// All gradients; `outputs(call)` is run behind the loop forward, which writes o where it is given,
/// and may set `go` and others that only the way back reads.
template <class T, class Y, class Machine, class Outputs>
void backward(Machine& machine, Call<T, Y>& call, Outputs&& outputs) {
  prepare(machine, call);
  take_for_backward(machine, call);
  loop_forward(machine, call);
  outputs(call);
  machine.template launch_states<Reverse<T, Y>>(
      {call.sequences.count, call.heads, call.value_tiles()}, call);
  machine.template launch<ScoreGradients<T, Y>>({call.slot_count, call.heads, call.group}, call);
  machine.template launch<KeyGradients<T, Y>>({call.slot_count, call.heads, call.key_tiles()},
                                              call);
  if (call.dgv) {
    machine.template launch<ColumnDecays<T, Y>>({call.slot_count, call.heads, call.value_tiles()},
                                                call);
  }
  finish(machine, call);
}
template <class T, class Y, class Machine>
void backward(Machine& machine, Call<T, Y>& call) {
  backward(machine, call, [](Call<T, Y>&) {});
}

}  // namespace ls::ops::linear_scan
