#include "experiments/lengths.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <map>
#include <set>

#include "autograd/tape.h"
#include "core/tensor/view.h"
#include "experiments/needs.h"
#include "experiments/state_metrics.h"

namespace ls::experiments {
namespace {

constexpr Index kPerDoubling = 8;
/// Classes whose spread is measured at most: of more, few positions have two vectors of each.
constexpr Index kMostClasses = 64;
constexpr Index kMostWidth = 1024;
constexpr Index kMostVectors = 20000;  ///< of one range

Index longest_of(const data::Slice& s) {
  return std::max(s.length, s.max_length);
}

/// Tokens that a state has read at most: rows that go on do so through all of their examples.
Index most_read(const data::Slice& s, Index batch) {
  const Index rows = std::min(batch, s.examples);
  return longest_of(s) * (s.carried && rows > 0 ? (s.examples + rows - 1) / rows : 1);
}

constexpr double kLeast = 0.01;  ///< nats that are more than noise about a loss of nearly zero

/// "4x" or "512", in tokens.
Index parse_length(const std::string& text, const std::string& whole, Index train_length) {
  Index value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, fault] = std::from_chars(text.data(), end, value);
  const bool times = stop != end && *stop == 'x' && stop + 1 == end;
  constexpr Index kMost = Index{1} << 40;
  const Index unit = times ? std::max<Index>(1, train_length) : 1;
  LS_CHECK(fault == std::errc() && (stop == end || times) && value >= 1 && value <= kMost / unit,
           kConfig,
           "--lengths {}: '{}' is no length; expected a number of tokens or a multiple of the "
           "training length ({}), as in 1x..64x, 1x,2x,8x or 512..65536",
           whole, text, train_length);
  return value * unit;
}

/// Sums of one range of positions.
struct RangeTally {
  double labels = 0, loss = 0, correct = 0;
};

/// Sums of a state at one place, by head.
struct StateTally {
  layers::StatePart part = layers::StatePart::kMatrix;
  double examples = 0;
  std::vector<double> square, rank;  // of norms: their sum
  Index elements = 0;
};

std::size_t range_at(const std::vector<PositionRange>& ranges, Index position) {
  const auto at = std::ranges::upper_bound(ranges, position, {}, &PositionRange::from);
  return static_cast<std::size_t>(std::max<std::ptrdiff_t>(0, at - ranges.begin() - 1));
}

/// Gathers what an evaluation passes by.
class Gatherer final : public Onlooker {
 public:
  Gatherer(const data::Task& task, data::Split split, const layers::Model& model, Index batch,
           Index train_length, const LengthOptions& options)
      : slices_(task.slices(split)), options_(options) {
    Index longest = 1;
    shortest_ = slices_.empty() ? 1 : longest_of(slices_[0]);
    for (const data::Slice& s : slices_) {
      most_.push_back(most_read(s, batch));
      longest = std::max(longest, most_.back());
      shortest_ = std::min(shortest_, longest_of(s));
    }
    ranges_ = position_ranges(train_length, longest);
    tallies_.assign(slices_.size(), std::vector<RangeTally>(ranges_.size()));
    rows_.resize(slices_.size());
    const Index classes = task.info().classes, width = model.config().width;
    if (classes <= kMostClasses && width <= kMostWidth && !task.info().class_embeddings.defined()) {
      spread_.assign(ranges_.size(), ClassSpread(classes, width));
      spread_tally_.resize(ranges_.size());
    }
  }

  std::vector<Index> stops(const data::Slice& slice) override {
    std::vector<Index> out;
    for (const Index part : {8, 4, 2}) {
      if (longest_of(slice) == shortest_ && shortest_ % part == 0) {
        out.push_back(shortest_ / part);
      }
    }
    return out;
  }

  void segment(const data::Batch& batch, const PassSegment& s) override {
    if (s.begin == 0) {
      if (!batch.continues) {
        read_.assign(static_cast<std::size_t>(batch.rows), 0);
        before_ = 0;
      }
      places_.assign(static_cast<std::size_t>(batch.rows * batch.length), 0);
    }
    count_reads(batch, s);
    if (!spread_.empty()) {
      add_spread(batch, s);
    }
    const std::vector<Index> wanted = stops(slices_[static_cast<std::size_t>(batch.slice)]);
    const bool ends = s.end == batch.length;
    // Of rows that go on, at doublings of their length.
    const bool looks = before_ == 0 ? ends || std::ranges::find(wanted, s.end) != wanted.end()
                                    : ends && std::has_single_bit(static_cast<std::uint64_t>(
                                                  (before_ + s.end) / batch.length));
    if (s.state != nullptr && looks) {
      add_states(batch, s);
    }
    if (ends) {
      before_ += batch.length;
      if (!batch.continues) {
        rows_[static_cast<std::size_t>(batch.slice)] += batch.rows;
      }
    }
  }

