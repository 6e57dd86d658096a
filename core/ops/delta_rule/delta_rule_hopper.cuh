#pragma once
// The kernels for sm_90a as kernels of delta_rule: bf16, gated by head (gated_delta.h) or by
// channel (kda.h). What the call has and they do not take is made before or after them: rows
// divided by their lengths, gradients that are not wanted.
#include "core/backend/cuda/device/machine.cuh"
#include "core/backend/cuda/switches.h"
#include "core/op/report.h"
#include "core/ops/common/block_rows.h"
#include "core/ops/common/hopper_operands.cuh"
#include "core/ops/delta_rule/delta_rule.h"
#include "core/ops/delta_rule/gated_delta.h"
#include "core/ops/delta_rule/kda.h"

namespace ls::ops::delta_rule::hopper {

using common::Arriving;
using common::at;
using common::Element;
using common::floats;
using common::Wanted;
using Op = DeltaRule;

/// Rows [B,T,H,D] of kTeam threads each, 8 channels a thread and turn: D is a multiple of 8.
struct RowsCall {
  common::Rows<const bf16> from;
  Index tokens, heads, d, count;
  float eps;
};
inline constexpr int kTeam = 16, kRowThreads = 256, kRowsABlock = kRowThreads / kTeam;
inline constexpr int kTurns = 2;  // of a team over a row of at most 256 channels

__device__ inline float team_sum(float x) {
#pragma unroll
  for (int step = kTeam / 2; step > 0; step /= 2) {
    x += __shfl_xor_sync(0xffffffffu, x, step);
  }
  return x;
}
/// What one thread has of row r: channels 8 (lane + kTeam n) .. of turn n, zeros behind its end.
struct RowPart {
  float x[kTurns][8];
  __device__ void load(const Element* row, Index d, int lane) {
#pragma unroll
    for (int n = 0; n < kTurns; ++n) {
      const Index first = 8 * (lane + kTeam * n);
      uint4 pack = make_uint4(0, 0, 0, 0);
      if (row && first < d) {
        pack = *reinterpret_cast<const uint4*>(row + first);
      }
      const auto* const pair = reinterpret_cast<const __nv_bfloat162*>(&pack);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        x[n][2 * i] = __low2float(pair[i]);
        x[n][2 * i + 1] = __high2float(pair[i]);
      }
    }
  }
  __device__ void store(Element* row, Index d, int lane) const {
#pragma unroll
    for (int n = 0; n < kTurns; ++n) {
      const Index first = 8 * (lane + kTeam * n);
      uint4 pack;
      auto* const pair = reinterpret_cast<__nv_bfloat162*>(&pack);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        pair[i] = __floats2bfloat162_rn(x[n][2 * i], x[n][2 * i + 1]);
      }
      if (first < d) {
        *reinterpret_cast<uint4*>(row + first) = pack;
      }
    }
  }
  __device__ float dot(const RowPart& y) const {
    float sum = 0;
#pragma unroll
    for (int n = 0; n < kTurns; ++n) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        sum += x[n][i] * y.x[n][i];
      }
    }
    return team_sum(sum);
  }
};
/// Row r of such rows; null behind the last.
template <class T>
__device__ T* row_of(const RowsCall& c, const common::Rows<T>& rows, Index r) {
  const Index token = r / c.heads;
  return r < c.count ? rows.at(token / c.tokens, token % c.tokens, r % c.heads) : nullptr;
}
__device__ inline const Element* row_of(const RowsCall& c, Index r) {
  return reinterpret_cast<const Element*>(row_of(c, c.from, r));
}
/// to = rows divided by their lengths, contiguous.
__global__ void __launch_bounds__(kRowThreads) normalize_rows(const RowsCall c, Element* to) {
  const Index r = Index{blockIdx.x} * kRowsABlock + threadIdx.x / kTeam;
  const int lane = static_cast<int>(threadIdx.x) % kTeam;
  RowPart x;
  x.load(row_of(c, r), c.d, lane);
  const float factor = rsqrtf(x.dot(x) + c.eps);
#pragma unroll
  for (auto& turn : x.x) {
#pragma unroll
    for (float& e : turn) {
      e *= factor;
    }
  }
  if (r < c.count) {
    x.store(to + r * c.d, c.d, lane);
  }
}
/// to = the gradients of the rows, from those of normalised ones, contiguous.
__global__ void __launch_bounds__(kRowThreads)
    through_lengths(const RowsCall c, const Element* d, const common::Rows<bf16> to) {
  const Index r = Index{blockIdx.x} * kRowsABlock + threadIdx.x / kTeam;
  const int lane = static_cast<int>(threadIdx.x) % kTeam;
  RowPart x, dx;
  x.load(row_of(c, r), c.d, lane);
  dx.load(r < c.count ? d + r * c.d : nullptr, c.d, lane);
  const float factor = rsqrtf(x.dot(x) + c.eps);
  const float along = x.dot(dx) * factor * factor;
#pragma unroll
  for (int n = 0; n < kTurns; ++n) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      dx.x[n][i] = factor * (dx.x[n][i] - along * x.x[n][i]);
    }
  }
  if (r < c.count) {
    dx.store(reinterpret_cast<Element*>(row_of(c, to, r)), c.d, lane);
  }
}

