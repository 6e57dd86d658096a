#include "experiments/decoder.h"

#include <algorithm>
#include <optional>

#include "autograd/tape.h"
#include "core/base/log.h"
#include "core/tensor/graph.h"
#include "core/tensor/step_inputs.h"

namespace ls::experiments {

/// Steps of one token on a device, from buffers at fixed places. The first one runs as it is and
/// shows which states are written over the ones before; the next one is recorded.
class RecordedDecoding {
 public:
  RecordedDecoding(Decoder& decoder, Device& device)
      : decoder_(decoder),
        device_(device),
        memory_(graph_memory(device)),
        inputs_(device, 2),
        sent_(inputs_.add({decoder.rows_, 1}, DType::kI64)),
        token_(Tensor::zeros({decoder.rows_, 1}, DType::kI64, device)),
        count_(Tensor::full({decoder.rows_, 1}, DType::kF64, static_cast<double>(decoder.fed_),
                            device)),
        one_(Tensor::full({decoder.rows_, 1}, DType::kF64, 1, device)) {
    for (Tensor* const t : {&told_.positions, &told_.start}) {
      *t = Tensor::zeros({decoder.rows_, 1}, DType::kI64, device);
    }
    decoder_.state_.used = Tensor::zeros({}, DType::kI64, device);
    decoder_.state_.position.clear();
  }

  Tensor feed(const Tensor& token) {
    make_room();
    if (&token.device() == &device_) {
      token_.copy_(token);
    } else {
      inputs_.next(sent_).copy_(token);
      inputs_.send();
      token_.copy_(inputs_.buffer(sent_));
    }
    Stream& stream = current_stream(device_);
    if (!graph_ && !warm_) {
      const auto before = places();
      scores_ = step();
      const auto after = places();
      for (const auto& [path, place] : after) {
        if (before.at(path) != place) {
          kept_.emplace(path, decoder_.state_.slots.at(path).value.value());
        }
      }
      warm_ = true;
      return scores_;
    }
    if (graph_ || (decoder_.graphs_ && record(stream))) {
      graph_->replay(stream);
      ++decoder_.replays_;
    } else {
      scores_ = step();
    }
    return scores_;
  }

 private:
  /// A step writes over the states that it takes and that nobody else holds: they are lent to it,
  /// so that they are still there if it cannot be recorded.
  bool record(Stream& stream) {
    const layers::ModelState before = decoder_.state_;
    for (auto& [path, slot] : decoder_.state_.slots) {
      slot.value = ag::Var(slot.value.value().lent());
    }
    const auto where = places();
    try {
      graph_.emplace(stream, memory_, [this] { scores_ = step(); });
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::kDevice) {
        throw;
      }
      decoder_.state_ = before;
      decoder_.graphs_ = false;
      log_warn("decoding is not recorded on " + device_.describe() +
               " and runs slower than it could: " + e.message() +
               "; graphs: false keeps it from trying");
      return false;
    }
    LS_CHECK(places() == where, kInternal, "a recorded step leaves a state at another place");
    return true;
  }
  /// Where kernels find each state.
  std::map<std::string, const void*> places() const {
    std::map<std::string, const void*> out;
    for (const auto& [path, slot] : decoder_.state_.slots) {
      out.emplace(path, TensorView(slot.value.value()).raw());
    }
    return out;
  }
  /// The room that growing caches need for one more token.
  void make_room() {
    const Index needed = decoder_.fed_ + 1;
    if (needed <= capacity_) {
      return;
    }
    constexpr Index kFewest = 64;
    const auto& slots = decoder_.state_.slots;
    if (std::none_of(slots.begin(), slots.end(), [](const auto& s) { return s.second.grows; })) {
      return;
    }
    if (capacity_ > 0) {
      log(LogLevel::kInfo, "decoding: caches are full; they are enlarged, the step recorded anew",
          {{"tokens", std::to_string(capacity_)}});
    }
    capacity_ = std::max({decoder_.expected_, needed + kFewest, capacity_ * 2});
    graph_.reset();
    for (auto& [path, slot] : decoder_.state_.slots) {
      if (slot.grows) {
        Shape shape = slot.value.shape();
        const Index held = decoder_.fed_;
        shape[1] = capacity_;
        Tensor room = Tensor::zeros(shape, slot.value.dtype(), device_);
        room.slice(1, 0, held).copy_(slot.value.value().slice(1, 0, held));
        slot.value = ag::Var(std::move(room));
      }
    }
  }
  /// One token, from the buffers and back to them.
  Tensor step() {
    told_.positions.copy_(count_);
    Tensor before = count_.clone();
    decoder_.state_.used.copy_(before.select(0, 0).view(Shape{}));
    before.mul_(-1);
    told_.start.copy_(before);
    Tensor scores = decoder_.run(token_, {.taken = &decoder_.state_,
                                          .length = decoder_.expected_,
                                          .told = &told_,
                                          .keep_states = true});
    for (auto& [path, place] : kept_) {
      ag::Var& value = decoder_.state_.slots.at(path).value;
      place.copy_(value.value());
      value = ag::Var(place);
    }
    count_.add_(one_);
    return scores;
  }

