// Scans of golden cases: in the form and chunk that the check asks for, and split over ranks.
#include "layers/scan/scan.h"

#include "autograd/functional.h"
#include "experiments/golden/golden.h"
#include "layers/seq_runner.h"
#include "parallel/sequence/thread_ranks.h"

namespace ls::golden {
namespace {

using layers::Boundary;
using layers::input_of;
using layers::is_sequence;
using layers::output_of;
using layers::ScanInfo;
using Vars = std::vector<ag::Var>;

Index tokens_of(const OpInfo& op, const Vars& in) {
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (in[i].defined() && is_sequence(op.in[i])) {
      return in[i].size(1);
    }
  }
  return 0;
}

/// Each document by itself, a sequence over all ranks, with its own row of the states.
class Documents {
 public:
  Documents(const ScanInfo& scan, const Vars& in, std::shared_ptr<const ScanAttrs> attrs)
      : scan_(scan), op_(*scan.op), in_(in), attrs_(std::move(attrs)), begins_{0} {
    const Index tokens = tokens_of(op_, in_);
    packed_ = op_.input_index("offsets") >= 0 && input_of(op_, in_, "offsets").defined();
    if (packed_) {
      begins_ = input_of(op_, in_, "offsets").value().to_vector<std::int64_t>();
      input_of(op_, in_, "offsets") = ag::Var();
    } else {
      begins_.push_back(tokens);
    }
  }
  /// The op's outputs as if it had run once.
  Vars run(layers::SeqRunner& runner) const {
    std::vector<Vars> parts(op_.out.size());
    for (std::size_t d = 0; d + 1 < begins_.size(); ++d) {
      const Vars out = run_one(runner, static_cast<Index>(d), begins_[d], begins_[d + 1]);
      for (std::size_t i = 0; i < out.size(); ++i) {
        if (out[i].defined()) {
          parts[i].push_back(out[i]);
        }
      }
    }
    Vars all(parts.size());
    for (std::size_t i = 0; i < all.size(); ++i) {
      const bool sequence = is_sequence(op_.out[i]);
      // Of caches of several documents there is no one tensor.
      if (!parts[i].empty() && (sequence || !packed_ || scan_.boundary == Boundary::kOffsets)) {
        all[i] = parts[i].size() == 1 ? parts[i][0] : ag::concat(parts[i], sequence ? 1 : 0);
      }
    }
    return all;
  }

 private:
  Vars run_one(layers::SeqRunner& runner, Index d, Index from, Index to) const {
    Vars part = in_;
    Index rows = 1;
    layers::StretchPlace place;
    for (std::size_t i = 0; i < part.size(); ++i) {
      if (part[i].defined() && is_sequence(op_.in[i])) {
        rows = part[i].size(0);
        place.device = &part[i].value().device();
        part[i] = ag::slice(part[i], 1, from, to);
      }
    }
    for (const layers::StatePort& port : scan_.states) {
      ag::Var& s = input_of(op_, part, port.input);
      s = packed_ && s.defined() ? ag::take_rows(s, {d}) : s;
    }
    return runner.run(scan_, part, attrs_, layers::Stretch(rows, to - from, place),
                      {.slot = "scan", .fresh = {}});
  }

  const ScanInfo& scan_;
  const OpInfo& op_;
  Vars in_;
  std::shared_ptr<const ScanAttrs> attrs_;
  std::vector<std::int64_t> begins_;  ///< of documents, then the end
  bool packed_ = false;
};

/// Ops know states of rows, so documents that have states each run by themselves; where none comes
/// in, the rest is that of a call of all together.
Vars run_packed(const ScanInfo& scan, const Vars& in, std::shared_ptr<const ScanAttrs> attrs) {
  const OpInfo& op = *scan.op;
  const auto given = [&](const std::string& name) {
    return in[static_cast<std::size_t>(op.input_index(name))].defined();
  };
  if (!given("offsets")) {
    return ag::call(op, in, attrs);
  }
  layers::LocalRunner local;
  Vars out = Documents(scan, in, attrs).run(local);
  for (const layers::StatePort& port : scan.states) {
    if (given(port.input)) {
      return out;
    }
  }
  const Vars together = ag::call(op, in, attrs);
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = is_sequence(op.out[i]) ? together[i] : out[i];
  }
  return out;
}

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
    return info.boundary == Boundary::kOffsets ? run_packed(info, in, own) : ag::call(op, in, own);
  }
  split_done_ = true;
  parallel::ThreadRanks ranks(static_cast<int>(options_.split));
  return Documents(info, in, own).run(ranks);
}

Vars GoldenCall::inputs(const OpInfo& op, const Names& names) {
  Vars in;
  for (const ArgSpec& arg : op.in) {
    std::string theirs = arg.name == "s0" ? "initial_state" : arg.name;
    bool taken = false;  // by another input
    for (const auto& [ours, in_file] : names) {
      taken |= ours != arg.name && in_file == theirs;
    }
    for (const auto& [ours, in_file] : names) {
      if (ours == arg.name) {
        theirs = in_file;
        taken = false;
      }
    }
    in.push_back(taken                             ? ag::Var()
                 : arg.type == ArgSpec::Type::kAcc ? acc_or_none(theirs)
                                                   : in_or_none(theirs));
  }
  return in;
}

void GoldenCall::run_scan(const OpInfo& op, const Vars& in, const void* attrs) {
  const Vars out = scan(op, in, attrs, true);
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (out[i].defined()) {
      this->out(op.out[i].name == "sT" ? "final_state" : op.out[i].name, out[i]);
    }
  }
}

}  // namespace ls::golden
