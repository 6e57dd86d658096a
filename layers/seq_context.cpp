#include "layers/seq_context.h"

#include <algorithm>

#include "autograd/functional.h"
#include "core/tensor/view.h"

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
  if (options_.documents && options_.documents->empty()) {
    options_.documents = nullptr;
  }
  if (options_.taken) {
    options_.incoming = options_.taken;
  }
  if (options_.incoming && options_.incoming->position.empty()) {
    options_.incoming = nullptr;
  }
  LS_CHECK(!options_.documents || std::ssize(*options_.documents) == batch, kShape,
           "document starts are given for {} rows of {}", options_.documents->size(), batch);
  LS_CHECK(!options_.incoming || std::ssize(options_.incoming->position) == batch, kShape,
           "carried states have {} rows, the batch has {}", options_.incoming->position.size(),
           batch);
  for (Index r = 0; r < batch; ++r) {
    const auto begins = starts(r);
    outgoing_.position.push_back(begins.empty() ? seen_before(r) + tokens : tokens - begins.back());
  }
}

SeqContext::~SeqContext() = default;

std::span<const Index> SeqContext::starts(Index row) const {
  if (!options_.documents) {
    return {};
  }
  return (*options_.documents)[row];
}

Index SeqContext::seen_before(Index row) const {
  return options_.incoming ? options_.incoming->position[row] : 0;
}

bool SeqContext::all_have_seen(Index tokens) const {
  for (Index r = 0; r < batch_; ++r) {
    if (seen_before(r) < tokens) {
      return false;
    }
  }
  return true;
}

const Tensor& SeqContext::positions() {
  if (!positions_.defined()) {
    const Packing& p = packing();
    positions_ = Tensor::empty({batch_, tokens_}, DType::kI64);
    View<Index, 2> position(positions_);
    const View<const Index, 2> start(p.start);
    for (Index r = 0; r < batch_; ++r) {
      for (Index t = 0; t < tokens_; ++t) {
        position(r, t) = t - start(r, t);
      }
    }
  }
  return positions_;
}

const SeqContext::Packing& SeqContext::packing() {
  if (packing_) {
    return *packing_;
  }
  packing_ = std::make_unique<Packing>();
  std::vector<Index> offsets;
  packing_->start = Tensor::empty({batch_, tokens_}, DType::kI64);
  View<Index, 2> start(packing_->start);
  for (Index r = 0; r < batch_; ++r) {
    const std::span<const Index> begins = starts(r);
    const bool continues = begins.empty() || begins[0] != 0;
    std::vector<Index> first(begins.begin(), begins.end());
    if (continues) {
      first.insert(first.begin(), 0);
    }
    for (std::size_t d = 0; d < first.size(); ++d) {
      const Index from = first[d], to = d + 1 < first.size() ? first[d + 1] : tokens_;
      const bool carried = continues && d == 0;
      LS_CHECK(from < to || (carried && to == tokens_), kShape,
               "document starts of row {} are not ascending within {} tokens", r, tokens_);
      offsets.push_back(r * tokens_ + from);
      packing_->first_of.push_back(carried ? r : -1);
      for (Index t = from; t < to; ++t) {
        start(r, t) = carried ? -seen_before(r) : from;
      }
    }
    packing_->last_of.push_back(std::ssize(offsets) - 1);
  }
  offsets.push_back(batch_ * tokens_);
  packing_->offsets = Tensor::from(offsets);
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

ag::Var SeqContext::take_incoming(const std::string& path) {
  if (!options_.incoming) {
    return {};
  }
  if (options_.taken) {
    const auto slot = options_.taken->slots.extract(path);
    return slot.empty() ? ag::Var() : std::move(slot.mapped().value);
  }
  const auto it = options_.incoming->slots.find(path);
  return it == options_.incoming->slots.end() ? ag::Var() : it->second.value;
}

std::vector<ag::Var> SeqContext::scan(const OpInfo& op, const std::string& slot,
                                      std::vector<ag::Var> in, const void* attrs) {
  const ScanInfo& info = scan_of(op, attrs);
  const std::shared_ptr<ScanAttrs> own_attrs = info.clone_attrs(attrs);
  if (options_.form != Form::kAuto) {
    own_attrs->form = options_.form;
  }
  if (options_.chunk > 0) {
    own_attrs->chunk = options_.chunk;
  }
  const std::string prefix = path_ + slot + ".";
  const bool packed = options_.documents && info.boundary == Boundary::kOffsets;
  Index cached = 0;  // rows of keys and values that come in
  for (const StatePort& port : info.states) {
    if (ag::Var s = take_incoming(prefix + port.name); s.defined()) {
      cached = port.part == StatePart::kKeyValue ? s.size(1) : cached;
      input_of(op, in, port.input) = packed ? ag::take_rows(s, packing().first_of) : std::move(s);
    }
  }
  if (packed) {
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (in[i].defined() && is_sequence(op.in[i])) {
        in[i] = ag::reshape(in[i], flattened(in[i].shape()));
      }
    }
    input_of(op, in, "offsets") = ag::Var(packing().offsets);
  }
  // Of a cache a row sees what its document has seen, which may be less than there is.
  if (info.boundary == Boundary::kStart && (options_.documents || !all_have_seen(cached))) {
    input_of(op, in, "start") = ag::Var(packing().start);
  }

  SeqRunner& runner = options_.runner ? *options_.runner : local_;
  std::vector<ag::Var> out = runner.run(info, std::move(in), own_attrs);

  for (std::size_t i = 0; packed && i < out.size(); ++i) {
    if (out[i].defined() && is_sequence(op.out[i])) {
      out[i] = ag::reshape(out[i], unflattened(out[i].shape(), batch_));
    }
  }
  for (const StatePort& port : info.states) {
    ag::Var& s = output_of(op, out, port.output);
    if (packed && s.defined()) {
      s = ag::take_rows(s, packing().last_of);
    }
    if (port.part == StatePart::kKeyValue && s.defined()) {
      s = seen_rows(s, outgoing_.position);
    }
    keep(prefix + port.name, port.part, s);
  }
  return out;
}

void SeqContext::keep(const std::string& path, StatePart part, const ag::Var& state) {
  if (options_.keep_states && state.defined()) {
    const bool fresh = outgoing_.slots.emplace(path, StateSlot{state, part}).second;
    LS_CHECK(fresh, kInternal, "two scans of a layer use the slot '{}'", path);
  }
}

SeqContext::Layer::Layer(SeqContext& seq, const std::string& name)
    : seq_(seq), length_(seq.path_.size()), context_("running " + seq.path_ + name) {
  seq_.path_ += name + ".";
}
SeqContext::Layer::~Layer() {
  seq_.path_.resize(length_);
}

}  // namespace ls::layers
