#pragma once
// The kernels for sm_90a (decayed_linear_hopper.h) as kernels of decayed_linear: bf16, sizes as
// there; queries and keys of their own or shared by heads, rows or packed documents.
#include "core/backend/cuda/device/machine.cuh"
#include "core/backend/cuda/switches.h"
#include "core/op/report.h"
#include "core/ops/common/block_rows.h"
#include "core/ops/common/hopper_operands.cuh"
#include "core/ops/decayed_linear/decayed_linear.h"
#include "core/ops/decayed_linear/decayed_linear_hopper.h"

namespace ls::ops::decayed_linear::hopper {

namespace fast = kernels::decayed_linear;
using common::Arriving;
using common::at;
using common::floats;
using common::Wanted;
using Op = DecayedLinear;

inline fast::LinearSizes sizes(const auto& in, const Op::Attrs& attrs) {
  const auto n = [](Index x) { return static_cast<int>(x); };
  fast::LinearSizes z{n(in.q.size(0)), n(in.q.size(1)), n(in.v.size(2)),
                      static_cast<float>(attrs.scale)};
  z.query_heads = n(in.q.size(2));
  z.key_heads = n(in.k.size(2));
  z.dk = n(in.k.size(3));
  z.dv = n(in.v.size(3));
  if (in.offsets.defined()) {
    z.state_tokens = z.tokens;
    z.tokens *= z.batch;
    z.batch = 1;
    z.documents = n(in.offsets.numel() - 1);
  }
  z.shift = in.u.defined() ? 1 : 0;
  return z;
}
inline bool fits(const Op::In<ShapeOf>& in, const Op::Attrs& attrs, int generation) {
  const Index heads = in.v.size(2), queries = in.q.size(2), keys = in.k.size(2);
  return cuda::hopper(generation) && common::small(in) && heads > 0 && queries > 0 && keys > 0 &&
         heads % queries == 0 && heads % keys == 0 && sizes(in, attrs).valid() &&
         in.v.size(3) <= 4 * fast::LinearSizes::kDv && common::own_states(in) &&
         attrs.form != Form::kRecurrent;
}
/// A bonus is added token by token, for heads of their own.
inline bool fits_channels(const Op::In<ShapeOf>& in, const Op::Attrs& attrs, int generation) {
  const Index heads = in.v.size(2);
  const bool plain =
      in.q.size(2) == heads && in.k.size(2) == heads && in.v.size(3) <= fast::LinearSizes::kDv;
  return fits(in, attrs, generation) && (!in.u.defined() || plain);
}
/// Offsets that have been looked at.
class Documents {
 public:
  explicit Documents(const Op::In<TensorView>& in)
      : table_("decayed_linear", in.q.size(0), in.q.size(1), in.offsets, 0) {
    common::check_offsets(machine_, table_);
  }
  const std::int64_t* offsets() const { return table_.checked; }

 private:
  cuda::Machine machine_;
  common::StretchTable table_;
};
inline cuda::Scratch scratch(std::size_t bytes) {
  return cuda::Scratch(static_cast<Index>(bytes > 0 ? bytes : 1));
}

/// A gate a token and head, of the head, or none.
struct Scalar {
  static fast::LinearInputs inputs(const Op::In<TensorView>& in, const Documents& documents) {
    return {at(in.q),         at(in.k),      at(in.v),           floats(in.g),
            floats(in.decay), floats(in.s0), documents.offsets()};
  }
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out,
                      const Op::Attrs& attrs) {
    const fast::LinearSizes z = sizes(in, attrs);
    const Documents documents(in);
    report_form<Op>("chunk of {}", z.kChunk);
    const fast::LinearPlan plan = fast::decayed_linear_plan(z, cuda::queue().processors);
    const cuda::Scratch memory = scratch(fast::decayed_linear_forward_workspace(z, plan));
    common::OutgoingStates last(in.s0, out.sT, in.q.size(1) > z.kChunk);
    cuda::check(fast::decayed_linear_forward(z, plan, inputs(in, documents), at(out.o), last.data(),
                                             memory.data(), cuda::queue().stream),
                "decayed linear attention");
    last.put();
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& attrs) {
    const fast::LinearSizes z = sizes(in, attrs);
    const Documents documents(in);
    const cuda::Scratch memory = scratch(fast::decayed_linear_backward_workspace(z));
    const Arriving go(dout.o, in.v.numel());
    const Wanted q(din.q, in.q.numel()), k(din.k, in.k.numel()), v(din.v, in.v.numel());
    const fast::LinearGradients to{q.data, k.data, v.data, floats(din.g), floats(din.s0)};
    cuda::check(fast::decayed_linear_backward(z, inputs(in, documents), go.data, floats(dout.sT),
                                              memory.data(), to, cuda::queue().stream),
                "the gradients of decayed linear attention");
  }
};

/// A gate a key channel.
struct Channels {
  static fast::ChannelInputs inputs(const Op::In<TensorView>& in, const Documents& documents) {
    return {at(in.q), at(in.k), at(in.v), floats(in.gk), floats(in.s0), documents.offsets()};
  }
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out,
                      const Op::Attrs& attrs) {
    const fast::LinearSizes z = sizes(in, attrs);
    const Documents documents(in);
    report_form<Op>("chunk of {}", z.kChunk);
    const int segments = fast::channel_linear_segments(z, cuda::queue().processors);
    const cuda::Scratch memory = scratch(fast::channel_linear_forward_workspace(z, segments));
    common::OutgoingStates last(in.s0, out.sT, in.q.size(1) > z.kChunk);
    cuda::check(fast::channel_linear_forward(z, segments, inputs(in, documents), at(out.o),
                                             last.data(), memory.data(), cuda::queue().stream),
                "linear attention with decays by channel");
    last.put();
    if (in.u.defined()) {
      cuda::check(
          fast::add_bonus(z, inputs(in, documents), bonus(in), at(out.o), cuda::queue().stream),
          "the bonus of linear attention");
    }
  }
  static fast::Bonus bonus(const Op::In<TensorView>& in) {
    return {floats(in.u), static_cast<int>(in.u.size(0))};
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& attrs) {
    const fast::LinearSizes z = sizes(in, attrs);
    const Documents documents(in);
    const cuda::Scratch memory = scratch(fast::channel_linear_backward_workspace(z));
    const Arriving go(dout.o, in.v.numel());
    const Wanted q(din.q, in.q.numel()), k(din.k, in.k.numel()), v(din.v, in.v.numel());
    const cuda::Scratch dg(din.gk.defined() ? 1 : in.gk.bytes());
    const fast::LinearGradients to{
        q.data, k.data, v.data, din.gk.defined() ? floats(din.gk) : dg.as<float>(), floats(din.s0)};
    cuda::check(fast::channel_linear_backward(z, inputs(in, documents), go.data, floats(dout.sT),
                                              memory.data(), to, cuda::queue().stream),
                "the gradients of linear attention with decays by channel");
    if (in.u.defined()) {
      const cuda::Scratch sums = scratch(fast::bonus_workspace(z));
      cuda::check(fast::add_bonus_gradients(z, inputs(in, documents), bonus(in), go.data,
                                            sums.data(), to, floats(din.u), cuda::queue().stream),
                  "the gradients of the bonus of linear attention");
    }
  }
};

}  // namespace ls::ops::decayed_linear::hopper
