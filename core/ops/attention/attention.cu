// Softmax attention on the GPU.
#include <algorithm>
#include <vector>

#include "core/backend/cuda/device/machine.cuh"
#include "core/backend/cuda/switches.h"
#include "core/op/op.h"
#include "core/ops/attention/attention_blocks.h"
#include "core/ops/attention/attention_flash_passes.cuh"
#include "core/ops/attention/attention_hopper_passes.cuh"

namespace ls::ops {
namespace {

template <class T>
using Portable = attention::Blocks<cuda::Machine, T>;

/// On tensor cores; what lies beside the pairs (sinks, odd caches) is the portable kernel's.
template <class T>
struct Flash : attention::Blocks<cuda::Machine, T> {
  using Base = attention::Blocks<cuda::Machine, T>;
  using Op = Attention;
  using A = acc_t<T>;

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out,
                      const Op::Attrs& attrs) {
    cuda::Machine machine;
    attention::Call<T> c = Base::call_of(machine, in, attrs);
    c.o = common::rows_to<T>(out.o);
    c.lse = common::elements<A>(out.lse);
    c.kT = common::rows_to<T>(out.kT);
    c.vT = common::rows_to<T>(out.vT);
    c.out_rows = out.kT.size(1);
    attention::flash::Extra extra = extra_of(machine, c);
    extra.o_pieces = attention::flash::in_pieces(c.o);
    extra.splits = attention::flash::splits_of(c, cuda::queue().processors);
    if (extra.splits == 1 && on_hopper(c)) {
      if constexpr (sizeof(T) == 2) {
        report_form<Op>("wgmma");
        extra.rows = static_cast<int>(c.queries);
        HopperRows rows(machine, c);
        rows.result(rows.call.o, c.queries, c.q_heads, c.dv);
        attention::hopper::forward(rows.call, extra);
        rows.put();
      }
    } else {
      report_form<Op>("tensor cores, keys in {} parts", extra.splits);
      if (extra.splits > 1) {
        const Index all = c.batch * (c.q_heads / c.group) * extra.stride;
        common::take(machine, extra.splits * all * (c.dv + 2), extra.partial);
      }
      attention::flash::forward(c, extra);
    }
    if (c.used || !attention::flash::keep(c)) {
      attention::Keep<T>::launch(machine, c);
    }
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& attrs) {
    if (in.used.defined()) {  // the room of the cache has a gradient too
      Base::backward(in, out, dout, din, attrs);
      return;
    }
    cuda::Machine machine;
    attention::Call<T> c = Base::call_of(machine, in, attrs);
    Base::take_gradients(c, out, dout, din, attrs);
    attention::flash::Extra extra = extra_of(machine, c);
    extra.o_pieces = attention::flash::in_pieces(c.saved_o);
    extra.go_pieces = attention::flash::in_pieces(c.go);
    const bool wide = on_hopper(c) && c.go;
    attention::Call<T> pairs = c;  // as the statistics stand
    if (wide) {
      pairs.group = 1;
      extra.rows = static_cast<int>(c.queries);
    }
    extra.stride = static_cast<int>(attention::blocks_of(extra.rows, attention::flash::kPadded)) *
                   attention::flash::kPadded;
    common::take(machine, c.batch * (c.q_heads / pairs.group) * extra.stride, extra.statistics);
    if (c.dsink) {
      common::take(machine, c.batch * c.queries * c.q_heads, pairs.delta);
      c.delta = pairs.delta;
    }
    attention::flash::prepare_backward(pairs, extra);
    if (c.dsink) {
      machine.template launch<attention::SinkGradient<T>>({c.q_heads, 1, 1}, c);
    }
    const bool keys = c.dk_ || c.dv_ || c.dk0 || c.dv0;
    if (wide) {
      if constexpr (sizeof(T) == 2) {
        HopperRows rows(machine, c);
        const Index key_heads = c.q_heads / c.group;
        rows.result(rows.call.dq, c.queries, c.q_heads, c.dk);
        rows.result(rows.call.dk_, c.own, key_heads, c.dk);
        rows.result(rows.call.dv_, c.own, key_heads, c.dv);
        run(c.dq, attention::hopper::query_gradients, rows.call, extra);
        run(keys, attention::hopper::key_gradients, rows.call, extra);
        rows.put();
      }
      return;
    }
    run(c.dq, attention::flash::query_gradients<T>, c, extra);
    run(keys, attention::flash::key_gradients<T>, c, extra);
  }