  void batch(const data::Batch& batch, const Told& told) override {
    const View<const std::int64_t, 2> labels(batch.labels), predicted(told.predicted);
    const View<const double, 2> loss(told.loss);
    std::vector<RangeTally>& tally = tallies_[static_cast<std::size_t>(batch.slice)];
    for (Index r = 0; r < batch.rows; ++r) {
      for (Index t = 0; t < batch.length; ++t) {
        if (labels(r, t) == data::kIgnore) {
          continue;
        }
        const std::size_t at = range_at(ranges_, place(batch, r, t));
        const bool right = predicted(r, t) == labels(r, t);
        tally[at].labels += 1;
        tally[at].loss += loss(r, t);
        tally[at].correct += right;
        if (!spread_.empty()) {
          spread_tally_[at].labels += 1;
          spread_tally_[at].correct += right;
        }
      }
    }
  }

  std::vector<PositionRange> ranges_of(std::size_t slice) const {
    std::vector<PositionRange> out;
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      const RangeTally& t = tallies_[slice][i];
      if (t.labels > 0) {
        PositionRange r = ranges_[i];
        r.to = std::min(r.to, most_[slice]);
        r.labels = std::llround(t.labels);
        r.loss = t.loss / t.labels;
        r.accuracy = t.correct / t.labels;
        out.push_back(r);
      }
    }
    return out;
  }
  /// The same over all slices.
  std::vector<PositionRange> all_ranges() const {
    std::vector<PositionRange> out;
    for (std::size_t i = 0; i < ranges_.size(); ++i) {
      RangeTally sum;
      for (const auto& of_slice : tallies_) {
        sum.labels += of_slice[i].labels;
        sum.loss += of_slice[i].loss;
        sum.correct += of_slice[i].correct;
      }
      if (sum.labels > 0) {
        PositionRange r = ranges_[i];
        r.labels = std::llround(sum.labels);
        r.loss = sum.loss / sum.labels;
        r.accuracy = sum.correct / sum.labels;
        out.push_back(r);
      }
    }
    return out;
  }
  std::vector<StateRecord> states() const {
    std::vector<StateRecord> out;
    for (const auto& [place, t] : states_) {
      for (std::size_t h = 0; h < t.square.size(); ++h) {
        const double norm = t.square[h] / t.examples;
        out.push_back({.tokens = place.first,
                       .slot = place.second,
                       .part = t.part,
                       .head = static_cast<Index>(h),
                       .norm = norm,
                       .rms = norm / std::sqrt(static_cast<double>(t.elements)),
                       .effective_rank = t.rank[h] / t.examples});
      }
    }
    return out;
  }
  std::vector<SpreadRecord> spread() const {
    std::vector<SpreadRecord> out;
    for (std::size_t i = 0; i < spread_.size(); ++i) {
      const ClassSpread::Spread s = spread_[i].spread();
      const RangeTally& t = spread_tally_[i];
      if (s.classes >= 2 && t.labels > 0) {
        out.push_back({.from = ranges_[i].from,
                       .to = ranges_[i].to,
                       .labels = std::llround(t.labels),
                       .classes = s.classes,
                       .within = s.within,
                       .between = s.between,
                       .accuracy = t.correct / t.labels});
      }
    }
    return out;
  }

