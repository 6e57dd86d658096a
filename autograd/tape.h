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
  /// undefined, or with takes_place(i) the place where the gradient is wanted.
  virtual void backward(std::span<const Tensor> dout, const std::vector<bool>& wanted,
                        std::span<Tensor> din) = 0;

  // Gradients in place: of a leaf, of the parts of a split, of a value that is used again. Who
  // computes one is told its place, a view, and whether to add to what lies there (Tensor::adding).

  /// True: backward leaves the gradient of this input in its place, or puts another tensor there.
  virtual bool takes_place(std::size_t /*input*/) const { return false; }
  /// The place for the gradient of an output, of its shape; undefined: anywhere. `input_place` is
  /// that of the first input, of a node that hands gradients on, else undefined.
  virtual Tensor place_of(int /*output*/, const Tensor& /*input_place*/) { return {}; }
  /// True: the gradient of the one output, seen in another way, is that of the one input.
  virtual bool hands_on() const { return false; }
};

/// Both are the same elements of the same memory.
bool same_elements(const Tensor& a, const Tensor& b);

class Remade;

/// A tensor kept for the backward pass, with the version it had; or, where a Remaking knows how,
/// made again when it is asked for.
class Saved {
 public:
  Saved() = default;
  explicit Saved(const Tensor& t);
  /// @throws Error(Internal) when the tensor was changed in place since it was saved.
  const Tensor& get(const std::string& node) const;

 private:
  Tensor tensor_;
  std::uint64_t version_ = 0;
  std::shared_ptr<Remade> remade_;
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

  /// Where a gradient is wanted, and what is told when it is there.
  struct Place {
    Tensor view;             ///< undefined: anywhere
    Tensor* root = nullptr;  ///< becomes `whole`
    Tensor whole;
    bool fixed = false;    ///< it lies there whoever computes it
    bool of_leaf = false;  ///< of one with a place of its own
    /// Does `t` lie there?
    bool holds(const Tensor& t) const;
    /// A gradient was written or added there.
    void written() const { *root = whole; }
  };
  /// The place of a leaf's gradient, by way of nodes that hand it on; undefined of other values.
  Place leaf_place(const Var& v);

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
  static InputRef ref_of(const Var& v);
  /// Of that value, as it accumulates.
  Tensor& gradient_of(const InputRef& ref);
  /// `handed_on`: by a node that hands on what may lie there already.
  void add_gradient(const InputRef& ref, Tensor grad, bool handed_on = false);
  void step_back(Node& node);
  Place place(const InputRef& ref);

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
