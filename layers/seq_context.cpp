#include "layers/seq_context.h"

#include <algorithm>

#include "autograd/functional.h"

namespace ls::layers {
namespace {

bool is_sequence(const ArgSpec& arg) {
  return arg.axes.size() >= 2 && arg.axes[0] == "B" && arg.axes[1] == "T";
}

Shape flattened(const Shape& s) {
  Shape out{1, s[0] * s[1]};
  for (int i = 2; i < s.rank(); ++i) {
    out.push_back(s[i]);
  }
  return out;
}

Shape unflattened(const Shape& s, Index batch) {
  Shape out{batch, s[1] / batch};
  for (int i = 2; i < s.rank(); ++i) {
    out.push_back(s[i]);
  }
  return out;
}

}  // namespace

struct SeqContext::Packing {
  Tensor offsets;               // i64 [N+1] over the B*T tokens
  Tensor start;                 // i64 [B,T]: first visible token; negative reaches into the cache
  std::vector<Index> first_of;  // document -> row whose carried state it continues, or -1
  std::vector<Index> last_of;   // row -> its last document
};

SeqContext::SeqContext(Index batch, Index tokens, const SeqOptions& options)
    : batch_(batch), tokens_(tokens), options_(options) {
  const auto rows = static_cast<std::size_t>(batch);
  LS_CHECK(!options.documents || options.documents->size() == rows, kShape,
           "document starts are given for {} rows of {}", options.documents->size(), batch);
  LS_CHECK(!options.incoming || options.incoming->position.empty() ||
               options.incoming->position.size() == rows,
           kShape, "carried states have {} rows, the batch has {}",
           options.incoming->position.size(), batch);
  outgoing_.position.assign(rows, 0);
  for (std::size_t r = 0; r < rows; ++r) {
    const Index before =
        options.incoming && !options.incoming->position.empty() ? options.incoming->position[r] : 0;
    const bool reset = options.documents && !(*options.documents)[r].empty();
    outgoing_.position[r] = reset ? tokens - (*options.documents)[r].back() : before + tokens;
  }
}

SeqContext::~SeqContext() = default;

const Tensor& SeqContext::positions() {
  if (!positions_.defined()) {
    positions_ = Tensor::empty({batch_, tokens_}, DType::kI64);
    auto* p = positions_.data<std::int64_t>();
    for (Index r = 0; r < batch_; ++r) {
      const auto row = static_cast<std::size_t>(r);
      Index at = options_.incoming && !options_.incoming->position.empty()
                     ? options_.incoming->position[row]
                     : 0;
      std::size_t next = 0;
      for (Index t = 0; t < tokens_; ++t) {
        if (options_.documents && next < (*options_.documents)[row].size() &&
            (*options_.documents)[row][next] == t) {
          at = 0;
          ++next;
        }
        p[r * tokens_ + t] = at++;
      }
    }
  }
  return positions_;
}

const SeqContext::Packing& SeqContext::packing() {
  if (packing_) {
    return *packing_;
  }
  static const std::vector<Index> kNone;
  packing_ = std::make_unique<Packing>();
  std::vector<std::int64_t> offsets;
  std::vector<std::int64_t> start(static_cast<std::size_t>(batch_ * tokens_));
  for (Index r = 0; r < batch_; ++r) {
    const auto row = static_cast<std::size_t>(r);
    const std::vector<Index>& starts = options_.documents ? (*options_.documents)[row] : kNone;
    if (starts.empty() || starts[0] != 0) {
      offsets.push_back(r * tokens_);
      packing_->first_of.push_back(r);
    }
    Index previous = -1;
    for (const Index t : starts) {
      LS_CHECK(t > previous && t < tokens_, kShape,
               "document starts of row {} are not ascending within {} tokens", r, tokens_);
      previous = t;
      offsets.push_back(r * tokens_ + t);
      packing_->first_of.push_back(-1);
    }
    packing_->last_of.push_back(static_cast<Index>(offsets.size()) - 1);
    const Index carried = options_.incoming && !options_.incoming->position.empty()
                              ? options_.incoming->position[row]
                              : 0;
    Index visible = -carried;
    std::size_t next = 0;
    for (Index t = 0; t < tokens_; ++t) {
      if (next < starts.size() && starts[next] == t) {
        visible = t;
        ++next;
      }
      start[static_cast<std::size_t>(r * tokens_ + t)] = visible;
    }
  }
  offsets.push_back(batch_ * tokens_);
  packing_->offsets = Tensor::from(offsets);
  packing_->start = Tensor::from(start, {batch_, tokens_});
  return *packing_;
}

bool SeqContext::states_need_grad() const {
  if (!options_.incoming) {
    return false;
  }
  for (const auto& [path, slot] : options_.incoming->slots) {
    if (slot.value.requires_grad()) {
      return true;
    }
  }
  return false;
}

ag::Var SeqContext::incoming(const std::string& path) const {
  if (!options_.incoming) {
    return {};
  }
  const auto it = options_.incoming->slots.find(path);
  return it == options_.incoming->slots.end() ? ag::Var() : it->second.value;
}

std::vector<ag::Var> SeqContext::scan(const OpInfo& op, const std::string& slot,
                                      std::vector<ag::Var> in, const void* attrs) {
  const FamilyInfo* const family = find_family(op, attrs);
  LS_CHECK(family, kInternal, "op {} is not registered as a scan", op.name);
  const std::shared_ptr<void> own_attrs = family->clone_attrs(attrs);
  auto* const scan_attrs = static_cast<ScanAttrs*>(own_attrs.get());
  if (options_.form != Form::kAuto) {
    scan_attrs->form = options_.form;
  }
  if (options_.chunk > 0) {
    scan_attrs->chunk = options_.chunk;
  }

  // Rows differ in how much of a cache belongs to their document as soon as anything was carried.
  const bool by_rows = family->boundary == Boundary::kStart;
  const bool carried_rows_differ =
      by_rows && options_.incoming && !options_.incoming->position.empty() &&
      std::adjacent_find(options_.incoming->position.begin(), options_.incoming->position.end(),
                         std::not_equal_to<>()) != options_.incoming->position.end();
  const bool packed = options_.documents && !by_rows;
  if (by_rows && (options_.documents || carried_rows_differ)) {
    in[static_cast<std::size_t>(op.input_index("start"))] = ag::Var(packing().start);
  }
  if (packed) {
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (in[i].defined() && is_sequence(op.in[i])) {
        in[i] = ag::reshape(in[i], flattened(in[i].shape()));
      }
    }
    in[static_cast<std::size_t>(op.input_index("offsets"))] = ag::Var(packing().offsets);
  }
  for (const StatePort& port : family->states) {
    const ag::Var s = incoming(path_ + slot + "." + port.name);
    if (s.defined()) {
      in[static_cast<std::size_t>(op.input_index(port.input))] =
          packed ? ag::take_rows(s, packing().first_of) : s;
    }
  }