inline RowsCall rows_call(const TensorView& x) {
  return {common::rows_in<bf16>(x),          x.size(1),          x.size(2), x.size(3),
          x.size(0) * x.size(1) * x.size(2), float(Op::kNormEps)};
}
inline dim3 blocks_of_rows(const RowsCall& c) {
  return static_cast<unsigned>(cuda::blocks_for(c.count, kRowsABlock));
}

/// q and k as the kernels take them.
class Unit {
 public:
  Unit(const Op::In<TensorView>& in, bool normalize)
      : normalize_(normalize),
        q_memory_(normalize ? in.q.bytes() : 1),
        k_memory_(normalize ? in.k.bytes() : 1) {
    q = of(in.q, q_memory_);
    k = of(in.k, k_memory_);
  }
  /// Where gradients of q or k are made: contiguous.
  static Wanted wanted(TensorView& d, const TensorView& x) {
    return {d, x.numel(), d.defined() && d.is_contiguous()};
  }
  /// The gradients of the call's q or k from what lies at `made`.
  void back(const TensorView& x, const Element* made, TensorView& d) const {
    if (normalize_ && d.defined()) {
      const RowsCall c = rows_call(x);
      cuda::launch(&through_lengths, blocks_of_rows(c), kRowThreads, 0, c, made,
                   common::rows_to<bf16>(d));
    }
  }
  const Element *q, *k;

 private:
  const Element* of(const TensorView& x, cuda::Scratch& memory) const {
    if (!normalize_) {
      return at(x);
    }
    const RowsCall c = rows_call(x);
    cuda::launch(&normalize_rows, blocks_of_rows(c), kRowThreads, 0, c, memory.as<Element>());
    return memory.as<Element>();
  }
  bool normalize_;
  cuda::Scratch q_memory_, k_memory_;
};

/// Where the gradients of v are made: in slices too, which documents must see as one row.
inline Wanted values(const Op::In<TensorView>& in, TensorView& d) {
  return {d, in.v.numel(), d.defined() && (!in.offsets.defined() || common::one_row(d.layout()))};
}

struct Gated {
  static kernels::gated_delta::DeltaSizes sizes(const auto& in, const Op::Attrs& attrs) {
    const auto n = [](Index x) { return static_cast<int>(x); };
    kernels::gated_delta::DeltaSizes z{n(in.q.size(0)),
                                       n(in.q.size(1)),
                                       n(in.k.size(2)),
                                       n(in.v.size(2)),
                                       n(in.k.size(3)),
                                       n(in.v.size(3)),
                                       0,
                                       static_cast<float>(attrs.scale)};
    if (in.offsets.defined()) {
      z.state_tokens = z.tokens;
      z.tokens *= z.batch;
      z.batch = 1;
      z.documents = n(in.offsets.numel() - 1);
    }
    return z;
  }
  static bool fits(const Op::In<ShapeOf>& in, const Op::Attrs& attrs, int generation) {
    const Index dk = in.k.size(3), dv = in.v.size(3);
    return cuda::hopper(generation) && common::small(in) && common::own_states(in) && dk > 0 &&
           dk % 8 == 0 && dk <= 256 && dv > 0 && dv % 8 == 0 && attrs.form != Form::kRecurrent;
  }
  static bool fits_normalized(const Op::In<ShapeOf>& in, const Op::Attrs& attrs, int generation) {
    return attrs.qk_l2norm && fits(in, attrs, generation);
  }
  static std::vector<ShapeOf> keeps(const Op::In<ShapeOf>& in, const Op::Attrs& attrs) {
    const auto bytes = static_cast<Index>(sizes(in, attrs).kept_bytes());
    return {ShapeOf({bytes}, DType::kU8)};
  }
  static kernels::gated_delta::DeltaInputs inputs(cuda::Machine& machine,
                                                  const Op::In<TensorView>& in, const Unit& unit) {
    common::StretchTable documents("delta_rule", in.q.size(0), in.q.size(1), in.offsets, 0);
    common::check_offsets(machine, documents);
    return {unit.q,      unit.k,        at(in.v),          floats(in.g),
            at(in.beta), floats(in.s0), documents.checked, common::steps_of(in.v.layout())};
  }
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out,
                      std::span<TensorView> kept, const Op::Attrs& attrs) {
    const auto z = sizes(in, attrs);
    report_form<Op>("chunk of {}", z.kChunk);
    cuda::Machine machine;
    const Unit unit(in, attrs.qk_l2norm);
    const cuda::Scratch own(kept.empty() ? static_cast<Index>(z.kept_bytes()) : 1);
    cuda::check(kernels::gated_delta::gated_delta_forward(
                    z, inputs(machine, in, unit), at(out.o), floats(out.sT),
                    kept.empty() ? own.data() : kept[0].raw(), nullptr, cuda::queue().stream),
                "the gated delta rule");
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       std::span<const TensorView> kept, const Op::Attrs& attrs) {
    const auto z = sizes(in, attrs);
    cuda::Machine machine;
    const Unit unit(in, attrs.qk_l2norm);
    const cuda::Scratch states(static_cast<Index>(z.states_bytes()));
    const cuda::Scratch gradients(static_cast<Index>(z.gradients_bytes()));
    const Index tokens = in.q.size(0) * in.q.size(1), heads = in.v.size(2);
    const Arriving go(dout.o, in.v.numel());
    const Wanted q = Unit::wanted(din.q, in.q), k = Unit::wanted(din.k, in.k),
                 v = values(in, din.v), beta(din.beta, tokens * heads);
    const kernels::gated_delta::DeltaGradients to{
        q.data, k.data, v.data, floats(din.g), beta.data, floats(din.s0), v.steps()};
    cuda::check(kernels::gated_delta::gated_delta_backward(
                    z, inputs(machine, in, unit), go.data, floats(dout.sT), kept[0].raw(),
                    states.data(), false, gradients.data(), to, cuda::queue().stream),
                "the gradients of the gated delta rule");
    unit.back(in.q, q.data, din.q);
    unit.back(in.k, k.data, din.k);
    v.put();
  }
};