 private:
  static void run(const auto& wanted, auto pass, const attention::Call<T>& c,
                  const attention::flash::Extra& extra) {
    if (wanted) {
      pass(c, extra);
    }
  }
  /// What wgmma serves. Where operands lie decides nothing: HopperRows.
  static bool on_hopper(const attention::Call<T>& c) {
    constexpr Index kLeastQueries = 32;
    return sizeof(T) == 2 && cuda::hopper(cuda::queue().generation) && !c.k0 && c.own > 0 &&
           c.queries >= kLeastQueries && c.scale > 0 && !(c.softcap > 0) && !c.slopes &&
           c.dk % 8 == 0 && c.dv % 8 == 0;
  }
  /// A call whose operands and results the copy engine reads and writes: those that do not lie so
  /// are copied.
  class HopperRows {
   public:
    using Rows = common::Rows<T>;
    HopperRows(cuda::Machine& machine, const attention::Call<T>& c) : call(c), machine_(machine) {
      const Index heads = c.q_heads / c.group;
      operand(call.q, c.queries, c.q_heads, c.dk);
      operand(call.k, c.own, heads, c.dk);
      operand(call.v, c.own, heads, c.dv);
      operand(call.go, c.queries, c.q_heads, c.dv);
    }
    void result(Rows& x, Index tokens, Index heads, Index d) {
      if (x && !attention::flash::in_pieces(x)) {
        const Rows beside = room(tokens, heads, d);
        copies_.push_back({beside, x, tokens, heads, d});
        x = beside;
      }
    }
    /// Results that lie beside their places to them.
    void put() const {
      for (const Copy& c : copies_) {
        attention::flash::copy_rows<T>(constant(c.from), c.to, call.batch, c.tokens, c.heads, c.d);
      }
    }
    attention::Call<T> call;

   private:
    struct Copy {
      Rows from, to;
      Index tokens, heads, d;
    };
    static common::Rows<const T> constant(const Rows& x) { return {x.base, x.b, x.t, x.h}; }
    Rows room(Index tokens, Index heads, Index d) {
      T* base = nullptr;
      common::take(machine_, call.batch * tokens * heads * d, base);
      return common::rows_at(base, tokens, heads, d);
    }
    void operand(common::Rows<const T>& x, Index tokens, Index heads, Index d) {
      const bool repeats = x.b == 0 || x.t == 0 || x.h == 0;
      if (x && (repeats || !attention::flash::in_pieces(x))) {
        const Rows beside = room(tokens, heads, d);
        attention::flash::copy_rows<T>(x, beside, call.batch, tokens, heads, d);
        x = constant(beside);
      }
    }
    cuda::Machine& machine_;
    std::vector<Copy> copies_;
  };
  static attention::flash::Extra extra_of(cuda::Machine& machine, const attention::Call<T>& c) {
    using attention::flash::in_pieces;
    attention::flash::Extra extra;
    extra.rows = extra.stride = static_cast<int>(c.queries * c.group);
    extra.q_pieces = in_pieces(c.q);
    extra.k_pieces = in_pieces(c.k) && in_pieces(c.k0);
    extra.v_pieces = in_pieces(c.v) && in_pieces(c.v0);
    if (c.start || c.offsets) {
      int2* bounds = nullptr;
      int4* tiles = nullptr;
      common::take(machine, c.batch * c.queries, bounds);
      common::take(machine,
                   c.batch * attention::blocks_of(c.queries, attention::flash::kBoundTokens),
                   tiles);
      attention::flash::find_bounds(c, bounds, tiles);
      extra.bounds = bounds;
      extra.tiles = tiles;
    }
    return extra;
  }
};

bool fits(const Attention::In<ShapeOf>& in, const Attention::Attrs& attrs, int generation) {
  constexpr Index kMost = Index{1} << 30, kMostBlocks = 65535;
  const Index keys = in.k.size(1) + (in.k0.defined() ? in.k0.size(1) : 0);
  const Index group = in.k.size(2) > 0 ? in.q.size(2) / in.k.size(2) : 1;
  return generation >= 80 && !cuda::portable_only() &&
         std::max(in.q.size(3), in.v.size(3)) <= attention::flash::kMostChannels && keys < kMost &&
         in.q.size(1) * group < kMost && std::abs(attrs.q_offset) < kMost && attrs.window < kMost &&
         attrs.prefix < kMost && in.q.size(0) <= kMostBlocks && in.k.size(2) <= kMostBlocks;
}

LS_KERNEL(Attention)
    .on(DeviceType::kCuda)
    .named("tensor cores")
    .reads("q k v k0 v0 o kT vT", lies::heads)
    .strided_grad("q k v")
    .absent("bias")
    .when(&fits)
    .kernel<Flash, float, bf16>();
LS_KERNEL(Attention)
    .on(DeviceType::kCuda)
    .named("portable")
    .reads("q k v k0 v0 o kT vT", lies::heads)
    .strided_grad("q k v")
    .kernel<Portable, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