  SeqRunner& runner = options_.runner ? *options_.runner : local_;
  std::vector<ag::Var> out = runner.run(*family, in, own_attrs);

  if (packed) {
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (out[i].defined() && is_sequence(op.out[i])) {
        out[i] = ag::reshape(out[i], unflattened(out[i].shape(), batch_));
      }
    }
  }
  for (const StatePort& port : family->states) {
    ag::Var& s = out[static_cast<std::size_t>(op.output_index(port.output))];
    if (packed && s.defined()) {
      s = ag::take_rows(s, packing().last_of);
    }
    if (by_rows && options_.documents && s.defined()) {
      // Rows of documents that have ended everywhere are seen by nobody any more.
      const Index rows = s.size(1),
                  seen = *std::max_element(outgoing_.position.begin(), outgoing_.position.end());
      s = seen < rows ? ag::slice(s, 1, rows - seen, rows) : s;
    }
    if (options_.keep_states && s.defined()) {
      const bool fresh =
          outgoing_.slots.emplace(path_ + slot + "." + port.name, StateSlot{s, port.part}).second;
      LS_CHECK(fresh, kInternal, "two scans of a layer use the slot '{}{}'", path_, slot);
    }
  }
  return out;
}

SeqContext::Layer::Layer(SeqContext& seq, const std::string& name)
    : seq_(seq), length_(seq.path_.size()), context_("running " + seq.path_ + name) {
  seq_.path_ += name + ".";
}
SeqContext::Layer::~Layer() {
  seq_.path_.resize(length_);
}

}  // namespace ls::layers
