#include "layers/model.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "autograd/call.h"
#include "autograd/functional.h"
#include "autograd/recompute.h"
#include "autograd/remake.h"
#include "autograd/tape.h"
#include "core/ops/embedding/embedding.h"
#include "core/ops/linear/linear.h"
#include "core/ops/linear_cross_entropy/linear_cross_entropy.h"

namespace ls::layers {

// A block hands its sum on unadded: `residual` plus `update`, which the next norm adds and
// normalises in one pass.
struct Model::BlockParts {
  std::string path;
  Norm mixer_norm, channel_norm;
  std::unique_ptr<TokenMixer> mixer;
  std::unique_ptr<ChannelMixer> channel;
  Remake remake = Remake::kNone;

  struct Stream {
    ag::Var residual, update;  // update is undefined before the first block
  };
  Stream forward(const Stream& in, SeqContext& seq) {
    const SeqContext::Layer layer(seq, path);
    Stream out = half(mixer_norm, in, [&](const ag::Var& x) {
      const SeqContext::Layer inner(seq, "mixer");
      return mixer->forward(x, seq);
    });
    if (channel->present()) {
      out = half(channel_norm, out, [&](const ag::Var& x) {
        const SeqContext::Layer inner(seq, "channel");
        return channel->forward(x, seq);
      });
    }
    return out;
  }
  /// The same as one node that runs again in the backward pass.
  static Stream run_again(const std::shared_ptr<BlockParts>& block, const Stream& stream,
                          SeqContext& seq);

