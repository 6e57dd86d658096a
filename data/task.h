#pragma once
// What a task is: examples by number, the settings it trains and is tested on, and how its outputs
// are to be read. A task is one source file in data/tasks that registers itself:
//
//   class Parity final : public Task {
//    public:
//     struct Config { Index length = 20; template <class F> void fields(F& f) { ... } };
//     Parity(const Config& config, const TaskArgs& args);
//     void sample(const ExampleKey& key, const ExampleView& out) const override;
//   };
//   LS_REGISTER(Task, Parity, "parity", "running parity of a bit string");
//
// From a Config with a field `Component<Task> task`: make_task(config.task, {.seed = 1}).
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/enum_names.h"
#include "core/base/rng.h"
#include "core/base/types.h"
#include "core/config/component.h"
#include "core/tensor/tensor.h"
#include "data/identity.h"

namespace ls::data {

/// Label of a position that neither the loss nor a metric counts.
inline constexpr std::int64_t kIgnore = -100;

/// The three streams of examples share no random number and, for text, no byte.
enum class Split : std::uint8_t { kTrain, kValid, kTest };
inline constexpr int kNumSplits = 3;

/// Names and values, in the order in which tables show them: {{"pairs", 4}, {"updates", 2}}.
using SliceSetting = std::vector<std::pair<std::string, Index>>;

/// From batch `step` on rows have `length` tokens.
struct LengthFrom {
  Index step = 0, length = 0;
};

/// One setting of a task: a length, a difficulty, a number of examples.
struct Slice {
  std::string name;      ///< unique within its split: "T64.K4"
  SliceSetting setting;  ///< what its examples are besides their length
  Index length = 0;      ///< tokens per example; with max_length the smallest
  Index max_length = 0;  ///< > length: each batch draws its length from length .. max_length
  /// Ascending, the first from batch 0 on: lengths by a schedule in place of drawn ones, all within
  /// length .. max_length. Empty: there is none.
  std::vector<LengthFrom> grows;
  Index examples = 0;  ///< 0: endless (training only)
  double weight = 1;   ///< share of the fresh training batches
  /// Validation and test: examples follow one another, and rows go on from batch to batch with
  /// their states (Sampler says which example is whose).
  bool carried = false;
};

/// How training batches follow one another.
enum class Order : std::uint8_t {
  kFresh,     ///< no example twice: example number = step * batch + row, slices by weight
  kEpochs,    ///< finite sets, slice after slice, in the same order every epoch
  kShuffled,  ///< finite sets, batches and examples in another order every epoch
  kStream,    ///< row r of a step goes on where row r of the step before ended
};

struct TaskInfo {
  Index vocab_in = 0;      ///< tokens are 0 .. vocab_in-1; 0 when inputs are vectors
  Index vector_width = 0;  ///< E of vector inputs; 0 when inputs are tokens
  Index classes = 0;       ///< labels are 0 .. classes-1 or kIgnore
  /// f32 [classes, E'] frozen embeddings that outputs of width E' are compared with by inner
  /// product; undefined: outputs are scores of the classes.
  Tensor class_embeddings;
  /// What each class stands for where labels are numbers in classes; metric "nmse". Empty: names.
  std::vector<double> class_values;
  /// Examples say at each label which of the first 64 classes are right (ExampleView::legal), for
  /// labels that are one choice of several; metric "legal_acc".
  bool legal_sets = false;
  Order order = Order::kFresh;
  std::vector<std::string> tags;  ///< names of the position tags 1, 2, ...; tag 0 has no name
  bool tag_losses = false;        ///< "loss/TAG" is a metric too, besides "tok_acc/TAG"
  /// Headline first, of: "ex_acc" mean over examples of the share of labels right, "tok_acc" share
  /// of all labels right, "seq_acc" share of examples with every label right, "bpb" bits per label,
  /// "legal_acc" share of answers in the label's legal set, "nmse" mean square of the error in
  /// class_values over that of the labels.
  std::vector<std::string> metrics = {"tok_acc"};
  std::string summary;  ///< one line on the data, for the run record; may be empty
};

/// Names one example. The same key gives the same example in every process.
struct ExampleKey {
  Split split = Split::kTrain;
  Index slice = 0;   ///< index into slices(split)
  Index length = 0;  ///< tokens T
  Index index = 0;   ///< number of the example in its stream
  /// Place in the global batch, for tasks whose rows continue (Order::kStream).
  Index step = 0, row = 0, rows = 1;
  Index before = 0;  ///< tokens that each row has had in earlier batches of the split
};

/// Where an example is written.
struct ExampleView {
  std::span<std::int64_t> tokens;  ///< [T]; empty when inputs are vectors
  std::span<float> vectors;        ///< [T * E] of zeros; empty when inputs are tokens
  std::span<std::int64_t> labels;  ///< [T] of kIgnore
  std::span<std::uint8_t> tags;    ///< [T] of 0, each 0 .. the number of TaskInfo::tags
  /// Ascending positions at which a new document begins. Empty: the row is one stretch.
  std::vector<Index>* document_starts = nullptr;
  /// [T] of 0, with TaskInfo::legal_sets, else empty: bit c of a label's set is class c, and the
  /// label is in it.
  std::span<std::uint64_t> legal;
  /// Tokens that are the example's, from the front on; T as it comes. The rest of the row is empty.
  Index* used = nullptr;
};

/// A reader of inputs that answers without a model: an algorithm that solves the task, or a
/// baseline of the field.
struct Predictor {
  std::string name;    ///< "exact", "least_squares"
  bool exact = false;  ///< its answers are the labels
  /// Overwrites every label that is not kIgnore, without looking at its value: that at t follows
  /// from the inputs 0 .. t. Safe to call from several threads at once.
  std::function<void(const ExampleView&)> answer;
};

struct TaskArgs {
  std::uint64_t seed = 0;  ///< of every random choice of the task
  bool stream = false;     ///< training rows continue from step to step, for carried states
  bool training = true;    ///< false: training examples are not asked for, their files not needed
};

class Task {
 public:
  using Registry = ComponentRegistry<Task, const TaskArgs&>;
  static Registry& registry();

