#pragma once
// Building blocks of layers: where parameters come from, dense projections, norms.
#include <functional>
#include <string>

#include "autograd/parameter.h"
#include "core/base/enum_names.h"
#include "core/base/rng.h"

namespace ls::layers {

/// First values of a parameter. The stream of random numbers depends on the seed and the
/// parameter's own name only, so adding a parameter changes no other.
struct Init {
  /// Draws the values. Called for blocks of elements, each with a sequence of its own and on any
  /// thread; or once for all of them when `whole`.
  std::function<void(Rng&, std::span<double>)> fill;
  bool whole = false;

  static Init constant(double value);
  static Init normal(double std);
  static Init uniform(double low, double high);
  /// Blocks of [n,n] matrices with orthonormal rows (QR of a normal matrix).
  static Init orthogonal(Index n);
};

struct ParamOptions {
  bool decay = true;  ///< weight decay applies
};

/// A place in the model: makes parameters under a path.
class Scope {
 public:
  Scope(ag::ParameterSet& set, std::uint64_t seed, DType dtype, std::string path = "")
      : set_(&set), seed_(seed), dtype_(dtype), path_(std::move(path)) {}
  Scope child(const std::string& name) const {
    return Scope(*set_, seed_, dtype_, path_.empty() ? name : path_ + "." + name);
  }
  /// A new f32 (f64 in checks) leaf named path.name. @throws Error(Internal) when the name is taken
  ag::Var param(const std::string& name, const Shape& shape, const Init& init,
                ParamOptions options = {}) const;
  /// A tensor that is no parameter and lies where these lie.
  ag::Var constant(Tensor value) const { return set_->add_constant(std::move(value)); }
  const std::string& path() const { return path_; }

 private:
  ag::ParameterSet* set_;
  std::uint64_t seed_;
  DType dtype_;
  std::string path_;
};

/// y = x W^T + b: x [...,in] of any float type -> [...,out] of that type. W [out,in], weight decay
/// by `weight`, is used in the type of x; b [out], zero at first, is added in f32 (f64).
class Linear {
 public:
  Linear() = default;
  Linear(const Scope& scope, Index in, Index out, const Init& init, bool bias = false,
         ParamOptions weight = {});
  ag::Var operator()(const ag::Var& x) const;
  const ag::Var& weight() const { return weight_; }

 private:
  ag::Var weight_, bias_;
};

enum class NormKind : std::uint8_t {
  kRms,    ///< x / sqrt(mean x^2 + eps) gain
  kLayer,  ///< (x - mean) / sqrt(variance + eps) gain + shift
};

/// The norm of a block over the last axis. Gain [width] is 1 at first, shift [width] 0; neither is
/// decayed. x [...,width] of any float type -> the same, sums in f32 (f64).
class Norm {
 public:
  Norm() = default;
  Norm(const Scope& scope, NormKind kind, Index width, double eps);
  ag::Var operator()(const ag::Var& x) const;
  /// The sum of `residual` and `x`, and its norm.
  struct Added {
    ag::Var sum, normed;
  };
  Added add(const ag::Var& residual, const ag::Var& x) const;

 private:
  NormKind kind_ = NormKind::kRms;
  double eps_ = 1e-5;
  ag::Var weight_, bias_;
};

}  // namespace ls::layers

template <>
struct ls::EnumNames<ls::layers::NormKind> {
  static constexpr std::string_view kKind = "norm";
  static constexpr std::array<std::string_view, 2> kNames = {"rms_norm", "layer_norm"};
};