 private:
  template <class Fn>
  Stream half(const Norm& norm, const Stream& in, Fn&& mix) const {
    if (remake == Remake::kNone) {
      return sum_and_mix(norm, in, mix);
    }
    ag::Remaking remaking(remake);
    Stream out = sum_and_mix(norm, in, mix);
    remaking.done();
    return out;
  }
  template <class Fn>
  static Stream sum_and_mix(const Norm& norm, const Stream& in, Fn& mix) {
    if (!in.update.defined()) {
      return {in.residual, mix(norm(in.residual))};
    }
    const Norm::Added a = norm.add(in.residual, in.update);
    return {a.sum, mix(a.normed)};
  }
};

// A block as one node: its stream, what layers handed on before it and the loss that they added go
// in, the same after it come out.
Model::BlockParts::Stream Model::BlockParts::run_again(const std::shared_ptr<BlockParts>& block,
                                                       const Stream& stream, SeqContext& seq) {
  const SeqContext::Between before = seq.exchange_between({});
  std::vector<ag::Var> inputs = {stream.residual, stream.update, before.loss};
  std::vector<std::string> names;
  for (const auto& [name, value] : before.handed) {
    names.push_back(name);
    inputs.push_back(value);
  }
  const auto after = std::make_shared<std::vector<std::string>>();  // names after the block
  const auto run = [block, context = &seq, names, after,
                    again = std::make_shared<bool>(false)](const std::vector<ag::Var>& in) {
    std::optional<SeqContext::Replay> guard;
    if (std::exchange(*again, true)) {
      guard.emplace(*context);
    }
    SeqContext::Between between{.handed = {}, .loss = in[2]};
    for (std::size_t i = 0; i < names.size(); ++i) {
      between.handed.emplace(names[i], in[3 + i]);
    }
    SeqContext::Between outer = context->exchange_between(std::move(between));
    const auto s = block->forward({in[0], in[1]}, *context);
    between = context->exchange_between(std::move(outer));
    std::vector<ag::Var> out = {s.residual, s.update, between.loss};
    after->clear();
    for (const auto& [name, value] : between.handed) {
      after->push_back(name);
      out.push_back(value);
    }
    return out;
  };
  const std::vector<ag::Var> out = ag::recompute(run, inputs);
  SeqContext::Between between{.handed = {}, .loss = out[2]};
  for (std::size_t i = 0; i < after->size(); ++i) {
    between.handed.emplace((*after)[i], out[3 + i]);
  }
  seq.exchange_between(std::move(between));
  return {out[0], out[1]};
}

Model::Model(const ModelConfig& config, const ModelInterface& io, std::uint64_t seed)
    : config_(config), io_(io), dtype_(config.dtype) {
  LS_CHECK(!config.tie_embeddings || (io.vocab_in == io.classes && !io.class_embeddings.defined()),
           kConfig,
           "tie_embeddings needs inputs and outputs over one vocabulary; the task has {} inputs "
           "and {} classes",
           io.vocab_in, io.classes);
  const DType master = acc_dtype(dtype_);
  const Scope root(parameters_, seed, master);
  const Init normal = Init::normal(config.init_std);
  const Index d = config.width;
  if (io.vocab_in > 0) {
    embedding_ = root.child("embedding").param("weight", {io.vocab_in, d}, normal);
  } else {
    input_ = Linear(root.child("input"), io.vector_width, d, normal);
  }
  const auto kinds = std::make_shared<std::vector<std::set<std::string>>>();
  for (const Component<TokenMixer>& mixer : config.layers) {
    kinds->push_back(kinds_of(mixer));
  }
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    auto block = std::make_shared<BlockParts>();
    block->path = "blocks." + std::to_string(i);
    if (!config.recompute) {
      const bool products =
          static_cast<Index>(i) < config.remake_products.value_or(std::ssize(config.layers));
      block->remake =
          config.remake == Remake::kProducts && !products ? Remake::kOutputs : config.remake;
    }
    const ErrorContext context("building " + block->path + " (" + config.layers[i].name() + ")");
    const Scope scope = root.child(block->path);
    block->mixer_norm = Norm(scope.child("mixer_norm"), config.norm, d, config.norm_eps);
    MixerArgs args{.scope = scope.child("mixer"),
                   .width = d,
                   .layer = static_cast<Index>(i),
                   .depth = static_cast<Index>(config.layers.size()),
                   .blocks = kinds,
                   .init_std = config.init_std,
                   .norm_eps = config.norm_eps};
    args.set_kind(config.layers[i].name());
    block->mixer = config.layers[i].make(args);
    block->channel =
        config.channel.make(ChannelArgs{.scope = scope.child("channel"),
                                        .width = d,
                                        .layer = static_cast<Index>(i),
                                        .depth = static_cast<Index>(config.layers.size()),
                                        .init_std = config.init_std});
    if (block->channel->present()) {
      block->channel_norm = Norm(scope.child("channel_norm"), config.norm, d, config.norm_eps);
    }
    blocks_.push_back(std::move(block));
  }
  final_norm_ = Norm(root.child("norm"), config.norm, d, config.norm_eps);
  if (io.class_embeddings.defined()) {
    output_ = Linear(root.child("output"), d, io.class_embeddings.size(1), normal);
    head_ = parameters_.add_constant(io.class_embeddings.to(master));
  } else if (!config.tie_embeddings) {
    head_ = root.child("head").param("weight", {io.classes, d}, normal);
  }
}

bool Model::causal() const {
  return std::ranges::all_of(config_.layers, [](const Component<TokenMixer>& layer) {
    return TokenMixer::registry().traits(layer.name()).causal;
  });
}

ag::Var Model::head_weight() const {
  return ag::cast(head_.defined() ? head_ : embedding_, dtype_);
}

void Model::learn_first_states() {
  for (const auto& [path, slot] : state_after(1).slots) {
    if (slot.part != StatePart::kKeyValue && !slot.given) {
      Tensor zeros = Tensor::zeros(slot.value.shape(), slot.value.dtype());
      learned_.emplace(path, parameters_.add("first_states." + path, zeros, false));
    }
  }
}

ag::Var Model::hidden(const ModelInput& input, SeqContext& seq) {
  if (learned_.empty()) {
    return run(input, seq);
  }
  const ag::Hold hold = parameters_.hold("first_states");
  seq.set_learned(&learned_);
  return run(input, seq);
}