 private:
  Index& place(const data::Batch& batch, Index r, Index t) {
    return places_[static_cast<std::size_t>(r * batch.length + t)];
  }
  /// Tokens that the state has read at each token of a segment, in its document.
  void count_reads(const data::Batch& batch, const PassSegment& s) {
    for (Index r = 0; r < batch.rows; ++r) {
      const auto row = static_cast<std::size_t>(r);
      const std::vector<Index> starts =
          batch.documents.empty() ? std::vector<Index>() : batch.documents[row];
      for (Index t = s.begin; t < s.end; ++t) {
        if (std::ranges::binary_search(starts, t)) {
          read_[row] = 0;
        }
        place(batch, r, t) = ++read_[row];
      }
    }
  }
  void add_spread(const data::Batch& batch, const PassSegment& s) {
    const View<const std::int64_t, 2> labels(batch.labels);
    const Tensor hidden = s.hidden.to(cpu()).to(DType::kF64).contiguous();
    const Index width = hidden.size(2);
    for (Index r = 0; r < batch.rows; ++r) {
      for (Index t = s.begin; t < s.end; ++t) {
        if (labels(r, t) == data::kIgnore) {
          continue;
        }
        const std::size_t at = range_at(ranges_, place(batch, r, t));
        if (++vectors_[at] <= kMostVectors) {
          const double* x = hidden.data<double>() + (r * (s.end - s.begin) + t - s.begin) * width;
          spread_[at].add(labels(r, t), std::span(x, static_cast<std::size_t>(width)));
        }
      }
    }
  }
  void add_states(const data::Batch& batch, const PassSegment& s) {
    const Index seen = batch.continues ? 0 : rows_[static_cast<std::size_t>(batch.slice)];
    const Index rows = std::clamp<Index>(options_.rows - seen, 0, batch.rows);
    for (const auto& [path, slot] : s.state->slots) {
      if (slot.part != layers::StatePart::kMatrix && slot.part != layers::StatePart::kVector) {
        continue;
      }
      const Tensor values = slot.value.value().to(cpu()).to(DType::kF64).contiguous();
      for (Index r = 0; r < rows; ++r) {
        // One whose document began later has read less, one whose example has ended nothing.
        const Index tokens = before_ + s.end;
        if (s.state->position[static_cast<std::size_t>(r)] == tokens && s.end <= batch.used_of(r)) {
          add_state(states_[{tokens, path}], slot.part, values.select(0, r));
        }
      }
    }
  }
  /// [H..., Dk, Dv], or a vector of any shape.
  static void add_state(StateTally& tally, layers::StatePart part, const Tensor& value) {
    const int dims = value.rank();
    const bool matrix = part == layers::StatePart::kMatrix && dims >= 2;
    const Index rows = matrix ? value.size(dims - 2) : 1;
    const Index columns = matrix ? value.size(dims - 1) : value.numel();
    const Index heads = rows * columns > 0 ? value.numel() / (rows * columns) : 0;
    tally.part = part;
    tally.examples += 1;
    tally.elements = rows * columns;
    tally.square.resize(static_cast<std::size_t>(heads));
    tally.rank.resize(static_cast<std::size_t>(heads));
    for (Index h = 0; h < heads; ++h) {
      const std::span<const double> x(value.data<double>() + h * rows * columns,
                                      static_cast<std::size_t>(rows * columns));
      double square = 0;
      for (const double v : x) {
        square += v * v;
      }
      tally.square[static_cast<std::size_t>(h)] += std::sqrt(square);
      tally.rank[static_cast<std::size_t>(h)] +=
          matrix && std::isfinite(square) ? effective_rank(x, rows, columns) : NAN;
    }
  }

  const std::vector<data::Slice>& slices_;
  LengthOptions options_;
  Index shortest_ = 1;
  std::vector<PositionRange> ranges_;
  std::vector<std::vector<RangeTally>> tallies_;  // [slice][range]
  std::vector<Index> rows_;                       // of each slice, whose states were looked at
  std::map<std::pair<Index, std::string>, StateTally> states_;
  std::vector<ClassSpread> spread_;
  std::vector<RangeTally> spread_tally_;
  std::map<std::size_t, Index> vectors_;
  std::vector<Index> most_;  ///< tokens that a row of each slice reads at most
  std::vector<Index> read_, places_;
  Index before_ = 0;  ///< tokens of the rows in the batches that this one goes on from
};

/// Four times the training length where that was run, else the longest that was.
Index remembered_length(const LengthStudy& study, Index asked) {
  Index best = 0;
  for (const LengthRow& row : study.rows) {
    if (row.result.not_run.empty()) {
      const Index length = row.result.length;
      const bool enough = best >= (asked > 0 ? asked : 4 * study.train_length);
      best = enough ? best : std::max(best, length);
    }
  }
  return best;
}

}  // namespace

std::vector<Index> parse_lengths(const std::string& text, Index train_length) {
  std::set<Index> out;
  std::size_t at = 0;
  while (at <= text.size()) {
    const std::size_t comma = std::min(text.find(',', at), text.size());
    const std::string part = text.substr(at, comma - at);
    const std::size_t dots = part.find("..");
    const Index first = parse_length(part.substr(0, dots), text, train_length);
    const Index last =
        dots == std::string::npos ? first : parse_length(part.substr(dots + 2), text, train_length);
    LS_CHECK(first <= last, kConfig, "--lengths {}: '{}' goes down; the smaller length comes first",
             text, part);
    for (Index length = first; length <= last; length *= 2) {
      out.insert(length);
    }
    out.insert(last);
    at = comma + 1;
  }
  return {out.begin(), out.end()};
}

