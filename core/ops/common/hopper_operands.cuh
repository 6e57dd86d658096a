#pragma once
// Operands of kernels that take pointers to bf16 and want every gradient.
#include <cuda_bf16.h>

#include <cstdint>

#include "core/backend/cuda/launch.h"
#include "core/backend/cuda/row_steps.h"
#include "core/ops/common/block_rows.h"
#include "core/ops/common/elements.h"
#include "core/tensor/rows.h"

namespace ls::ops::common {

using Element = __nv_bfloat16;

inline Element* at(TensorView& x) {
  return static_cast<Element*>(x.raw());
}
inline const Element* at(const TensorView& x) {
  return static_cast<const Element*>(x.raw());
}
/// Null where absent.
inline const float* floats(const TensorView& x) {
  return elements<float>(x);
}
inline float* floats(TensorView& x) {
  return elements<float>(x);
}

/// How far rows [B,T,H,D] lie apart, as the copy engine is told: what an axis of one does not show
/// is as without gaps.
inline kernels::RowSteps steps_of(const Layout& x) {
  const Index batch = x.shape()[0], tokens = x.shape()[1], heads = x.shape()[2];
  const Index head = heads > 1 ? x.strides()[2] : x.shape()[3];
  const Index token = tokens > 1 ? x.strides()[1] : batch > 1 ? x.strides()[0] : heads * head;
  return {batch > 1 ? x.strides()[0] : tokens * token, token, head};
}
/// The rows of the batch can be taken for one, as where documents are packed.
inline bool one_row(const Layout& x) {
  const kernels::RowSteps s = steps_of(x);
  return s.sequence == x.shape()[1] * s.token;
}

/// Where a kernel writes a gradient [B,T,H,D]: in its place, or beside it where it is not wanted or
/// `in_place` is false; then `put` copies it.
class Wanted {
 public:
  Wanted(TensorView& d, Index elements, bool in_place = true)
      : to_(d),
        in_place_(d.defined() && in_place),
        memory_(in_place_ ? 1 : elements * Index{sizeof(Element)}),
        data(in_place_ ? at(d) : memory_.as<Element>()) {}
  /// Of what lies at `data`.
  kernels::RowSteps steps() const {
    return in_place_ ? steps_of(to_.layout()) : kernels::RowSteps();
  }
  void put() const {
    if (in_place_ || !to_.defined()) {
      return;
    }
    const Pieces p = *pieces_of(to_);
    const auto bytes = [](Index n) { return static_cast<std::size_t>(n) * sizeof(Element); };
    cuda::check(cudaMemcpy2DAsync(at(to_), bytes(p.stride), data, bytes(p.length), bytes(p.length),
                                  static_cast<std::size_t>(to_.numel() / p.length),
                                  cudaMemcpyDeviceToDevice, cuda::queue().stream),
                "storing a gradient");
  }

 private:
  TensorView& to_;
  const bool in_place_;
  cuda::Scratch memory_;

 public:
  Element* const data;
};
/// The gradient of o; zeros where none arrives.
class Arriving {
 public:
  Arriving(const TensorView& go, Index elements)
      : memory_(go.defined() ? 1 : elements * Index{sizeof(Element)}),
        data(go.defined() ? at(go) : memory_.as<Element>()) {
    if (!go.defined()) {
      cuda::check(
          cudaMemsetAsync(memory_.data(), 0, static_cast<std::size_t>(elements) * sizeof(Element),
                          cuda::queue().stream),
          "clearing a gradient");
    }
  }

 private:
  cuda::Scratch memory_;

 public:
  const Element* const data;
};

/// Where last states go. A block of the last segment writes them while those of others may still
/// read the first: where both are one memory (a call that goes on in place) they are put there
/// behind the kernels.
class OutgoingStates {
 public:
  /// segments: whether others may still read.
  OutgoingStates(const TensorView& first, TensorView& to, bool segments)
      : to_(to),
        apart_(segments && first.defined() && to.defined() && first.raw() == to.raw()),
        beside_(apart_ ? to.bytes() : 1) {}
  float* data() { return apart_ ? beside_.as<float>() : floats(to_); }
  void put() {
    if (apart_) {
      cuda::check(cudaMemcpyAsync(to_.raw(), beside_.data(), static_cast<std::size_t>(to_.bytes()),
                                  cudaMemcpyDeviceToDevice, cuda::queue().stream),
                  "the last states of a scan");
    }
  }

 private:
  TensorView& to_;
  bool apart_;
  cuda::Scratch beside_;
};

/// Extents that fit what the kernels count with.
template <class In>
bool small(const In& in) {
  constexpr Index kMost = Index{1} << 30;
  // Offsets of no document with tokens there are a fault, which other kernels report.
  return in.q.size(1) > 0 && in.q.size(0) > 0 && in.q.size(0) * in.q.size(1) < kMost &&
         (!in.offsets.defined() || in.offsets.numel() > 1);
}
/// Where documents are packed, states are the rows' own, none is shared.
template <class In>
bool own_states(const In& in) {
  return !in.offsets.defined() || !in.s0.defined() || in.s0.size(0) == in.q.size(0);
}
}  // namespace ls::ops::common
