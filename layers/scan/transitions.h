#pragma once
// What a stretch of tokens does to the states that come in: the classes that families share, each
// made of ops, so that it runs wherever those do.
//
// A summary is a list of tensors: for each state of the scan what the stretch writes, which has the
// shape of the state, then the transition. For whatever class:
//   identity  the summary of no tokens
//   compose   the later stretch acts on what the earlier one wrote; transitions are joined
//   adjoint   the derivative of act
//   forget    written: what documents start from; a transition that keeps nothing
// A family whose class is not among these brings one of its own.
#include <string_view>
#include <vector>

#include "autograd/var.h"

namespace ls::layers {

using Tensors = std::vector<Tensor>;

struct Transition {
  using Vars = std::vector<ag::Var>;
  std::string_view name;      ///< "diagonal"
  std::string_view contract;  ///< of what follows the written states: "decay[...]:acc"
  bool affine = true;         ///< act is affine in the states
  /// Outgoing states. `window`: rows that growing ones keep, -1: all.
  Vars (*act)(const Vars& written, const Vars& transition, const Vars& states,
              Index window) = nullptr;
  /// The transition of two stretches.
  Tensors (*join)(const Tensors& earlier, const Tensors& later) = nullptr;
  /// Makes of the identity's transition the one that keeps nothing; null: hidden tokens need not be
  /// forgotten.
  void (*forget)(Tensors& transition) = nullptr;
  /// The state, of one like `state`, of which an op that writes nothing makes the transition; its
  /// last axis may be another. Null: there is none.
  Tensor (*unit)(const Tensor& state) = nullptr;
  /// Gradients of the incoming states, where their shape does not follow from the summary.
  Tensors (*adjoint)(const Tensors& written, const Tensors& dstates) = nullptr;
};

namespace transitions {

/// s' = decay s + written. A decay has the leading axes of every state, down to wherever it is the
/// same for all elements behind: [N,H] (scalar), [N,H,Dk] (diagonal), [N,H,Dk,Dv] (of every
/// element); a last axis may be 1. The unit state is ones, of one column for `kDiagonal`, which is
/// for ops whose value columns decay alike.
extern const Transition kDiagonal, kElementwise;
/// S' = M S + written, M [N,...,P,P] and S [N,...,P,Q] joined behind the leading axes of M: dense,
/// or block-diagonal, where M has an axis of blocks more than S. Columns of S know nothing of one
/// another.
extern const Transition kDense;
/// x' = x M + written along the last axis, M [N,W,W]: windows, whose elements move up.
extern const Transition kShift;
/// The shift of W elements by n: [rows,W,W].
Tensor shift_by(Index rows, Index w, Index n, DType dtype, Device& device);
/// Rows laid end to end on axis 1: keys and values.
extern const Transition kConcatenation;
/// States kept times exp(-m), the last of them m [N,H] itself; transition g [N,H], a log:
///   m' = max(g + m, m_written),  s' = exp(g + m - m') s + exp(m_written - m') written
extern const Transition kRunningMax;
/// So low an m that what was there counts for nothing.
inline constexpr double kNothing = -1e30;

}  // namespace transitions

/// `shape` with n as its last extent.
Shape with_columns(Shape shape, Index n);

/// The outgoing states. @shape summary: written states, then the transition
Tensors act(const Transition& t, const Tensors& summary, const Tensors& states, Index window);
/// The transpose of the derivative of act at `states`, which may be left out where it is affine.
Tensors act_adjoint(const Transition& t, const Tensors& summary, const Tensors& states,
                    const Tensors& dstates, Index window);
/// `later` behind `earlier`; `states` of them are written states.
Tensors compose(const Transition& t, const Tensors& earlier, const Tensors& later,
                std::size_t states, Index window);

}  // namespace ls::layers
