// The delta rule on the GPU.
#include "core/backend/cuda/device/machine.cuh"
#include "core/op/op.h"
#include "core/ops/delta_rule/delta_rule_blocks.h"
#include "core/ops/delta_rule/delta_rule_hopper.cuh"
#include "core/ops/delta_rule/delta_rule_one_token.cuh"

namespace ls::ops {
namespace {

template <class T>
using Portable = delta_rule::Blocks<cuda::Machine, T>;
/// One token that no backward pass follows has a kernel of its own.
template <class T>
struct Gated : delta_rule::hopper::Gated {
  using Op = DeltaRule;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out,
                      std::span<TensorView> kept, const Op::Attrs& attrs) {
    if (kept.empty() && delta_rule::hopper::OneToken::serves(in)) {
      report_form<Op>("token by token");
      delta_rule::hopper::OneToken(in, out, attrs).launch();
    } else {
      delta_rule::hopper::Gated::forward(in, out, kept, attrs);
    }
  }
};
template <class T>
using Kda = delta_rule::hopper::Kda;
constexpr const char* kAligned = "q k v o";  // of the copy engine

/// Heads apart from one another, and aligned as wholes of 16 bytes.
bool lies_in_packs(const Layout& x) {
  bool packs = lies::heads(x);
  for (int axis = 0; packs && axis + 1 < x.rank(); ++axis) {
    packs = x.strides()[axis] % 8 == 0;
  }
  return packs;
}
/// Tokens one behind the other, as wholes of 16 bytes, which the copy engine takes where they lie.
bool lies_in_tokens(const Layout& x) {
  if (!lies_in_packs(x) || x.numel() == 0) {
    return false;
  }
  const kernels::RowSteps s = common::steps_of(x);
  return common::one_row(x) && s.head >= x.shape()[3] && s.token >= s.head * x.shape()[2];
}

LS_KERNEL(DeltaRule)
    .on(DeviceType::kCuda)
    .named("gated sm_90a, normalised")
    .reads("q k", &lies_in_packs)
    .reads("v", &lies_in_tokens)
    .aligned(kAligned, 16)
    .strided_grad("q k v")
    .given("beta")
    .absent("gk")
    .when(&delta_rule::hopper::Gated::fits_normalized)
    .keeps(&delta_rule::hopper::Gated::keeps)
    .kernel<Gated, bf16>();
LS_KERNEL(DeltaRule)
    .on(DeviceType::kCuda)
    .named("gated sm_90a")
    .reads("v", &lies_in_tokens)
    .aligned(kAligned, 16)
    .strided_grad("v")
    .given("beta")
    .absent("gk")
    .when(&delta_rule::hopper::Gated::fits)
    .keeps(&delta_rule::hopper::Gated::keeps)
    .kernel<Gated, bf16>();
LS_KERNEL(DeltaRule)
    .on(DeviceType::kCuda)
    .named("kda sm_90a, normalised")
    .reads("q k", &lies_in_packs)
    .reads("v", &lies_in_tokens)
    .aligned(kAligned, 16)
    .strided_grad("q k v")
    .given("beta gk")
    .absent("g")
    .when(&delta_rule::hopper::Kda::fits_normalized)
    .keeps(&delta_rule::hopper::Kda::keeps)
    .kernel<Kda, bf16>();
LS_KERNEL(DeltaRule)
    .on(DeviceType::kCuda)
    .named("kda sm_90a")
    .reads("v", &lies_in_tokens)
    .aligned(kAligned, 16)
    .strided_grad("v")
    .given("beta gk")
    .absent("g")
    .when(&delta_rule::hopper::Kda::fits)
    .keeps(&delta_rule::hopper::Kda::keeps)
    .kernel<Kda, bf16>();
LS_KERNEL(DeltaRule)
    .on(DeviceType::kCuda)
    .named("portable")
    .reads("q k v a b gk o", lies::heads)
    .reads("g beta", lies::anyhow)
    .strided_grad("q k v a b")
    .kernel<Portable, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
