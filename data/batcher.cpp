#include "data/batcher.h"

#include <algorithm>

#include "core/base/error.h"

namespace ls::data {
namespace {

/// On this thread alone: Tensor::full may start a team of threads beside the trainer's.
template <class T>
Tensor filled(const Shape& shape, T value) {
  Tensor t = Tensor::empty(shape, dtype_of_v<T>);
  std::fill_n(t.data<T>(), t.numel(), value);
  return t;
}

/// The first of `values` that is none of 0 .. end-1 and not `other`, or its size.
std::size_t first_outside(std::span<const std::int64_t> values, std::int64_t end,
                          std::int64_t other) {
  const auto it = std::find_if(values.begin(), values.end(),
                               [&](std::int64_t v) { return (v < 0 || v >= end) && v != other; });
  return static_cast<std::size_t>(it - values.begin());
}

Index count_labels(const Tensor& labels) {
  const std::int64_t* const label = labels.data<std::int64_t>();
  return labels.numel() - std::count(label, label + labels.numel(), kIgnore);
}

}  // namespace

void check_example(const TaskInfo& info, const ExampleKey& key, const ExampleView& e) {
  const auto here = [&](std::size_t t) {
    return fmt::format("the task, example {} of {} setting {}, position {} of {}", key.index,
                       enum_name(key.split), key.slice, t, key.length);
  };
  if (const std::size_t t = first_outside(e.labels, info.classes, kIgnore); t < e.labels.size()) {
    LS_FAIL(kInternal, "{}: label {} is none of the {} classes 0 .. {} that it declares, nor {}",
            here(t), e.labels[t], info.classes, info.classes - 1, kIgnore);
  }
  if (const std::size_t t = first_outside(e.tokens, info.vocab_in, 0); t < e.tokens.size()) {
    LS_FAIL(kInternal, "{}: token {} is none of the {} (0 .. {}) that it declares", here(t),
            e.tokens[t], info.vocab_in, info.vocab_in - 1);
  }
  for (std::size_t t = 0; t < e.tags.size(); ++t) {
    LS_CHECK(e.tags[t] <= info.tags.size(), kInternal,
             "{}: tag {} is written, {} are declared in info_.tags", here(t), e.tags[t],
             info.tags.size());
  }
  for (std::size_t t = 0; t < e.legal.size(); ++t) {
    LS_CHECK(e.labels[t] == kIgnore || (e.legal[t] >> e.labels[t] & 1) == 1, kInternal,
             "{}: label {} is not in its legal set {:x}", here(t), e.labels[t], e.legal[t]);
  }
  LS_CHECK(0 <= *e.used && *e.used <= key.length, kInternal,
           "the task, example {} of {} setting {}: {} of {} tokens are used", key.index,
           enum_name(key.split), key.slice, *e.used, key.length);
  for (std::size_t t = static_cast<std::size_t>(*e.used); t < e.labels.size(); ++t) {
    LS_CHECK(e.labels[t] == kIgnore, kInternal, "{}: label {} behind the {} tokens in use", here(t),
             e.labels[t], *e.used);
  }
  Index before = -1;
  for (const Index start : *e.document_starts) {
    LS_CHECK(before < start && start < key.length, kInternal,
             "the task, example {} of {} setting {}: document starts must ascend within 0 .. {}, "
             "{} follows {}",
             key.index, enum_name(key.split), key.slice, key.length - 1, start, before);
    before = start;
  }
}

Batch Batch::cut(Index begin, Index end) const {
  Batch out = *this;
  for (Tensor* t : {&out.tokens, &out.vectors, &out.labels, &out.tags, &out.legal}) {
    if (t->defined()) {
      *t = t->slice(0, begin, end);
    }
  }
  if (!documents.empty()) {
    out.documents.assign(documents.begin() + begin, documents.begin() + end);
  }
  if (!used.empty()) {
    out.used.assign(used.begin() + begin, used.begin() + end);
  }
  out.first_row += begin;
  out.rows = end - begin;
  out.labelled = count_labels(out.labels);
  return out;
}

Batch Batch::stretch(Index begin, Index end) const {
  Batch out = *this;
  for (Tensor* t : {&out.tokens, &out.vectors, &out.labels, &out.tags, &out.legal}) {
    if (t->defined()) {
      *t = t->slice(1, begin, end).contiguous();
    }
  }
  out.documents.clear();
  for (Index& n : out.used) {
    n = std::clamp<Index>(n - begin, 0, end - begin);
  }
  out.length = end - begin;
  out.labelled = count_labels(out.labels);
  return out;
}

std::vector<Batch> Batch::pieces(Index n) const {
  std::vector<Batch> out;
  for (Index i = 0; i < n; ++i) {
    out.push_back(cut(data::first_row(rows, i, n), data::first_row(rows, i + 1, n)));
  }
  return out;
}

Batcher::Batcher(const Task& task, const BatcherOptions& options)
    : task_(task), options_(options), sampler_(task, options.split, options.batch, options.seed) {
  LS_CHECK(0 <= options.rank && options.rank < options.ranks, kConfig, "rank {} of {}",
           options.rank, options.ranks);
}

Batch Batcher::make(Index step) const {
  const TaskInfo& info = task_.info();
  const BatchPlan plan = sampler_.plan(step);
  Batch b;
  b.step = step;
  b.slice = plan.slice;
  b.length = plan.length;
  b.global_rows = static_cast<Index>(plan.index.size());
  b.first_row = first_row(b.global_rows, options_.rank, options_.ranks);
  b.rows = first_row(b.global_rows, options_.rank + 1, options_.ranks) - b.first_row;
  b.continues = plan.continues;

  const Index t = plan.length;
  const Index e = info.vector_width;
  if (e > 0) {
    b.vectors = filled<float>({b.rows, t, e}, 0);
  } else {
    b.tokens = filled<std::int64_t>({b.rows, t}, 0);
  }
  b.labels = filled<std::int64_t>({b.rows, t}, kIgnore);
  if (!info.tags.empty()) {
    b.tags = filled<std::uint8_t>({b.rows, t}, 0);
  }
  if (info.legal_sets) {
    b.legal = filled<std::int64_t>({b.rows, t}, 0);
  }
  std::vector<std::uint8_t> undeclared;  // what a task without tags must not write to
  b.documents.resize(static_cast<std::size_t>(b.rows));
  b.used.assign(static_cast<std::size_t>(b.rows), t);
  bool any_start = false;
  for (Index r = 0; r < b.rows; ++r) {
    const auto piece = [&](auto* data, Index width) {
      return std::span(data + r * width, static_cast<std::size_t>(width));
    };
    ExampleView out;
    if (e > 0) {
      out.vectors = piece(b.vectors.data<float>(), t * e);
    } else {
      out.tokens = piece(b.tokens.data<std::int64_t>(), t);
    }
    out.labels = piece(b.labels.data<std::int64_t>(), t);
    if (b.tags.defined()) {
      out.tags = piece(b.tags.data<std::uint8_t>(), t);
    } else {
      undeclared.assign(static_cast<std::size_t>(t), 0);
      out.tags = undeclared;
    }
    if (b.legal.defined()) {
      const std::span<std::int64_t> bits = piece(b.legal.data<std::int64_t>(), t);
      out.legal = {reinterpret_cast<std::uint64_t*>(bits.data()), bits.size()};
    }
    out.document_starts = &b.documents[static_cast<std::size_t>(r)];
    out.used = &b.used[static_cast<std::size_t>(r)];
    const Index row = b.first_row + r;
    if (plan.index[static_cast<std::size_t>(row)] < 0) {
      *out.used = 0;
      continue;
    }
    const ExampleKey key{.split = options_.split,
                         .slice = plan.slice,
                         .length = t,
                         .index = plan.index[static_cast<std::size_t>(row)],
                         .step = step,
                         .row = row,
                         .rows = b.global_rows,
                         .before = plan.before};
    task_.sample(key, out);
    check_example(info, key, out);
    any_start |= !out.document_starts->empty();
  }
  if (!any_start) {
    b.documents.clear();
  }
  if (std::ranges::all_of(b.used, [&](Index n) { return n == t; })) {
    b.used.clear();
  }
  b.labelled = count_labels(b.labels);
  return b;
}

}  // namespace ls::data
