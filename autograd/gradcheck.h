#pragma once
// Gradients against finite differences, in f64.
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "autograd/var.h"
#include "core/op/run.h"

namespace ls::ag {

struct GradcheckOptions {
  double step = 2e-4;       ///< h of the differences at h and 2h; their error is O(h^4)
  double tolerance = 1e-7;  ///< of an error, relative to the size of the gradient
  Index full = 1024;        ///< a Jacobian of up to so many entries is compared entry by entry
  int directions = 2;       ///< random directions of each input where it is larger
};

struct GradcheckReport {
  bool passed = false;
  double error = 0;   ///< the worst one, in units of what is allowed; infinite for NaN and Inf
  std::string worst;  ///< where that is and both values
};

/// An input: a leaf of f64 whose value is moved about and put back.
struct GradcheckInput {
  std::string name;
  Var var;
};

/// The tape's gradients of the defined f64 results of `f` with respect to `inputs`, against fourth
/// order central differences: every entry of the Jacobian when there are few, else products with
/// random directions, one input at a time. `f` must be smooth within two steps; it is called many
/// times, recorded and not, and reads the inputs through their Vars. Their gradients are cleared.
/// Results that are not finite fail, and so does having nothing to compare.
/// @throws Error(DType) on an input or a result of another float type
GradcheckReport gradcheck(const std::function<std::vector<Var>()>& f,
                          const std::vector<GradcheckInput>& inputs,
                          const GradcheckOptions& options = {});

/// The same for one op (kernels of f64, or references under UseReference) and all its inputs that
/// have gradients. Outputs without a gradient and those named in `omitted` are left out.
GradcheckReport gradcheck(const OpInfo& op, std::span<const Tensor> in,
                          const std::shared_ptr<const void>& attrs,
                          const std::vector<std::string>& omitted = {},
                          const GradcheckOptions& options = {});

}  // namespace ls::ag
