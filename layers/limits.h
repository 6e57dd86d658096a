#pragma once
// Bounds of sizes in configs, beyond any machine: products of them stay within an Index.

namespace ls::layers {

inline constexpr double kMaxWidth = 1 << 20, kMaxHeads = 1 << 16, kMaxHeadDim = 1 << 16,
                        kMaxTaps = 4096, kMaxExpand = 1024;

}  // namespace ls::layers
