#include "experiments/evaluate.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "autograd/tape.h"
#include "core/tensor/view.h"
#include "experiments/needs.h"

namespace ls::experiments {
namespace {

/// Ranges of positions, of tokens 2^i .. 2^(i+1) - 1; more than any row has.
constexpr std::size_t kRanges = 48;
constexpr double kNoLoss = std::numeric_limits<double>::quiet_NaN();

std::size_t range_of(Index tokens_read) {
  return std::min(kRanges, static_cast<std::size_t>(
                               std::bit_width(static_cast<std::uint64_t>(tokens_read)))) -
         1;
}

// Sums of one slice, over examples and ranks; correct and asked have one entry for all positions,
// then one per tag.
struct Tally {
  explicit Tally(std::size_t tags) : correct(1 + tags), asked(1 + tags), tag_loss(1 + tags) {}
  double loss = 0, examples = 0, example_share = 0, whole = 0;
  double legal = 0, square_error = 0, square = 0;
  std::vector<double> correct, asked, tag_loss;
  std::vector<double> tag_square_error = tag_loss, tag_square = tag_loss;
  std::vector<double> at_labels = std::vector<double>(kRanges), at_loss = at_labels,
                      at_correct = at_labels;

  void reduce(Communicator& comm) {
    for (double* sum : {&loss, &examples, &example_share, &whole, &legal, &square_error, &square}) {
      comm.all_reduce(sum, 1, DType::kF64);
    }
    for (auto* sums : {&correct, &asked, &tag_loss, &tag_square_error, &tag_square, &at_labels,
                       &at_loss, &at_correct}) {
      comm.all_reduce(sums->data(), std::ssize(*sums), DType::kF64);
    }
  }