  Decoder& decoder_;
  Device& device_;
  std::shared_ptr<BlockPool> memory_;
  StepInputs inputs_;
  std::size_t sent_;
  Tensor token_;
  Tensor count_, one_;  // f64, since devices add floats
  layers::StretchTensors told_;
  Index capacity_ = 0;
  bool warm_ = false;
  std::map<std::string, Tensor> kept_;  // buffers of states that a step makes elsewhere
  std::optional<Graph> graph_;
  Tensor scores_;
};

Decoder::Decoder(layers::Model& model, Index rows, bool graphs)
    : model_(model), rows_(rows), graphs_(graphs) {
  model_.parameters().keep_copies();
  model_.parameters().refresh_copies();
}
Decoder::~Decoder() = default;

Tensor Decoder::run(const Tensor& tokens, const layers::SeqOptions& options) {
  const ag::NoGrad no_grad;
  const Index n = tokens.size(1);
  layers::SeqContext seq(rows_, n, options);
  const Tensor h = model_.hidden({tokens, {}}, seq).value();
  state_ = std::move(seq.outgoing());
  return model_.logits(ag::Var(h.select(1, n - 1).contiguous())).value();
}

Tensor Decoder::feed(const Tensor& tokens, const parallel::Mesh& mesh) {
  if (!mesh.runner()) {
    return feed(tokens);
  }
  LS_CHECK(!recorded_ && tokens.size(1) > 0, kInternal, "a prompt of {} tokens is fed",
           tokens.size(1));
  const ag::NoGrad no_grad;
  Device& device = model_.parameters().device();
  const Index length = tokens.size(1);
  const auto [begin, end] = mesh.tokens(length);
  const layers::StretchPlace place =
      layers::Stretch(rows_, length, {.seen = state_.position}).piece(begin, end).place();
  layers::SeqContext seq(rows_, end - begin,
                         {.incoming = &state_,
                          .seen = &place.seen,
                          .first = place.first,
                          .after = place.after,
                          .length = expected_,
                          .keep_states = true,
                          .runner = mesh.runner()});
  const Tensor own = tokens.slice(1, begin, end).contiguous().to(device);
  const Tensor h = model_.hidden({own, {}}, seq).value();
  state_ = std::move(seq.outgoing());
  fed_ += length;
  // The last rank has the last token, however few there are.
  Communicator& sequence = mesh.sequence();
  const int last = sequence.size() - 1;
  Tensor scores = Tensor::empty({rows_, model_.interface().classes}, h.dtype());
  if (sequence.rank() == last) {
    scores.copy_(
        model_.logits(ag::Var(h.select(1, end - begin - 1).contiguous())).value().to(cpu()));
  }
  sequence.broadcast(scores.raw(), scores.numel(), scores.dtype(), last);
  return scores.to(device);
}

Tensor Decoder::feed(const Tensor& tokens) {
  Device& device = model_.parameters().device();
  const bool single = tokens.size(1) == 1;
  if (recorded_) {
    LS_CHECK(single, kUnsupported, "{} tokens at once after steps of one were recorded",
             tokens.size(1));
    Tensor scores = recorded_->feed(tokens);
    ++fed_;
    return scores;
  }
  std::map<std::string, Shape> before;
  for (const auto& [path, slot] : state_.slots) {
    before.emplace(path, slot.value.shape());
  }
  Tensor scores =
      run(tokens.to(device), {.taken = &state_, .length = expected_, .keep_states = true});
  fed_ += tokens.size(1);
  // A window that is not full yet still grows.
  bool settled = single && &device != &cpu();
  for (const auto& [path, slot] : state_.slots) {
    const auto was = before.find(path);
    settled = settled && was != before.end() && (slot.grows || was->second == slot.value.shape());
  }
  if (settled) {
    recorded_ = std::make_unique<RecordedDecoding>(*this, device);
  }
  return scores;
}

}  // namespace ls::experiments
