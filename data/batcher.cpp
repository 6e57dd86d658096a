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

Index count_labels(const Tensor& labels) {
  const std::int64_t* const label = labels.data<std::int64_t>();
  return labels.numel() - std::count(label, label + labels.numel(), kIgnore);
}

}  // namespace

Batch Batch::cut(Index begin, Index end) const {
  Batch out = *this;
  for (Tensor* t : {&out.tokens, &out.vectors, &out.labels, &out.tags}) {
    if (t->defined()) {
      *t = t->slice(0, begin, end);
    }
  }
  if (!documents.empty()) {
    out.documents.assign(documents.begin() + begin, documents.begin() + end);
  }
  out.first_row += begin;
  out.rows = end - begin;
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
  b.continues = plan.continues ||
                (options_.split == Split::kTrain && info.order == Order::kStream && step > 0);

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
  b.documents.resize(static_cast<std::size_t>(b.rows));
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
    }
    out.document_starts = &b.documents[static_cast<std::size_t>(r)];
    const Index row = b.first_row + r;
    if (plan.index[static_cast<std::size_t>(row)] < 0) {
      continue;
    }
    task_.sample({.split = options_.split,
                  .slice = plan.slice,
                  .length = t,
                  .index = plan.index[static_cast<std::size_t>(row)],
                  .step = step,
                  .row = row,
                  .rows = b.global_rows},
                 out);
    any_start |= !out.document_starts->empty();
  }
  if (!any_start) {
    b.documents.clear();
  }
  b.labelled = count_labels(b.labels);
  return b;
}

}  // namespace ls::data
