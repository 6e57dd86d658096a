// Scans of golden cases: in the form and chunk that the check asks for, and cut into pieces.
#include "layers/scan/scan.h"

#include <algorithm>

#include "autograd/functional.h"
#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

using layers::Boundary;
using layers::input_of;
using layers::is_sequence;
using layers::output_of;
using layers::ScanInfo;
using Vars = std::vector<ag::Var>;

/// Runs pieces one after the other; states go from each to the next.
class Pieces {
 public:
  Pieces(const OpInfo& op, const ScanInfo& info, const Vars& in,
         std::shared_ptr<const ScanAttrs> attrs)
      : op_(op), info_(info), in_(in), attrs_(std::move(attrs)), outputs_(op.out.size()) {
    for (std::size_t i = 0; i < in_.size(); ++i) {
      if (in_[i].defined() && is_sequence(op.in[i])) {
        tokens_ = in_[i].size(1);
        device_ = &in_[i].value().device();
      }
    }
    if (op.input_index("offsets") >= 0 && input_of(op, in_, "offsets").defined()) {
      offsets_ = input_of(op, in_, "offsets").value().to_vector<std::int64_t>();
    }
    per_document_ = !offsets_.empty() && info.boundary == Boundary::kOffsets;
    for (const layers::StatePort& port : info.states) {
      states_.push_back(input_of(op, in_, port.input));
    }
  }
  Index tokens() const { return tokens_; }

  /// Tokens a .. b - 1.
  void run(Index a, Index b) {
    Vars part = in_;
    for (std::size_t i = 0; i < in_.size(); ++i) {
      if (in_[i].defined() && is_sequence(op_.in[i])) {
        part[i] = ag::slice(in_[i], 1, a, b);
      }
    }
    const Documents documents = cut_documents(part, a, b);
    if (per_document_ && documents.here.empty()) {
      return;
    }
    for (std::size_t s = 0; s < states_.size(); ++s) {
      const bool rows = per_document_ && states_[s].defined();
      input_of(op_, part, info_.states[s].input) =
          rows ? ag::take_rows(states_[s], documents.here) : states_[s];
    }
    const Vars out = ag::call(op_, part, attrs_);
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (out[i].defined() && is_sequence(op_.out[i])) {
        outputs_[i].push_back(out[i]);
      }
    }
    for (std::size_t s = 0; s < states_.size(); ++s) {
      const ag::Var& fresh = output_of(op_, out, info_.states[s].output);
      states_[s] = per_document_ ? replaced(states_[s], fresh, documents) : fresh;
    }
  }
  /// The op's outputs as if it had run once.
  Vars result() const {
    Vars out(outputs_.size());
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (!outputs_[i].empty()) {
        out[i] = ag::concat(outputs_[i], 1);
      }
    }
    for (std::size_t s = 0; s < states_.size(); ++s) {
      output_of(op_, out, info_.states[s].output) = states_[s];
    }
    return out;
  }

 private:
  struct Documents {
    std::vector<Index> before, here, after;  // of the piece
  };

  /// Boundaries of documents as the op takes them, from the piece's first token on.
  Documents cut_documents(Vars& part, Index a, Index b) const {
    Documents documents;
    if (offsets_.empty()) {
      return documents;
    }
    if (!per_document_) {
      std::vector<std::int64_t> start;
      for (Index t = a; t < b; ++t) {
        start.push_back(*std::prev(std::upper_bound(offsets_.begin(), offsets_.end(), t)) - a);
      }
      input_of(op_, part, "offsets") = ag::Var();
      input_of(op_, part, "start") = ag::Var(Tensor::from(start, {1, b - a}).to(*device_));
      return documents;
    }
    std::vector<std::int64_t> local;
    for (std::size_t d = 0; d + 1 < offsets_.size(); ++d) {
      const Index from = offsets_[d], to = offsets_[d + 1];
      const bool here = from < b && to > a;
      (here      ? documents.here
       : to <= a ? documents.before
                 : documents.after)
          .push_back(static_cast<Index>(d));
      if (here) {
        local.push_back(std::max(from, a) - a);
      }
    }
    local.push_back(b - a);
    input_of(op_, part, "offsets") = ag::Var(Tensor::from(local).to(*device_));
    return documents;
  }
  /// Rows of documents: those in the piece from `fresh`, the others as they were.
  ag::Var replaced(ag::Var old, const ag::Var& fresh, const Documents& documents) const {
    if (!old.defined()) {
      Shape shape = fresh.shape();
      shape[0] = static_cast<Index>(offsets_.size()) - 1;
      old = ag::Var(Tensor::zeros(shape, fresh.dtype(), *device_));
    }
    return ag::concat(
        {ag::take_rows(old, documents.before), fresh, ag::take_rows(old, documents.after)}, 0);
  }

  const OpInfo& op_;
  const ScanInfo& info_;
  Vars in_;
  std::shared_ptr<const ScanAttrs> attrs_;
  Index tokens_ = 0;
  Device* device_ = &cpu();
  std::vector<std::int64_t> offsets_;
  bool per_document_ = false;
  Vars states_;                // so far, one row a document, or a batch row
  std::vector<Vars> outputs_;  // that are sequences, by piece
};

}  // namespace

Vars GoldenCall::scan(const OpInfo& op, const Vars& in, const void* attrs, bool can_split) {
  const ScanInfo& info = layers::scan_of(op, attrs);
  const std::shared_ptr<ScanAttrs> own = info.clone_attrs(attrs);
  const Form form = options_.form;
  if (form == Form::kRecurrent || (form == Form::kChunk && info.has_chunk) ||
      (form == Form::kParallel && info.has_parallel)) {
    own->form = form;
    form_done_ = true;
  }
  if (info.has_chunk && (own->form == Form::kAuto || own->form == Form::kChunk)) {
    own->chunk = options_.chunk;
    chunk_done_ = true;
  }
  if (options_.split <= 1 || !can_split) {
    return ag::call(op, in, own);
  }
  split_done_ = true;
  Pieces pieces(op, info, in, own);
  // Uneven cuts; with more pieces than tokens some are empty.
  const Index n = options_.split, tokens = pieces.tokens();
  for (Index p = 0; p < n; ++p) {
    pieces.run(tokens * p * (p + 1) / (n * (n + 1)), tokens * (p + 1) * (p + 2) / (n * (n + 1)));
  }
  return pieces.result();
}

}  // namespace ls::golden
