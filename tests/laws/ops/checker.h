#pragma once
// One op on one case: what the laws of ops (tests/support/op_checks.h) share. Each group of laws is
// a file beside this one.
#include <string>
#include <vector>

#include "tests/support/op_checks.h"
#include "tests/support/tolerance.h"

namespace ls::test::op_laws {

using Tensors = std::vector<Tensor>;
using Layout = Tensor (*)(const Tensor&);

/// f of every tensor that is there.
Tensors each(const Tensors& ts, Layout f);
Tensor packed_copy(const Tensor& t);
bool has_word(const std::string& text, const std::string& word);

/// Outputs of a call, its gradients, and what its kernel keeps for them.
struct Call {
  Tensors in, out, dout, din;
  Kept kept = {};
};

class Checker {
 public:
  Checker(const OpInfo& op, const OpCase& c);
  std::vector<std::string> run();
  /// What depends on the kernels of a device that this program has, in the types that they are of.
  std::vector<std::string> run_on(Device& device);
  /// Names of the inputs and outputs whose gradients are compared with finite differences.
  std::vector<std::string> differentiated() const;

 private:
  const void* attrs() const { return case_.attrs.get(); }
  std::string in_name(std::size_t i) const { return op_.in[i].name; }
  DType type_of(const ArgSpec& arg, const Tensor& x, DType t) const;
  /// Inputs of a call in type `t`.
  Tensors inputs(DType t) const;
  Tensors cotangents(DType t) const;
  /// As numbers of f64 that have those values.
  static Tensors widened(Tensors ts);
  bool has_backward() const { return op_.has_backward && case_.backward; }
  std::vector<bool> all_wanted() const;
  Tensors backward(const Call& c, const Tensors& dout, const std::vector<bool>& wanted,
                   const Tensors& places = {}) const;
  Call call(const Tensors& in, const Tensors& dout) const;
  template <class... Args>
  void fault(fmt::format_string<Args...> format, Args&&... args) {
    faults_.push_back(fmt::format(format, std::forward<Args>(args)...) + " [" + case_.name + "]");
  }
  /// One fault a call is enough.
  void same(const std::string& what, const Call& got, const Call& want, double allowed);
  double allowed(DType t) const {
    const bool there = device_->type() == DeviceType::kCuda && dtype_size(t) == 2;
    return tolerance(t, terms_) * case_.slack * (there ? case_.gpu_slack : 1);
  }

  // ---- values.cpp
  void derivative();
  /// A call on poisoned, guarded copies; says what it did beside its results.
  Call watched(const std::string& who, const Tensors& in, const Tensors& dout);
  void written(const std::string& who, const char* kind, const std::vector<ArgSpec>& args,
               const Tensors& results);
  void values(DType t);

  // ---- threads.cpp
  void repeats(DType t);

  // ---- devices.cpp
  /// The same bits on a device that the host cannot touch, at once and replayed; nothing waits.
  void devices(DType t);
  /// On device_: the values of the f64 reference, and the same bits from a graph.
  void values_there(DType t);

  // ---- strides.cpp
  void strides(DType t);
  /// Pieces made of the axes from `axis` on, each within a longer one of 77s that `all` is; what
  /// lies between them is multiples of `unit` elements.
  static Tensor place_like(const Tensor& t, int axis, Index unit, Tensor& all);
  /// `apart`: by what the kernel wants; else the gradient may be made elsewhere.
  void places(const Kernel& kernel, const Call& whole, int axis, bool apart);
  void places(DType t);
  void adds(DType t);
  static bool dout_given(const Tensors& dout);

  // ---- continued.cpp
  void continued(DType t);

  // ---- gradients.cpp
  void subsets(DType t);
  void absent(DType t);
  void no_gradients();

  // ---- refusals.cpp
  /// How often an axis symbol stands among the arguments of this call.
  int uses(const std::string& symbol) const;
  /// `must`: it has to be refused; else it may be a right call. The message may name another
  /// argument that shares an axis with argument i.
  void refused(std::size_t i, const std::string& what, const Tensors& in, ErrorKind kind,
               bool must);
  void refusals();
  void cost();

  const OpInfo& op_;
  const OpCase& case_;
  Device* device_ = &cpu();  ///< on which calls are made
  Tensors cotangent_;
  Index terms_ = 1;
  std::vector<std::string> faults_;
};

}  // namespace ls::test::op_laws