struct Kda {
  static kernels::kda::KdaSizes sizes(const auto& in, const Op::Attrs& attrs) {
    const auto n = [](Index x) { return static_cast<int>(x); };
    kernels::kda::KdaSizes z{n(in.q.size(0)), n(in.q.size(1)), n(in.v.size(2)),
                             static_cast<float>(attrs.scale), n(in.k.size(2))};
    if (in.offsets.defined()) {
      z.state_tokens = z.tokens;
      z.tokens *= z.batch;
      z.batch = 1;
      z.documents = n(in.offsets.numel() - 1);
    }
    return z;
  }
  static bool fits(const Op::In<ShapeOf>& in, const Op::Attrs& attrs, int generation) {
    using Sizes = kernels::kda::KdaSizes;
    return cuda::hopper(generation) && common::small(in) && in.k.size(3) == Sizes::kDk &&
           in.v.size(3) == Sizes::kDv && common::own_states(in) && attrs.form != Form::kRecurrent;
  }
  static bool fits_normalized(const Op::In<ShapeOf>& in, const Op::Attrs& attrs, int generation) {
    return attrs.qk_l2norm && fits(in, attrs, generation);
  }
  static std::vector<ShapeOf> keeps(const Op::In<ShapeOf>& in, const Op::Attrs& attrs) {
    const auto bytes = static_cast<Index>(sizes(in, attrs).kept_bytes());
    return {ShapeOf({bytes}, DType::kU8)};
  }
  static kernels::kda::KdaInputs inputs(cuda::Machine& machine, const Op::In<TensorView>& in,
                                        const Unit& unit) {
    common::StretchTable documents("delta_rule", in.q.size(0), in.q.size(1), in.offsets, 0);
    common::check_offsets(machine, documents);
    return {unit.q,      unit.k,        at(in.v),          floats(in.gk),
            at(in.beta), floats(in.s0), documents.checked, common::steps_of(in.v.layout())};
  }
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out,
                      std::span<TensorView> kept, const Op::Attrs& attrs) {
    const auto z = sizes(in, attrs);
    report_form<Op>("chunk of {}", z.kChunk);
    cuda::Machine machine;
    const Unit unit(in, attrs.qk_l2norm);
    const cuda::Scratch own(kept.empty() ? static_cast<Index>(z.kept_bytes()) : 1);
    cuda::check(
        kernels::kda::kda_forward(z, inputs(machine, in, unit), at(out.o), floats(out.sT),
                                  kept.empty() ? own.data() : kept[0].raw(), cuda::queue().stream),
        "the delta rule with gates by channel");
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       std::span<const TensorView> kept, const Op::Attrs& attrs) {
    const auto z = sizes(in, attrs);
    cuda::Machine machine;
    const Unit unit(in, attrs.qk_l2norm);
    const cuda::Scratch states(static_cast<Index>(z.states_bytes()));
    const cuda::Scratch gradients(static_cast<Index>(z.gradients_bytes()));
    const Index tokens = in.q.size(0) * in.q.size(1), heads = in.v.size(2);
    const Arriving go(dout.o, in.v.numel());
    const Wanted q = Unit::wanted(din.q, in.q), k = Unit::wanted(din.k, in.k),
                 v = values(in, din.v), beta(din.beta, tokens * heads);
    const cuda::Scratch dg(din.gk.defined() ? 1 : in.gk.bytes());
    const kernels::kda::KdaGradients to{
        q.data,    k.data,         v.data,   din.gk.defined() ? floats(din.gk) : dg.as<float>(),
        beta.data, floats(din.s0), v.steps()};
    cuda::check(kernels::kda::kda_backward(z, inputs(machine, in, unit), go.data, floats(dout.sT),
                                           const_cast<void*>(kept[0].raw()), true, states.data(),
                                           gradients.data(), to, cuda::queue().stream),
                "the gradients of the delta rule with gates by channel");
    unit.back(in.q, q.data, din.q);
    unit.back(in.k, k.data, din.k);
    v.put();
  }
};

}  // namespace ls::ops::delta_rule::hopper
