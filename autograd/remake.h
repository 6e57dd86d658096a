#pragma once
// Values that the backward pass makes again: their memory is given back between the passes.
#include <memory>
#include <vector>

#include "autograd/tape.h"
#include "core/op/remade.h"
#include "core/op/run.h"

namespace ls::ag {

/// One output of an op, which can be made again where it lay. Held by those who saved it.
class Remade {
 public:
  Remade(const OpInfo& op, const RemadeOutput& how, std::span<const Tensor> in,
         std::span<const Tensor> out, Attributes attrs);
  const Tensor& tensor() const { return tensor_; }
  /// Nothing has changed it since the op gave it.
  bool as_made() const { return tensor_.version() == version_; }
  void give_back() { tensor_.storage()->drop(); }
  /// The elements are there again, with the version that they had.
  void make();

 private:
  const OpInfo& op_;
  const RemadeOutput& how_;
  Attributes attrs_;
  std::vector<Saved> in_;
  Tensor tensor_;
  std::uint64_t version_;
};

/// While alive, a tape that records on this thread notes outputs that can be made again
/// (LS_REMADE, up to a level). `done` gives the memory back of those that nobody but the tape
/// holds; a backward pass makes them again, each when it is first needed. Innermost counts.
class Remaking {
 public:
  explicit Remaking(Remake level);
  ~Remaking();
  Remaking(const Remaking&) = delete;
  Remaking& operator=(const Remaking&) = delete;

  void done();
  /// Bytes that `done` has given back, since the program began, on all threads.
  static Index given_back();

  /// Of this thread, or null.
  static Remaking* current();
  /// An op has been called and recorded.
  void note(const OpInfo& op, std::span<const Tensor> in, std::span<const Tensor> out,
            const Attributes& attrs);
  /// What lies in the storage of `t` and can be made again, or null.
  std::shared_ptr<Remade> find(const Tensor& t) const;

 private:
  Remake level_;
  Remaking* outer_;
  std::vector<std::shared_ptr<Remade>> all_;
};

}  // namespace ls::ag