std::vector<PositionRange> position_ranges(Index train_length, Index longest) {
  std::vector<PositionRange> out;
  Index from = 1;
  const auto add = [&](Index to) {
    if (to >= from) {
      out.push_back({.from = from, .to = to});
      from = to + 1;
    }
  };
  const Index trained = std::max<Index>(1, train_length);
  for (Index k = 1; k <= kPerDoubling; ++k) {
    add(trained * k / kPerDoubling);
  }
  for (Index k = 1; from <= longest; ++k) {
    add(std::llround(static_cast<double>(trained) *
                     std::exp2(static_cast<double>(k) / kPerDoubling)));
  }
  return out;
}

std::optional<Collapse> find_collapse(const std::vector<PositionRange>& ranges,
                                      Index train_length) {
  Collapse out;
  double least = INFINITY;
  for (const PositionRange& r : ranges) {
    if (r.from <= train_length) {
      out.inside = std::max(out.inside, r.loss);
      least = std::min(least, r.loss);
    }
  }
  out.limit = std::max(2 * out.inside, out.inside + kLeast);
  bool any = false;
  for (const PositionRange& r : ranges) {
    if (r.from <= train_length) {
      continue;
    }
    any = true;
    out.worst = std::isfinite(r.loss) ? std::max(out.worst, r.loss) : r.loss;
    if (!out.found && !(r.loss <= out.limit)) {
      out.found = true;
      out.at = r.from;
    }
    if (out.rises_at == 0 && !(r.loss <= std::max(1.05 * least, least + kLeast))) {
      out.rises_at = r.from;
    }
  }
  return any && std::isfinite(least) ? std::optional(out) : std::nullopt;
}

std::optional<Horizon> find_horizon(const std::vector<SpreadRecord>& spread, Index train_length,
                                    double level) {
  std::vector<double> at, ratio;
  Horizon out{.level = level};
  Index classes = 0;
  for (const SpreadRecord& s : spread) {
    classes = std::max(classes, s.classes);
    if (s.to <= train_length) {
      at.push_back(std::sqrt(static_cast<double>(s.from) * static_cast<double>(s.to)));
      ratio.push_back(s.within / s.between);
    }
    if (out.measured == 0 && s.accuracy < level) {
      out.measured = s.from;
    }
  }
  if (classes < 2) {
    return std::nullopt;
  }
  out.threshold = readable_ratio(classes, level);
  out.predicted = crossing(at, ratio, out.threshold);
  return out;
}

std::vector<Index> remembrance_drops(Index length) {
  std::set<Index> out;
  for (Index t = 1; t < length; t *= 2) {
    out.insert(t);
    out.insert(length - t);
  }
  return {out.begin(), out.end()};
}

std::vector<RemembranceRecord> effective_remembrance(layers::Model& model, const data::Batch& batch,
                                                     const RunConfig& config) {
  const ag::NoGrad no_grad;
  const Index length = batch.length;
  const auto predictions = [&](Index from) {
    Tensor scores;
    layers::ModelState state;
    pass(model, segment_of(batch, from, length), config.scan, state,
         {.segment = config.eval.segment, .watch = [&](const PassSegment& s) {
            const Index n = s.end - s.begin;
            scores = model.logits(ag::Var(s.hidden.slice(1, n - 1, n).contiguous())).value();
          }});
    scores = scores.to(cpu()).to(DType::kF64).contiguous();
    const auto classes = static_cast<std::size_t>(scores.size(2));
    std::vector<std::vector<double>> out;
    for (Index r = 0; r < batch.rows; ++r) {
      out.push_back(softmax({scores.data<double>() + r * scores.size(2), classes}));
    }
    return out;
  };
  const auto whole = predictions(0);
  std::vector<RemembranceRecord> out;
  for (const Index t : remembrance_drops(length)) {
    const auto without = predictions(t);
    double sum = 0;
    for (std::size_t r = 0; r < whole.size(); ++r) {
      sum += total_variation(whole[r], without[r]);
    }
    out.push_back({.read = length,
                   .dropped = t,
                   .total_variation = sum / static_cast<double>(whole.size()),
                   .examples = batch.rows});
  }
  return out;
}