ag::Var Model::run(const ModelInput& input, SeqContext& seq) {
  seq.set_device(parameters_.device());
  BlockParts::Stream stream;
  if (io_.vocab_in > 0) {
    LS_CHECK(input.tokens.defined(), kShape, "this model takes tokens");
    const ag::Hold hold = parameters_.hold("embedding");
    stream.residual = ag::cast(
        ag::call<ops::Embedding>({.weight = embedding_, .ids = ag::Var(input.tokens)}).y, dtype_);
  } else {
    LS_CHECK(input.vectors.defined(), kShape, "this model takes vectors");
    const ag::Hold hold = parameters_.hold("input");
    stream.residual = input_(ag::Var(input.vectors.to(dtype_)));
  }
  for (const std::shared_ptr<BlockParts>& block : blocks_) {
    const ag::Hold hold = parameters_.hold(block->path);
    if (!config_.recompute || !ag::grad_enabled()) {
      stream = block->forward(stream, seq);
      continue;
    }
    // The block runs once now and once in the backward pass, on the same context. Carried states
    // are no inputs of it, so no gradient reaches them.
    LS_CHECK(!seq.states_need_grad(), kConfig,
             "recompute: gradients do not flow through carried states; detach them or set "
             "recompute: false");
    stream = BlockParts::run_again(block, stream, seq);
  }
  const ag::Var h = [&] {
    const ag::Hold hold = parameters_.hold("norm");
    return final_norm_.add(stream.residual, stream.update).normed;
  }();
  const ag::Hold hold = parameters_.hold("output");
  return io_.class_embeddings.defined() ? output_(h) : h;
}

ag::Hold Model::hold_head(ag::GradientHold gradients) const {
  return head_.defined() ? parameters_.hold("head", gradients)
                         : parameters_.hold("embedding", gradients);
}

ag::Var Model::logits(const ag::Var& hidden) {
  const ag::Hold hold = hold_head(ag::GradientHold::kBackward);
  return ag::call<ops::Linear>({.x = hidden, .weight = head_weight()}).y;
}

Model::Loss Model::loss(const ag::Var& hidden, const Tensor& labels) {
  const Index b = hidden.size(0), t = hidden.size(1);
  // Its gradient is put in its place now, and that of tied weights is added to behind it.
  const ag::Hold hold =
      hold_head(head_.defined() ? ag::GradientHold::kForward : ag::GradientHold::kOn);
  const auto out = ag::call<ops::LinearCrossEntropy>(
      {.x = ag::reshape(hidden, {b * t, hidden.size(2)}),
       .weight = head_weight(),
       .targets = ag::Var(labels.reshape({b * t}))},
      {.gradients = ag::Tape::current() != nullptr && ag::grad_enabled()});
  return {out.loss, out.per_token.value().view({b, t}), out.predicted.value().view({b, t})};
}

std::string model_label(const ModelConfig& config) {
  if (!config.name.empty()) {
    return config.name;
  }
  std::string out;
  for (std::size_t i = 0; i < config.layers.size();) {
    std::size_t j = i;
    while (j < config.layers.size() && config.layers[j].name() == config.layers[i].name()) {
      ++j;
    }
    out += (out.empty() ? "" : "+") + config.layers[i].name() +
           (j - i > 1 ? "x" + std::to_string(j - i) : "");
    i = j;
  }
  return out;
}

ModelState Model::state_after(Index tokens, SeqRunner* runner) {
  const ag::NoGrad no_grad;
  constexpr Index kSegment = 4096;  // so that only states grow with the tokens
  ModelState state;
  Index done = 0;
  do {
    const Index n = runner || !causal() ? tokens : std::min(kSegment, tokens - done);
    SeqContext seq(1, n,
                   {.taken = &state, .length = tokens, .keep_states = true, .runner = runner});
    ModelInput input;
    if (io_.vocab_in > 0) {
      input.tokens = Tensor::zeros({1, n}, DType::kI64, parameters_.device());
    } else {
      input.vectors = Tensor::zeros({1, n, io_.vector_width}, DType::kF32, parameters_.device());
    }
    hidden(input, seq);
    state = std::move(seq.outgoing());
    done += n;
  } while (done < tokens);
  return state;
}

}  // namespace ls::layers
