#pragma once
// The one model skeleton: input, blocks of (norm, token mixer, norm, channel mixer), norm, head.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/op/remade.h"
#include "layers/channel/channel.h"
#include "layers/limits.h"
#include "layers/mixers/mixer.h"

namespace ls::layers {

/// What the task decides.
struct ModelInterface {
  Index vocab_in = 0;      ///< token inputs; 0 when inputs are vectors
  Index vector_width = 0;  ///< vector inputs [B,T,E]
  Index classes = 0;       ///< outputs
  /// Frozen [classes, E] embeddings that outputs of width E are compared with; undefined: the head
  /// has weights of its own.
  Tensor class_embeddings;
};

struct ModelConfig {
  std::string name;
  Index width = 128;
  std::vector<Component<TokenMixer>> layers = {Component<TokenMixer>("attention")};
  Component<ChannelMixer> channel{"swiglu"};
  NormKind norm = NormKind::kRms;
  double norm_eps = 1e-5;
  bool tie_embeddings = false;
  double init_std = 0.02;
  DType dtype = DType::kF32;
  bool recompute = false;
  Remake remake = Remake::kNone;
  std::optional<Index> remake_products;

  template <class F>
  void fields(F& f) {
    f("name", name,
      {.help = "name of the model in tables and files; by default its mixers' names"});
    f("width", width, {.help = "channels of the residual stream", .min = 1, .max = kMaxWidth});
    f("layers", layers,
      {.help = "token mixers from first to last, e.g. [{repeat: 3, of: [gated_deltanet, "
               "attention]}]",
       .min_size = 1});
    f("channel", channel, {.help = "channel mixer of every block"});
    f("norm", norm, {.help = "norm before each half of a block and before the head"});
    f("norm_eps", norm_eps, {.help = "added inside the root of norms", .above = 0});
    f("tie_embeddings", tie_embeddings, {.help = "the head uses the input embedding's weights"});
    f("init_std", init_std, {.help = "standard deviation of first weights", .above = 0});
    f("dtype", dtype,
      {.help = "element type of activations and products; parameters and states stay f32",
       .allowed = {DType::kF32, DType::kBF16, DType::kF64}});
    f("recompute", recompute,
      {.help = "keep only block inputs and recompute blocks in the backward pass; no gradients "
               "through carried states"});
    f("remake", remake,
      {.help = "do not keep what the backward pass can make again: outputs of norms, convolutions "
               "and activations, or of products too; the bits are those of kept ones"});
    f("remake_products", remake_products,
      {.help = "with remake: products, the number of blocks, the first ones, whose products are "
               "made again; by default all",
       .min = 0});
    f.check(!recompute || remake == Remake::kNone, "remake",
            "is for blocks that are kept: with recompute: true nothing of a block is; leave one of "
            "them out");
  }
};

/// Tokens i32/i64 [B,T] or vectors [B,T,E].
struct ModelInput {
  Tensor tokens, vectors;
};

/// The config's name, else from the layer list: "gated_deltanetx3+attention".
std::string model_label(const ModelConfig& config);

class Model {
 public:
  Model(const ModelConfig& config, const ModelInterface& io, std::uint64_t seed);

  /// From now on every document starts from states that are parameters, zero at first, one for each
  /// slot but keys and values, where its mixer does not say what it starts from. Before the
  /// parameters are moved or made flat.
  void learn_first_states();
  /// Hidden states after the last norm, [B,T,D] (or [B,T,E] with class embeddings), in the model's
  /// type. With `recompute` and a tape, `seq` is used again in the backward pass and must outlive
  /// it.
  /// @throws Error(Shape) when the input is of the other kind or does not fit `seq`
  ag::Var hidden(const ModelInput& input, SeqContext& seq);
  /// Logits of hidden states [...,D] -> [...,classes], for generation.
  ag::Var logits(const ag::Var& hidden);
  struct Loss {
    ag::Var sum;       ///< over labelled positions
    Tensor per_token;  ///< f32 [B,T]; 0 where unlabelled
    Tensor predicted;  ///< i64 [B,T]: most likely class; -100 where unlabelled
  };
  /// Cross-entropy against labels i64 [B,T], -100 ignored; logits are never held whole. Of flat
  /// parameters the gradient of the head's weight is there when this returns: `sum` is given the
  /// gradient 1.
  Loss loss(const ag::Var& hidden, const Tensor& labels);

  ag::ParameterSet& parameters() { return parameters_; }
  const ag::ParameterSet& parameters() const { return parameters_; }
  const ModelConfig& config() const { return config_; }
  const ModelInterface& interface() const { return io_; }
  DType dtype() const { return dtype_; }
  /// No output depends on later inputs, by what its mixers say of themselves.
  bool causal() const;
  std::string label() const { return model_label(config_); }

  /// Bytes of state per sequence after `tokens` tokens, from the buffers of a real forward pass.
  StateBytes measure_state(Index tokens) { return state_after(tokens).bytes(); }
  /// That state, of one sequence of zeros. `runner`, when given, runs the scans.
  ModelState state_after(Index tokens, SeqRunner* runner = nullptr);

 private:
  struct BlockParts;
  ag::Var head_weight() const;
  ag::Var run(const ModelInput& input, SeqContext& seq);
  ag::Hold hold_head(ag::GradientHold gradients) const;

  ModelConfig config_;
  ModelInterface io_;
  DType dtype_;
  ag::ParameterSet parameters_;
  ag::Var embedding_, head_;
  Linear input_, output_;
  std::vector<std::shared_ptr<BlockParts>> blocks_;
  Norm final_norm_;
  std::map<std::string, ag::Var> learned_;  // first states by slot
};

}  // namespace ls::layers
