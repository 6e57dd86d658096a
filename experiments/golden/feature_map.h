#pragma once
#include <string>

#include "autograd/var.h"

namespace ls::golden {

/// identity, elu1 (elu + 1), relu, or softmax over the last axis.
/// @throws Error(Unsupported) on another name
ag::Var feature_map(const std::string& name, const ag::Var& x);

}  // namespace ls::golden
