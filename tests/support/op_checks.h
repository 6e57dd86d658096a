#pragma once
// What every op owes, checked on any case.
#include <string>
#include <vector>

#include "tests/support/op_case.h"

namespace ls::test {

/// What is wrong with the op on this case, one line a fault starting with the check's name; empty
/// when nothing is. Kernels of every float type and the f64 reference run on poisoned and guarded
/// buffers. Checks:
///   derivative  gradients of the f64 reference against finite differences
///   value       outputs and gradients in every type, against the f64 reference on the same inputs
///   unwritten   an element of an output or a gradient was never written
///   guard       something was written beside a buffer
///   inputs      an input, a saved output or an incoming gradient was changed
///   repeat      a second call gives other bits
///   threads     another thread count gives other bits
///   devices     other bits on another device, or from a graph, or a call that waits for it
///   strides     padded, strided, transposed and expanded inputs and incoming gradients
///   subset      a gradient depends on which others are wanted, or an unwanted one is given
///   absent      an absent incoming gradient is not the same as zeros
///   places      gradients that KernelBuilder::strided_grad names, written into slices: not there,
///               other bits than in a tensor of their own, or something changed between the pieces
///   adds        gradients that KernelBuilder::adds_grad names, added in places: not there, or not
///               the sum of what lay there and the gradient
///   continues   other bits when an output is made in the memory of the input that it continues
///               (OpBuilder::continues), or it is not there
///   no gradient one that is wanted of an input that has none, or through an output that has none,
///               is not refused by an Error that names op and argument
///   refusal     a missing argument, a wrong type, rank or extent is not refused by an Error that
///               names op and argument
///   cost        no cost, or one that is not positive and finite
std::vector<std::string> check_op(const OpInfo& op, const OpCase& op_case);

/// The same of the kernels of another device of this machine, as far as it depends on them: value,
/// repeat (also from a graph), strides, subset, absent, places.
std::vector<std::string> check_op_on(Device& device, const OpInfo& op, const OpCase& op_case);

/// Float inputs and outputs that have gradients, none of which any case compares with finite
/// differences.
std::vector<std::string> unchecked_gradients(const OpInfo& op, const std::vector<OpCase>& cases);

}  // namespace ls::test
