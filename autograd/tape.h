#pragma once
// The tape: a flat list of nodes in creation order, walked backwards and released as it goes.
#include <memory>
#include <string>
#include <vector>

#include "autograd/var.h"

namespace ls::ag {

/// Derivative of one recorded step.
class NodeFn {
 public:
  virtual ~NodeFn() = default;
  virtual std::string name() const = 0;
  /// True: backward runs although no gradient arrived: other ranks wait for this one.
  virtual bool must_run() const { return false; }
  /// True: a gradient may arrive in a wider type than the output's (casts of f32 weights).
  virtual bool takes_wider_gradients() const { return false; }
  /// `dout` entries may be undefined (zero). `din` has one entry per input; only those with
  /// `wanted[i]` need to be set, an undefined entry means a zero gradient. On entry they are
  /// undefined, or with takes_place(i) a place that the gradient may be written to.
  virtual void backward(std::span<const Tensor> dout, const std::vector<bool>& wanted,
                        std::span<Tensor> din) = 0;

  // Gradients in place: a node that puts gradients of its outputs together in one tensor offers
  // their places there to the nodes that compute them.

  /// True: backward makes use of a place for the gradient of this input.
  virtual bool takes_place(std::size_t /*input*/) const { return false; }
  /// The same where the input is a leaf, whose place is contiguous.
  virtual bool takes_leaf_place(std::size_t input) const { return takes_place(input); }
  /// Shaped like the output, for one writer: given once and not again. Undefined: there is none.
  virtual Tensor gradient_place(int /*output*/) { return {}; }
  /// Not null: the one output is the one input in this shape, and so are the gradients and places.
  virtual const Shape* only_reshapes() const { return nullptr; }
};

/// A tensor kept for the backward pass, with the version it had.
class Saved {
 public:
  Saved() = default;
  explicit Saved(const Tensor& t) : tensor_(t), version_(t.version()) {}
  /// @throws Error(Internal) when the tensor was changed in place since it was saved.
  const Tensor& get(const std::string& node) const;

 private:
  Tensor tensor_;
  std::uint64_t version_ = 0;
};

/// Records while it is the innermost open Tape of its thread and gradients are enabled. One forward
/// and backward pass per Tape, unless `keep` is said; destroying it releases everything that it
/// kept.
class Tape {
 public:
  Tape();
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  /// Records no longer, and may outlive the tapes around it; `open` before `backward`. Innermost.
  void close();
  void open();
  /// The innermost tape of this thread, or null.
  static Tape* current();
  /// True when a call with these inputs has to be recorded.
  static bool records(std::span<const Var> inputs);
  /// Appends a node; returns its float outputs as Vars on this tape, the others as constants.
  std::vector<Var> record(std::unique_ptr<NodeFn> fn, std::span<const Var> inputs,
                          std::span<const Tensor> outputs);

  /// Adds d(loss)/d(leaf) to the gradient of every leaf that `loss` depends on. `seed` is
  /// d/d(loss), by default 1 for a loss with one element. The tape is empty afterwards.
  /// @throws Error(Numeric) naming the node whose gradient first became non-finite and what
  ///   its forward pass was part of, when set_check_finite(true)
  void backward(const Var& loss, const Tensor& seed = {});
  /// Several outputs at once, each with its seed; undefined seeds are skipped. `keep`: the tape
  /// stays as it is, to be walked again.
  void backward(std::span<const Var> outputs, std::span<const Tensor> seeds, bool keep = false);

  /// Every gradient that a node produces is checked; slow, for finding where a NaN first appeared.
  /// A new tape does what the one around it does: so do recomputed blocks.
  void set_check_finite(bool on) { check_finite_ = on; }
  Index size() const { return static_cast<Index>(nodes_.size()); }

 private:
  struct InputRef {
    std::shared_ptr<VarData> leaf;  // leaves
    Index node = -1;                // intermediate values
    int output = 0;
    bool wanted = false;
  };
  struct Node {
    std::unique_ptr<NodeFn> fn;
    std::vector<InputRef> inputs;
    std::vector<Tensor> grads;  // of the outputs, as they accumulate
    std::vector<DType> dtypes;  // of the outputs
    std::string made_while;     // the error context of its forward pass, when gradients are checked
  };
  void add_gradient(const InputRef& ref, Tensor grad);
  void step_back(Node& node);
  /// Where the first gradient of that value may be written, or undefined.
  Tensor place(const InputRef& ref);

  std::vector<Node> nodes_;
  Tape* outer_ = nullptr;
  bool open_ = false;
  std::uint64_t id_ = 0;
  bool check_finite_ = false;
};

/// While alive, nothing on this thread is recorded.
class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;
};

/// Undoes enclosing NoGrad guards while alive (recomputation inside a backward pass).
class EnableGrad {
 public:
  EnableGrad();
  ~EnableGrad();
  EnableGrad(const EnableGrad&) = delete;
  EnableGrad& operator=(const EnableGrad&) = delete;

 private:
  int depth_;
};

bool grad_enabled();

}  // namespace ls::ag
