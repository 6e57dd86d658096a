#pragma once
// The scans of core/ops/common/scalar_gate_scan.h and the kernels of mlstm_scans.cuh as a kernel of
// mlstm: sm_90a, bf16, keys and values of at most 128, multiples of 8.
#include <algorithm>

#include "core/backend/cuda/device/machine.cuh"
#include "core/backend/cuda/switches.h"
#include "core/op/report.h"
#include "core/ops/common/document_marks.cuh"
#include "core/ops/common/hopper_operands.cuh"
#include "core/ops/common/scalar_gate_scan.h"
#include "core/ops/mlstm/mlstm.h"
#include "core/ops/mlstm/mlstm_scans.cuh"

namespace ls::ops::mlstm::scans {

namespace scan = kernels::decayed_linear;
using common::at;
using common::floats;

inline scan::LinearSizes sizes(const auto& in, const Mlstm::Attrs& attrs) {
  const auto n = [](Index x) { return static_cast<int>(x); };
  scan::LinearSizes z{n(in.q.size(0)), n(in.q.size(1)), n(in.k.size(2)),
                      static_cast<float>(attrs.scale)};
  z.dk = n(in.k.size(3));
  z.dv = n(in.v.size(3));
  if (in.offsets.defined()) {
    z.state_tokens = z.tokens;
    z.tokens *= z.batch;
    z.batch = 1;
    z.documents = n(in.offsets.numel() - 1);
  }
  return z;
}

/// What forward leaves for backward, in one buffer.
struct Kept {
  float *m, *gates, *written, *over, *under, *sums, *n_end;
  Element* o_rest;
  Index bytes = 0;
  Kept(const scan::LinearSizes& z, Index chains, void* memory) {
    const auto take = [&]<class T>(T*& to, std::size_t n) {
      to = reinterpret_cast<T*>(static_cast<char*>(memory) + bytes);
      bytes += (static_cast<Index>(n * sizeof(T)) + 127) / 128 * 128;
    };
    const std::size_t rows = z.token_lanes();
    for (float** to : {&m, &gates, &written, &over, &under}) {
      take(*to, rows);
    }
    take(sums, z.records() * scan::LinearSizes::kDk);
    take(n_end, static_cast<std::size_t>(chains * z.dk));
    take(o_rest, rows * static_cast<std::size_t>(z.dv));
  }
};

/// One call: sizes, memory and the passes.
class Scans {
 public:
  using Op = Mlstm;

  /// Documents share the states of their row.
  static bool fits(const Op::In<ShapeOf>& in, const Op::Attrs& attrs, int generation) {
    const auto own = [&](const ShapeOf& s) { return !s.defined() || s.size(0) == in.q.size(0); };
    const bool rows = own(in.c0) && own(in.n0) && own(in.m0);
    return cuda::hopper(generation) && common::small(in) && in.q.size(1) > 1 && in.k.size(2) > 0 &&
           in.v.size(3) <= scan::LinearSizes::kDv && sizes(in, attrs).valid() &&
           (rows || !in.offsets.defined()) && attrs.form != Form::kRecurrent;
  }
  static Index kept_bytes(const auto& in, const Op::Attrs& attrs) {
    return Kept(sizes(in, attrs), in.q.size(0) * in.k.size(2), nullptr).bytes;
  }
  static std::vector<ShapeOf> keeps(const Op::In<ShapeOf>& in, const Op::Attrs& attrs) {
    return {ShapeOf({kept_bytes(in, attrs)}, DType::kU8)};
  }

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out,
                      std::span<TensorView> kept, const Op::Attrs& attrs) {
    const cuda::Scratch own(kept.empty() ? kept_bytes(in, attrs) : 1);
    Scans call(in, attrs, kept.empty() ? own.data() : kept[0].raw());
    report_form<Op>("chunk of {}", scan::LinearSizes::kChunk);
    call.run_forward(out, !kept.empty());
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       std::span<const TensorView> kept, const Op::Attrs& attrs) {
    Scans call(in, attrs, const_cast<void*>(kept[0].raw()));
    call.run_backward(at(out.o), dout, din);
  }

 private:
  Scans(const Op::In<TensorView>& in, const Op::Attrs& attrs, void* kept)
      : in_(in),
        attrs_(attrs),
        sizes_(sizes(in, attrs)),
        rows_(static_cast<Index>(sizes_.token_lanes())),
        chains_(in.q.size(0) * in.k.size(2)),
        table_("mlstm", in.q.size(0), in.q.size(1), in.offsets, 0),
        kept_(sizes_, chains_, kept) {
    normal_.written = kept_.written;
    normal_.m = kept_.m;
    normal_.divides = attrs.normalize;
    normal_.eps = attrs.normalize ? static_cast<float>(attrs.eps) : 0.f;
    normal_.sums = kept_.sums;
    normal_.over = kept_.over;
    normal_.under = kept_.under;
    normal_.n0 = floats(in.n0);
    normal_.n_end = kept_.n_end;
    walk_.batch = static_cast<int>(in.q.size(0));
    walk_.tokens = static_cast<int>(in.q.size(1));
    walk_.heads = sizes_.heads;
    walk_.i = floats(in.i);
    walk_.f = floats(in.f);
    walk_.m0 = floats(in.m0);
    walk_.stabilize = attrs.stabilize;
    walk_.m = kept_.m;
    walk_.kept = kept_.gates;
    walk_.written = kept_.written;
    walk_.begins = common::mark_documents(memory_, table_);
  }

