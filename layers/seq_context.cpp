#include "layers/seq_context.h"

#include "autograd/functional.h"
#include "core/ops/gather_rows/gather_rows.h"

namespace ls::layers {
namespace {

/// With what is empty taken for absent, and what is taken up for what comes in.
SeqOptions settled(SeqOptions o) {
  if (o.taken) {
    o.incoming = o.taken;
  }
  if (o.incoming && o.incoming->position.empty() && !o.told) {
    o.incoming = nullptr;
  }
  return o;
}

Stretch stretch_of(Index batch, Index tokens, const SeqOptions& o) {
  if (o.told) {
    return Stretch(batch, tokens, *o.told);
  }
  StretchPlace place{.first = o.first, .after = o.after};
  if (o.documents) {
    place.documents = *o.documents;
  }
  if (o.seen) {
    place.seen = *o.seen;
  } else if (o.incoming) {
    place.seen = o.incoming->position;
  }
  if (o.begun) {
    place.begun = *o.begun;
  }
  if (o.left) {
    place.left = *o.left;
  }
  return Stretch(batch, tokens, std::move(place));
}

}  // namespace

SeqContext::SeqContext(Index batch, Index tokens, const SeqOptions& options)
    : options_(settled(options)), stretch_(stretch_of(batch, tokens, options_)) {
  if (options_.incoming) {
    outgoing_.used = options_.incoming->used;
  }
  if (options_.keep_states && !stretch_.varies()) {
    outgoing_.position = runner().seen_after(stretch_);
  }
}

Index SeqContext::length() const {
  const bool afresh = !options_.incoming && !options_.seen && !options_.told && options_.first == 0;
  return options_.length == 0 && afresh ? tokens() : options_.length;
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

ag::Var SeqContext::learned_state(const std::string& path) const {
  if (!learned_) {
    return {};
  }
  const auto it = learned_->find(path);
  return it == learned_->end() ? ag::Var() : it->second;
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
  ScanCall call{.slot = path_ + slot, .keep = options_.keep_states, .fresh = {}};
  const std::string prefix = call.slot + ".";
  std::vector<bool> given;
  for (const StatePort& port : info.states) {
    ag::Var& s = input_of(op, in, port.input);
    call.fresh.push_back(std::exchange(s, take_incoming(prefix + port.name)));
    given.push_back(call.fresh.back().defined());
    if (!given.back()) {
      call.fresh.back() = learned_state(prefix + port.name);
    }
  }
  call.updates = updates_of(op, in);
  const bool buffered = info.kind == FamilyKind::kGrowing && outgoing_.used.defined();
  if (buffered) {
    input_of(op, in, "used") = ag::Var(outgoing_.used);
  }

  Index most = 0;
  if (info.reach && info.states.front().part == StatePart::kKeyValue) {
    Tensors values;
    for (const ag::Var& v : in) {
      values.push_back(v.defined() ? v.value() : Tensor());
    }
    most = info.reach(values, own_attrs.get());
  }

  std::vector<ag::Var> out = runner().run(info, std::move(in), own_attrs, stretch_, call);

  for (std::size_t i = 0; i < info.states.size(); ++i) {
    const StatePort& port = info.states[i];
    ag::Var& s = output_of(op, out, port.output);
    const bool rows_told = !stretch_.varies() && !buffered;
    if (call.keep && rows_told && port.part == StatePart::kKeyValue && s.defined()) {
      s = seen_rows(s, outgoing_.position);
    }
    keep(prefix + port.name, {s, port.part, info.kind == FamilyKind::kGrowing, given[i], most});
  }
  return out;
}

Index SeqContext::updates_of(const OpInfo& op, const std::vector<ag::Var>& in) const {
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (in[i].defined() && is_sequence(op.in[i]) && tokens() > 0) {
      const Index n = in[i].size(1) / tokens();
      LS_CHECK(n * tokens() == in[i].size(1) && in[i].size(0) == batch(), kShape,
               "{}: argument {} has shape {}, which is no whole number of updates for each of {} "
               "tokens of {} rows",
               op.name, op.in[i].name, in[i].shape().str(), tokens(), batch());
      return n;
    }
  }
  return 1;
}

void SeqContext::keep(const std::string& path, StateSlot slot) {
  if (options_.keep_states && slot.value.defined()) {
    const bool fresh = outgoing_.slots.emplace(path, std::move(slot)).second;
    LS_CHECK(fresh, kInternal, "two scans of a layer use the slot '{}'", path);
  }
}

SeqContext::Backward::Backward(SeqContext& seq) : seq_(seq), kept_(seq.options_.keep_states) {
  LS_CHECK(!seq.options_.incoming, kUnsupported,
           "a layer reads from the last token to the first, so that no state of earlier tokens can "
           "come in; such a model generates nothing and trains on whole documents, without carried "
           "states");
  if (!seq.turned_) {
    seq.turned_ = seq.stretch_.turned();
  }
  std::swap(seq.stretch_, *seq.turned_);
  seq.options_.keep_states = false;
}
SeqContext::Backward::~Backward() {
  std::swap(seq_.stretch_, *seq_.turned_);
  seq_.options_.keep_states = kept_;
}

ag::Var SeqContext::turned(const ag::Var& x) const {
  const Shape shape = x.shape();
  const Index rows = batch() * tokens();
  LS_CHECK(shape.rank() > 1 && shape[0] == batch() && (rows == 0 || shape[1] % tokens() == 0),
           kShape, "a sequence of shape {} is turned among {} rows of {} tokens", shape.str(),
           batch(), tokens());
  if (rows == 0) {
    return x;
  }
  const ag::Var flat = ag::reshape(x, {rows, shape.numel() / rows});
  return ag::reshape(
      ag::call<ops::GatherRows>({.x = flat, .index = ag::Var(stretch_.turn())}, {}).y, shape);
}

void SeqContext::hand_on(const std::string& name, const ag::Var& value) {
  const bool fresh = handed_.emplace(within_ + name, value).second;
  LS_CHECK(fresh, kInternal, "two layers hand on a value named '{}'", within_ + name);
}

ag::Var SeqContext::handed(const std::string& name) const {
  const auto it = handed_.find(within_ + name);
  return it == handed_.end() ? ag::Var() : it->second;
}

void SeqContext::add_loss(const ag::Var& loss) {
  LS_CHECK(loss.value().numel() == 1, kShape, "a loss of shape {} is added", loss.shape().str());
  added_loss_ = added_loss_.defined() ? ag::add(added_loss_, loss) : loss;
}

SeqContext::Between SeqContext::exchange_between(Between next) {
  return {std::exchange(handed_, std::move(next.handed)),
          std::exchange(added_loss_, std::move(next.loss))};
}

SeqContext::Layer::Layer(SeqContext& seq, const std::string& name)
    : seq_(seq), length_(seq.path_.size()), context_("running " + seq.path_ + name) {
  seq_.path_ += name + ".";
}
SeqContext::Layer::~Layer() {
  seq_.path_.resize(length_);
}

SeqContext::Within::Within(SeqContext& seq, const std::string& place)
    : layer_(seq, place), seq_(seq), length_(seq.within_.size()) {
  seq_.within_ += place + ".";
}
SeqContext::Within::~Within() {
  seq_.within_.resize(length_);
}

}  // namespace ls::layers