  /// `read` counts the tokens that the state of each row has read; it moves to the batch's end.
  /// `per_token`: undefined where what tells has no loss.
  void add(const data::Batch& batch, const data::TaskInfo& info, const Tensor& answers,
           const Tensor& per_token, std::vector<Index>& read) {
    const View<const std::int64_t, 2> labels(batch.labels);
    const Tensor predicted_tensor = answers.to(cpu()).to(DType::kI64);
    const Tensor loss_tensor = per_token.defined()
                                   ? per_token.to(cpu()).to(DType::kF64)
                                   : Tensor::full({batch.rows, batch.length}, DType::kF64, kNoLoss);
    const View<const std::int64_t, 2> predicted(predicted_tensor);
    const View<const double, 2> losses(loss_tensor);
    const View<const std::uint8_t, 2> tags(batch.tags);
    const View<const std::int64_t, 2> legal_sets(batch.legal);
    for (Index r = 0; r < batch.rows; ++r) {
      double row_correct = 0, row_asked = 0;
      const auto row = static_cast<std::size_t>(r);
      const std::vector<Index> starts =
          batch.documents.empty() ? std::vector<Index>() : batch.documents[row];
      auto start = starts.begin();
      for (Index t = 0; t < batch.length; ++t) {
        if (start != starts.end() && *start == t) {
          read[row] = 0;
          ++start;
        }
        ++read[row];
        if (labels(r, t) == data::kIgnore) {
          continue;
        }
        const bool right = predicted(r, t) == labels(r, t);
        const std::size_t range = range_of(read[row]);
        loss += losses(r, t);
        row_asked += 1;
        row_correct += right;
        at_labels[range] += 1;
        at_loss[range] += losses(r, t);
        at_correct[range] += right;
        if (legal_sets) {
          legal += static_cast<double>(legal_sets(r, t) >> predicted(r, t) & 1);
        }
        double value = 0, error = 0;
        if (!info.class_values.empty()) {
          value = info.class_values.at(static_cast<std::size_t>(labels(r, t)));
          error = info.class_values.at(static_cast<std::size_t>(predicted(r, t))) - value;
          square += value * value;
          square_error += error * error;
        }
        if (tags && tags(r, t) > 0) {
          tag_square.at(tags(r, t)) += value * value;
          tag_square_error.at(tags(r, t)) += error * error;
          asked.at(tags(r, t)) += 1;
          correct.at(tags(r, t)) += right;
          tag_loss.at(tags(r, t)) += losses(r, t);
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

  SliceResult result(const data::Slice& slice, const data::TaskInfo& info) const {
    const Metrics values{{{"ex_acc", example_share / examples},
                          {"tok_acc", correct[0] / asked[0]},
                          {"seq_acc", whole / examples},
                          {"bpb", loss / asked[0] / std::log(2.0)},
                          {"legal_acc", legal / asked[0]},
                          {"nmse", square_error / square}}};
    SliceResult out{.name = slice.name,
                    .length = std::max(slice.length, slice.max_length),
                    .setting = slice.setting,
                    .examples = std::llround(examples),
                    .labels = std::llround(asked[0])};
    const bool has_loss = !std::isnan(loss);
    for (const std::string& name : info.metrics) {
      if (has_loss || name != "bpb") {
        out.metrics.values.emplace_back(name, values.at(name));
      }
    }
    if (has_loss) {
      out.metrics.values.emplace_back("loss", loss / asked[0]);
    }
    for (std::size_t t = 1; t < asked.size(); ++t) {
      if (asked[t] > 0) {
        out.metrics.values.emplace_back("tok_acc/" + info.tags[t - 1], correct[t] / asked[t]);
        if (!info.class_values.empty()) {
          out.metrics.values.emplace_back("nmse/" + info.tags[t - 1],
                                          tag_square_error[t] / tag_square[t]);
        }
        if (info.tag_losses && has_loss) {
          out.metrics.values.emplace_back("loss/" + info.tags[t - 1], tag_loss[t] / asked[t]);
        }
      }
    }
    for (std::size_t i = 0; i < kRanges && has_loss; ++i) {
      const double n = at_labels[i];
      if (n > 0) {
        out.positions.push_back({.from = Index{1} << i,
                                 .to = (Index{2} << i) - 1,
                                 .labels = std::llround(n),
                                 .loss = at_loss[i] / n,
                                 .accuracy = at_correct[i] / n});
      }
    }
    return out;
  }
};

[[noreturn]] void fail_without_targets(const RunConfig& config, const data::Task& task,
                                       data::Split split, const data::Slice& slice) {
  const std::string& summary = task.info().summary;
  LS_FAIL(kConfig,
          "task '{}': no example of the {} slice '{}' has a target, so nothing can be measured on "
          "them{}; give it data with targets, or another length",
          config.task.name(), enum_name(split), slice.name,
          summary.empty() ? "" : " (" + summary + ")");
}

}  // namespace

namespace {

/// The rows of a batch that belong to the first examples of its slice, as many as are left. Rows
/// that go on from batch to batch do so with as many as there are.
data::Batch first_rows(data::Batch batch, const data::Slice& slice, Index& left) {
  const Index rows =
      slice.carried ? batch.rows : std::clamp<Index>(left - batch.first_row, 0, batch.rows);
  left -= batch.global_rows;
  return rows < batch.rows ? batch.cut(0, rows) : batch;
}

SliceResult skipped(const data::Slice& slice, const std::string& why) {
  return {.name = slice.name,
          .length = std::max(slice.length, slice.max_length),
          .setting = slice.setting,
          .not_run = why};
}

}  // namespace

std::optional<Evaluation> evaluate(layers::Model& model, const data::Task& task, data::Split split,
                                   const RunConfig& config, std::uint64_t seed,
                                   const parallel::Mesh& mesh, const std::function<bool()>& stop,
                                   Onlooker* onlooker) {
  const ag::NoGrad no_grad;
  const data::TaskInfo& info = task.info();
  const std::vector<data::Slice>& slices = task.slices(split);
  const data::Batcher batcher(task, {.split = split,
                                     .batch = config.eval.batch,
                                     .seed = seed,
                                     .rank = mesh.data().rank(),
                                     .ranks = mesh.data().size()});
  const std::vector<SlicePlan> plans = plan_slices(model, slices, config, mesh);
  std::vector<Tally> tallies(slices.size(), Tally(info.tags.size()));
  std::vector<Index> left;
  for (const SlicePlan& plan : plans) {
    left.push_back(plan.not_run.empty() ? plan.examples : 0);
  }
  layers::ModelState carried;  // of the slices that go on from batch to batch
  std::vector<Index> read;
  for (Index i = 0; i < batcher.batches(); ++i) {
    if (stop && stop()) {
      return std::nullopt;
    }
    const auto slice = static_cast<std::size_t>(batcher.slice(i));
    if (left[slice] <= 0) {
      continue;
    }
    const data::Batch batch = first_rows(batcher.make(i), slices[slice], left[slice]);
    // Where ranks have shards, one without rows takes part in gathering blocks.
    if (batch.rows > 0 || model.parameters().keeps_shards()) {
      if (!batch.continues) {
        read.assign(static_cast<std::size_t>(batch.rows), 0);
        carried = {};
      }
      PassOptions options{
          .segment = config.eval.segment, .keep = slices[slice].carried, .mesh = &mesh};
      if (onlooker) {
        options.stops = onlooker->stops(slices[slice]);
        options.keep = true;
        options.watch = [&](const PassSegment& s) { onlooker->segment(batch, s); };
      }
      const Told told = pass(model, batch, config.scan, carried, options);
      // Of the ranks of a sequence, which all hear of it, one counts.
      if (batch.rows > 0 && mesh.sequence().rank() == 0) {
        tallies[slice].add(batch, info, told.predicted, told.loss, read);
      }
      if (onlooker) {
        onlooker->batch(batch, told);
      }
    }
  }
  Evaluation out;
  out.split = split;
  for (std::size_t i = 0; i < slices.size(); ++i) {
    if (!plans[i].not_run.empty()) {
      out.slices.push_back(skipped(slices[i], plans[i].not_run));
      continue;
    }
    tallies[i].reduce(mesh.world());
    if (tallies[i].asked[0] == 0) {
      fail_without_targets(config, task, split, slices[i]);
    }
    out.slices.push_back(tallies[i].result(slices[i], info));
    out.slices.back().left_out = slices[i].examples - plans[i].examples;
  }
  return out;
}

Evaluation evaluate_answers(const Answers& answers, const data::Task& task, data::Split split,
                            const RunConfig& config, std::uint64_t seed) {
  const data::TaskInfo& info = task.info();
  const std::vector<data::Slice>& slices = task.slices(split);
  const data::Batcher batcher(task, {.split = split, .batch = config.eval.batch, .seed = seed});
  std::vector<Tally> tallies(slices.size(), Tally(info.tags.size()));
  for (Index i = 0; i < batcher.batches(); ++i) {
    const data::Batch batch = batcher.make(i);
    std::vector<Index> read(static_cast<std::size_t>(batch.rows));
    tallies[static_cast<std::size_t>(batch.slice)].add(batch, info, answers(batch), {}, read);
  }
  Evaluation out;
  out.split = split;
  for (std::size_t i = 0; i < slices.size(); ++i) {
    out.slices.push_back(tallies[i].result(slices[i], info));
  }
  return out;
}

Index longest_training_example(const data::Task& task) {
  Index longest = 0;
  for (const data::Slice& s : task.slices(data::Split::kTrain)) {
    longest = std::max({longest, s.length, s.max_length});
  }
  return longest;
}

std::set<std::string> slices_run(const Evaluation& e) {
  std::set<std::string> names;
  for (const SliceResult& s : e.slices) {
    if (s.not_run.empty()) {
      names.insert(s.name);
    }
  }
  return names;
}

double mean_metric(const Evaluation& e, const std::string& metric) {
  return mean_metric(e, metric, slices_run(e));
}

double mean_metric(const Evaluation& e, const std::string& metric,
                   const std::set<std::string>& slices) {
  double sum = 0, n = 0;
  for (const SliceResult& s : e.slices) {
    if (slices.contains(s.name)) {
      sum += s.metrics.at(metric);
      n += 1;
    }
  }
  return sum / n;
}

bool stops_early(const std::vector<Evaluation>& history, const StopConfig& stop) {
  const Evaluation* best = nullptr;
  double value = 0;
  Index since = 0;
  for (const Evaluation& e : history) {
    if (stop.patience == 0 || e.split != data::Split::kValid ||
        (best != nullptr && slices_run(e) != slices_run(*best))) {
      continue;
    }
    const double now = mean_metric(e, stop.metric);
    const double least = is_better(stop.metric, 0, 1) ? value - stop.by : value + stop.by;
    if (best == nullptr || is_better(stop.metric, now, least)) {
      best = &e;
      value = now;
      since = 0;
    } else {
      ++since;
    }
  }
  return stop.patience > 0 && since >= stop.patience;
}

bool is_better(const std::string& metric, double value, double than) {
  const std::string kind = metric.substr(0, metric.find('/'));
  return kind == "loss" || kind == "bpb" || kind == "nmse" ? value < than : value > than;
}

void check_evaluation(const data::Task& task, const RunConfig& config) {
  const std::vector<std::string>& metrics = task.info().metrics;
  const std::string& best = config.checkpoint.best;
  LS_CHECK(best.empty() || best == "loss" || std::ranges::find(metrics, best) != metrics.end(),
           kConfig, "checkpoint.best: task '{}' has no metric '{}'; expected {} or loss",
           config.task.name(), best, fmt::join(metrics, ", "));
  const std::string& stop = config.stop.metric;
  LS_CHECK(config.stop.patience == 0 || stop == "loss" ||
               std::ranges::find(metrics, stop) != metrics.end(),
           kConfig, "stop.metric: task '{}' has no metric '{}'; expected {} or loss",
           config.task.name(), stop, fmt::join(metrics, ", "));
  for (const data::Split split : {data::Split::kValid, data::Split::kTest}) {
    const std::vector<data::Slice>& slices = task.slices(split);
    if (slices.empty()) {
      continue;
    }
    const data::Batcher batcher(task, {.split = split, .batch = 1});
    Index first = 0;
    for (const data::Slice& slice : slices) {
      bool found = false;
      for (Index e = 0; e < slice.examples && !found; ++e) {
        found = batcher.make(first + e).labelled > 0;
      }
      if (!found) {
        fail_without_targets(config, task, split, slice);
      }
      first += slice.examples;
    }
  }
}

}  // namespace ls::experiments
