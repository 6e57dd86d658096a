#include "experiments/evaluate.h"

#include <cmath>

#include "autograd/tape.h"
#include "core/tensor/view.h"
#include "data/batcher.h"
#include "experiments/model_io.h"

namespace ls::experiments {
namespace {

// Sums of one slice, over examples and ranks; correct and asked have one entry for all positions,
// then one per tag.
struct Tally {
  explicit Tally(std::size_t tags) : correct(1 + tags), asked(1 + tags) {}
  double loss = 0, examples = 0, example_share = 0, whole = 0;
  std::vector<double> correct, asked;

  void reduce(Communicator& comm) {
    std::vector<double> all{loss, examples, example_share, whole};
    all.insert(all.end(), correct.begin(), correct.end());
    all.insert(all.end(), asked.begin(), asked.end());
    comm.all_reduce(all.data(), static_cast<Index>(all.size()), DType::kF64);
    loss = all[0];
    examples = all[1];
    example_share = all[2];
    whole = all[3];
    const auto n = static_cast<std::ptrdiff_t>(correct.size());
    std::copy(all.begin() + 4, all.begin() + 4 + n, correct.begin());
    std::copy(all.begin() + 4 + n, all.end(), asked.begin());
  }
  void add(const data::Batch& batch, const layers::Model::Loss& result) {
    const View<const std::int64_t, 2> labels(batch.labels);
    const Tensor predicted_tensor = result.predicted.to(DType::kI64);
    const Tensor loss_tensor = result.per_token.to(DType::kF64);
    const View<const std::int64_t, 2> predicted(predicted_tensor);
    const View<const double, 2> losses(loss_tensor);
    const View<const std::uint8_t, 2> tags(batch.tags);
    for (Index r = 0; r < batch.rows; ++r) {
      double row_correct = 0, row_asked = 0;
      for (Index t = 0; t < batch.length; ++t) {
        if (labels(r, t) == data::kIgnore) {
          continue;
        }
        const bool right = predicted(r, t) == labels(r, t);
        loss += losses(r, t);
        row_asked += 1;
        row_correct += right;
        if (tags && tags(r, t) > 0) {
          asked.at(tags(r, t)) += 1;
          correct.at(tags(r, t)) += right;
        }
      }
      if (row_asked > 0) {
        asked[0] += row_asked;
        correct[0] += row_correct;
        examples += 1;
        example_share += row_correct / row_asked;
        whole += row_correct == row_asked;
      }
    }
  }
  Metrics metrics(const data::TaskInfo& info) const {
    const Metrics values{{"ex_acc", example_share / examples},
                         {"tok_acc", correct[0] / asked[0]},
                         {"seq_acc", whole / examples},
                         {"bpb", loss / asked[0] / std::log(2.0)}};
    Metrics m{{"loss", loss / asked[0]}};
    for (const std::string& name : info.metrics) {
      m[name] = values.at(name);
    }
    for (std::size_t t = 1; t < asked.size(); ++t) {
      if (asked[t] > 0) {
        m["tok_acc/" + info.tags[t - 1]] = correct[t] / asked[t];
      }
    }
    return m;
  }
};

}  // namespace

std::optional<Evaluation> evaluate(layers::Model& model, const data::Task& task, data::Split split,
                                   const RunConfig& config, std::uint64_t seed, Communicator& comm,
                                   const std::function<bool()>& stop) {
  const ag::NoGrad no_grad;
  const data::TaskInfo& info = task.info();
  const std::vector<data::Slice>& slices = task.slices(split);
  const data::Batcher batcher(task, {.split = split,
                                     .batch = config.eval.batch,
                                     .seed = seed,
                                     .rank = comm.rank(),
                                     .ranks = comm.size()});
  std::vector<Tally> tallies(slices.size(), Tally(info.tags.size()));
  for (Index i = 0; i < batcher.batches(); ++i) {
    if (stop && stop()) {
      return std::nullopt;
    }
    const data::Batch batch = batcher.make(i);
    if (batch.rows > 0) {
      layers::SeqContext seq(batch.rows, batch.length, sequence_options(config.scan, batch));
      tallies[static_cast<std::size_t>(batch.slice)].add(
          batch, model.loss(model.hidden({batch.tokens, batch.vectors}, seq), batch.labels));
    }
  }
  Evaluation out;
  out.split = split;
  for (std::size_t i = 0; i < slices.size(); ++i) {
    tallies[i].reduce(comm);
    out.slices[slices[i].name] = tallies[i].metrics(info);
  }
  return out;
}

}  // namespace ls::experiments
