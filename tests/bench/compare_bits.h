#pragma once
#include "core/tensor/tensor_view.h"

namespace ls::test {

/// differ [1] i32 becomes 1 where the bytes of two tensors of a GPU are not the same. Waits for the
/// device; false: sizes differ, one has gaps, or the device has failed.
bool compare_bits(const TensorView& a, const TensorView& b, TensorView differ);

}  // namespace ls::test