namespace {

/// Rows that are full and one document: of others the state has not read, or has forgotten, what
/// lies before.
std::vector<bool> whole_rows(const data::Batch& batch) {
  std::vector<bool> out;
  for (Index r = 0; r < batch.rows; ++r) {
    const bool one =
        batch.documents.empty() || std::ranges::all_of(batch.documents[static_cast<std::size_t>(r)],
                                                       [](Index start) { return start == 0; });
    out.push_back(one && batch.used_of(r) == batch.length);
  }
  return out;
}

/// Means over the examples of both.
void join(std::vector<RemembranceRecord>& all, const std::vector<RemembranceRecord>& more) {
  if (all.empty()) {
    all = more;
    return;
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto a = static_cast<double>(all[i].examples), b = static_cast<double>(more[i].examples);
    all[i].total_variation = (a * all[i].total_variation + b * more[i].total_variation) / (a + b);
    all[i].examples += more[i].examples;
  }
}

/// Of as many rows as the options and the limits of the evaluation allow; else why not.
void measure_remembrance(layers::Model& model, const data::Task& task, const RunConfig& config,
                         std::uint64_t seed, Communicator& comm, const LengthOptions& options,
                         LengthStudy& study) {
  const Index length = remembered_length(study, options.remember);
  if (length < 2) {
    return;
  }
  Index left = options.rows;
  if (config.eval.max_tokens) {
    left = std::min(left, *config.eval.max_tokens / length);
  }
  const data::Batcher batcher(task, {.split = study.split, .batch = left, .seed = seed});
  std::vector<Index> batches;
  Index rows = 0;
  for (Index i = 0; i < batcher.batches(); ++i) {
    const data::Slice& s = task.slices(study.split)[static_cast<std::size_t>(batcher.slice(i))];
    if (!s.carried && longest_of(s) == length) {
      batches.push_back(i);
      rows = std::max(rows, std::min(left, s.examples));
    }
  }
  std::vector<Index> lengths = {length};
  for (const Index t : remembrance_drops(length)) {
    lengths.push_back(length - t);
  }
  study.remembrance_not_run = above_limits(model, lengths, rows, config, comm);
  if (!study.remembrance_not_run.empty()) {
    return;
  }
  for (const Index i : batches) {
    const data::Batch batch = batcher.make(i);
    const std::vector<bool> whole = whole_rows(batch);
    for (Index begin = 0; begin < batch.rows && left > 0;) {
      Index end = begin;
      while (end < batch.rows && end - begin < left && whole[static_cast<std::size_t>(end)]) {
        ++end;
      }
      if (end > begin) {
        join(study.remembrance, effective_remembrance(model, batch.cut(begin, end), config));
        left -= end - begin;
      }
      begin = std::max(begin + 1, end);
    }
  }
  if (study.remembrance.empty()) {
    study.remembrance_not_run = fmt::format("no example of {} tokens is one document", length);
  }
}

}  // namespace

void check_one_rank(const Communicator& comm) {
  LS_CHECK(comm.size() == 1, kConfig,
           "--lengths: states are looked at on one rank, here are {}; start it without mpirun",
           comm.size());
}

LengthStudy study_lengths(layers::Model& model, const data::Task& task, data::Split split,
                          const RunConfig& config, std::uint64_t seed, Communicator& comm,
                          Index train_length, const LengthOptions& options) {
  check_one_rank(comm);
  LengthStudy study{.model = model.label(), .split = split, .train_length = train_length};
  Gatherer gatherer(task, split, model, config.eval.batch, train_length, options);
  const parallel::Mesh mesh(comm, {}, "auto");
  const Evaluation e = *evaluate(model, task, split, config, seed, mesh, {}, &gatherer);
  std::map<Index, layers::StateBytes> bytes;
  for (std::size_t i = 0; i < e.slices.size(); ++i) {
    LengthRow& row = study.rows.emplace_back(LengthRow{e.slices[i], {}});
    if (row.result.not_run.empty()) {
      const Index length = row.result.length;
      if (!bytes.contains(length)) {
        bytes[length] = model.measure_state(length);
      }
      row.state = bytes[length];
    }
    for (const PositionRange& r : gatherer.ranges_of(i)) {
      study.positions.push_back({e.slices[i].name, r});
    }
  }
  study.states = gatherer.states();
  study.spread = gatherer.spread();
  study.collapse = find_collapse(gatherer.all_ranges(), train_length);
  study.horizon = find_horizon(study.spread, train_length, options.level);
  measure_remembrance(model, task, config, seed, comm, options, study);
  return study;
}

}  // namespace ls::experiments