  template <class P>
  P* take(Index n) {
    P* to = nullptr;
    common::take(memory_, n, to);
    return to;
  }
  static dim3 blocks(Index n) { return dim3(static_cast<unsigned>(n)); }
  scan::LinearInputs inputs() const {
    return {at(in_.q), at(in_.k),      at(in_.v),      kept_.gates,
            nullptr,   floats(in_.c0), table_.checked, &normal_};
  }

  void run_forward(Op::Out<TensorView>& out, bool for_backward) {
    walk_.mT = floats(out.mT);
    cuda::launch(&walk_kernel, blocks(chains_), dim3(kWalkThreads), 0, walk_);
    normal_.o_rest = for_backward ? kept_.o_rest : nullptr;
    const scan::LinearPlan plan = scan::decayed_linear_plan(sizes_, cuda::queue().processors, true);
    void* const workspace =
        take<char>(static_cast<Index>(scan::decayed_linear_forward_workspace(sizes_, plan, true)));
    common::OutgoingStates last(in_.c0, out.cT, plan.segments > 1);
    cuda::check(scan::decayed_linear_forward(sizes_, plan, inputs(), at(out.o), last.data(),
                                             workspace, cuda::queue().stream),
                "the scan of mlstm");
    last.put();
    if (out.nT.defined()) {
      cuda::check(
          cudaMemcpyAsync(out.nT.raw(), kept_.n_end, static_cast<std::size_t>(out.nT.bytes()),
                          cudaMemcpyDeviceToDevice, cuda::queue().stream),
          "the last sums of keys");
    }
  }

  /// <c, dc> + <n, dn> of all chains; null where there is nothing.
  const float* dot_states(const float* c, const float* dc, const float* n, const float* dn) {
    if (!(c && dc) && !(n && dn)) {
      return nullptr;
    }
    auto* const to = take<float>(chains_);
    cuda::launch(&dot_states_kernel, blocks(chains_), dim3(256), 0,
                 DotStates{sizes_.dk, sizes_.dv, c, dc, n, dn, to});
    return to;
  }

  void run_backward(const Element* o, const Op::Out<TensorView>& dout, Op::In<TensorView>& din) {
    const common::Arriving go(dout.o, in_.v.numel());
    const bool dm_counts = attrs_.stabilize && normal_.eps != 0;
    Below below{rows_, sizes_.dv, normal_.eps, go.data, o, kept_.o_rest, kept_.over, kept_.under};
    below.below = take<float>(rows_);
    below.direct = dm_counts ? take<float>(rows_) : nullptr;
    cuda::launch(&below_kernel, blocks(cuda::blocks_for(rows_, 16)), dim3(256), 0, below);

    const Index states = chains_ * sizes_.dk * sizes_.dv, sums = chains_ * sizes_.dk;
    const bool wants_m0 = din.m0.defined();
    const auto wanted = [&](TensorView& d, bool also, Index n) {
      return d.defined() ? floats(d) : also ? take<float>(n) : nullptr;
    };
    const float *gcT = floats(dout.cT), *gnT = floats(dout.nT);
    normal_.below = below.below;
    normal_.dsums = take<float>(static_cast<Index>(sizes_.records()) * scan::LinearSizes::kDk);
    normal_.gn_end = gnT;
    normal_.dn0 = wanted(din.n0, wants_m0, sums);
    normal_.dwritten = take<float>(rows_);
    normal_.s_end = attrs_.stabilize && gcT ? take<float>(states) : nullptr;
    const common::Wanted q(din.q, in_.q.numel()), k(din.k, in_.k.numel()), v(din.v, in_.v.numel());
    const scan::LinearGradients to{q.data, k.data, v.data, take<float>(rows_),
                                   wanted(din.c0, wants_m0, states)};
    void* const workspace =
        take<char>(static_cast<Index>(scan::decayed_linear_backward_workspace(sizes_, true)));
    cuda::check(scan::decayed_linear_backward(sizes_, inputs(), go.data, gcT, workspace, to,
                                              cuda::queue().stream),
                "the gradients of the scan of mlstm");
    run_walk_back(dout, din, below.direct, to);
  }
  void run_walk_back(const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const float* direct,
                     const scan::LinearGradients& made) {
    WalkBack w;
    w.walk = walk_;
    w.direct = direct;
    w.dkept = made.g;
    w.dwritten = normal_.dwritten;
    w.di = floats(din.i);
    w.df = floats(din.f);
    w.dm0 = floats(din.m0);
    if (attrs_.stabilize) {
      w.gmT = floats(dout.mT);
      w.last = last_states(dout);
      w.start = dot_states(floats(in_.c0), made.s0, floats(in_.n0), normal_.dn0);
    }
    if (w.di || w.df || w.dm0) {
      cuda::launch(&walk_back_kernel, blocks(chains_), dim3(kWalkThreads), 0, w);
    }
  }
  /// <c, dc> + <n, dn> of the last states.
  const float* last_states(const Op::Out<TensorView>& dout) {
    return dot_states(normal_.s_end, floats(dout.cT), normal_.n_end, floats(dout.nT));
  }

  cuda::Machine memory_;
  const Op::In<TensorView>& in_;
  const Op::Attrs& attrs_;
  const scan::LinearSizes sizes_;
  const Index rows_, chains_;
  common::StretchTable table_;
  Kept kept_;
  scan::Normaliser normal_;
  Walk walk_;
};

}  // namespace ls::ops::mlstm::scans