  virtual ~Task() = default;
  const TaskInfo& info() const { return info_; }
  /// Never empty for kTrain and kValid; empty for kTest where a task has no third split.
  const std::vector<Slice>& slices(Split split) const {
    return slices_[static_cast<std::size_t>(split)];
  }
  /// Writes one example; safe to call from several threads at once.
  virtual void sample(const ExampleKey& key, const ExampleView& out) const = 0;
  /// Those that belong to the task: the algorithm that solves it, where its labels follow from its
  /// inputs. They live as long as the task.
  virtual std::vector<Predictor> predictors() const { return {}; }
  /// Of the files that it reads, which takes reading them once; none for a task that reads none.
  virtual std::vector<DataIdentity> identity() const { return {}; }

 protected:
  Task(std::string_view name, const TaskArgs& args) : name_(name), args_(args) {}
  /// @throws Error(Config) if the split has a slice of that name, or it has no length
  void add_slice(Split split, Slice slice);
  /// The same settings for validation and test.
  void add_test_slices(const std::vector<Slice>& slices);
  /// The random numbers of one example.
  Rng rng(const ExampleKey& key) const {
    const auto& streams = streams_[static_cast<std::size_t>(key.split)];
    return Rng(args_.seed, streams[static_cast<std::size_t>(key.slice)],
               static_cast<std::uint64_t>(key.index));
  }
  const TaskArgs& args() const { return args_; }

  TaskInfo info_;

 private:
  std::string name_;
  TaskArgs args_;
  std::array<std::vector<Slice>, kNumSplits> slices_;
  std::array<std::vector<std::uint64_t>, kNumSplits> streams_;
};

/// @throws Error(Config) if no task is chosen, its settings contradict one another, or it cannot
///   stream though asked to; Error(Io) if its files cannot be read
std::unique_ptr<Task> make_task(const Component<Task>& task, const TaskArgs& args);

}  // namespace ls::data

template <>
struct ls::EnumNames<ls::data::Split> {
  static constexpr std::string_view kKind = "split";
  static constexpr std::array<std::string_view, ls::data::kNumSplits> kNames = {"train", "valid",
                                                                                "test"};
};
