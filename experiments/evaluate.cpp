#include "experiments/evaluate.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "autograd/tape.h"
#include "data/batcher.h"

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
    const std::int64_t* labels = batch.labels.data<std::int64_t>();
    const Tensor predicted = result.predicted.to(DType::kI64).contiguous();
    const Tensor per_token = result.per_token.to(DType::kF64).contiguous();
    const std::uint8_t* tags = batch.tags.defined() ? batch.tags.data<std::uint8_t>() : nullptr;
    for (Index r = 0; r < batch.rows; ++r) {
      double row_correct = 0, row_asked = 0;
      for (Index i = r * batch.length; i < (r + 1) * batch.length; ++i) {
        if (labels[i] == data::kIgnore) {
          continue;
        }
        const bool right = predicted.data<std::int64_t>()[i] == labels[i];
        loss += per_token.data<double>()[i];
        row_asked += 1;
        row_correct += right;
        if (tags && tags[i] > 0) {
          asked.at(tags[i]) += 1;
          correct.at(tags[i]) += right;
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
    Metrics m{{"loss", loss / asked[0]}};
    for (const std::string& name : info.metrics) {
      m[name] = name == "ex_acc"    ? example_share / examples
                : name == "seq_acc" ? whole / examples
                : name == "bpb"     ? loss / asked[0] / std::log(2.0)
                                    : correct[0] / asked[0];
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

layers::SeqOptions scan_options(const ScanConfig& scan) {
  layers::SeqOptions o;
  o.form = scan.form == "recurrent"  ? Form::kRecurrent
           : scan.form == "chunk"    ? Form::kChunk
           : scan.form == "parallel" ? Form::kParallel
                                     : Form::kAuto;
  o.chunk = scan.chunk;
  return o;
}

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
      layers::SeqOptions options = scan_options(config.scan);
      options.documents = batch.documents.empty() ? nullptr : &batch.documents;
      layers::SeqContext seq(batch.rows, batch.length, options);
      tallies[static_cast<std::size_t>(batch.slice)].add(
          batch, model.loss(model.hidden({batch.tokens, batch.vectors}, seq), batch.labels));
    }
  }
  Evaluation out;
  out.split = enum_name(split);
  for (std::size_t i = 0; i < slices.size(); ++i) {
    tallies[i].reduce(comm);
    out.slices[slices[i].name] = tallies[i].metrics(info);
  }
  return out;
}

std::string evaluation_json(const Evaluation& e) {
  nlohmann::ordered_json slices;
  for (const auto& [name, metrics] : e.slices) {
    for (const auto& [metric, value] : metrics) {
      slices[name][metric] = value;
    }
  }
  return nlohmann::ordered_json{{"step", e.step}, {"split", e.split}, {"eval", slices}}.dump();
}

Evaluation evaluation_from_json(const std::string& text) {
  const auto j = nlohmann::ordered_json::parse(text);
  Evaluation e{j.at("step"), j.at("split"), {}};
  for (const auto& [slice, metrics] : j.at("eval").items()) {
    for (const auto& [name, value] : metrics.items()) {
      e.slices[slice][name] = value.is_number() ? value.get<double>() : NAN;
    }
  }
  return e;
}

}  // namespace ls::experiments
