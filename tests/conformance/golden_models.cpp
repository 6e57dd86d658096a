// Whole models against Hugging Face transformers: weights as they are released, logits, loss and
// gradients in f64, and writing token by token. Skipped where the large golden set is not there.
#include <doctest/doctest.h>

#include <array>
#include <cstring>
#include <fstream>
#include <map>

#include <nlohmann/json.hpp>

#include "autograd/functional.h"
#include "autograd/tape.h"
#include "core/config/yaml.h"
#include "core/io/h5.h"
#include "core/ops/activation/activation.h"
#include "core/ops/cross_entropy/cross_entropy.h"
#include "layers/model.h"
#include "tests/support/paths.h"
#include "tests/support/skip.h"

using namespace ls;
using namespace ls::layers;
using namespace ls::test;

namespace {

/// A model of the set, as a config of ours and by names.
struct GoldenModel {
  std::string folder, yaml;
  /// Parts of a parameter's name in the file, and ours for them, applied in this order. "#n" at the
  /// end: theirs is the n-th part of the rows of ours.
  std::vector<std::pair<std::string, std::string>> names;
  double softcap = 0;  ///< of logits, c tanh(x / c); 0: none
};

/// Parts of names of the two Mambas.
const std::vector<std::pair<std::string, std::string>> kMambaNames = {
    {"backbone.embeddings", "embedding"},
    {"backbone.norm_f", "norm"},
    {"backbone.layers", "blocks"},
    {".norm.", ".mixer_norm."},
    {"A_log", "a_log"},
    {"mixer.D", "mixer.skip"},
    {"conv1d", "conv"},
    {"_proj", ""}};

const GoldenModel kModels[] = {
    {"mamba",
     "{width: 44, layers: [{repeat: 3, of: {name: mamba, state_dim: 8}}], channel: none, "
     "tie_embeddings: true, dtype: f64}",
     kMambaNames},
    {"falcon_mamba",
     "{width: 40, layers: [{repeat: 3, of: {name: mamba, state_dim: 8, norm_inputs: true}}], "
     "channel: none, tie_embeddings: true, dtype: f64}",
     kMambaNames},
    {"llama_rope3",
     "{width: 48, layers: [{repeat: 2, of: {name: attention, heads: 3, head_dim: 16, rope_scaling: "
     "{type: llama3, factor: 8, original_length: 32}}}], channel: {name: swiglu, expand: 1.3, "
     "multiple: 64}, "
     "norm_eps: 1e-6, dtype: f64}",
     {{"model.embed_tokens", "embedding"},
      {"lm_head", "head"},
      {"model.", ""},
      {"layers.", "blocks."},
      {"input_layernorm", "mixer_norm"},
      {"post_attention_layernorm", "channel_norm"},
      {"self_attn", "mixer"},
      {"mlp", "channel"},
      {"gate_proj.weight", "gate_up.weight#0"},
      {"up_proj.weight", "gate_up.weight#1"},
      {"q_proj.weight", "qkv.weight#0"},
      {"k_proj.weight", "qkv.weight#1"},
      {"v_proj.weight", "qkv.weight#2"},
      {"o_proj", "out"},
      {"_proj", ""}}},
    {"mamba2",
     "{width: 40, layers: [{repeat: 3, of: {name: mamba2, head_dim: 16, state_dim: 16}}], channel: "
     "none, dtype: f64}",
     {{"backbone.embeddings", "embedding"},
      {"backbone.norm_f", "norm"},
      {"lm_head", "head"},
      {"mixer.norm", "mixer.out_norm"},
      {"backbone.layers", "blocks"},
      {".norm.", ".mixer_norm."},
      {"A_log", "a_log"},
      {"mixer.D", "mixer.skip"},
      {"conv1d", "conv"},
      {"_proj", ""}}},
    {"xlstm",
     "{width: 48, layers: [{repeat: 2, of: {name: mlstm, heads: 4}}], channel: {name: swiglu, "
     "expand: 1.5, multiple: 8}, norm_eps: 1e-6, dtype: f64}",
     {{"backbone.embeddings", "embedding"},
      {"backbone.out_norm", "norm"},
      {"lm_head", "head"},
      {"backbone.blocks", "blocks"},
      {"norm_mlstm", "mixer_norm"},
      {"norm_ffn", "channel_norm"},
      {"mlstm_layer", "mixer"},
      {"ffn", "channel"},
      {"mixer.q.weight", "mixer.in.weight#0"},
      {"mixer.k.weight", "mixer.in.weight#1"},
      {"mixer.v.weight", "mixer.in.weight#2"},
      {"ogate_preact.weight", "in.weight#3"},
      {"igate_preact.weight", "gate.weight#0"},
      {"fgate_preact.weight", "gate.weight#1"},
      {"igate_preact.bias", "gate.bias#0"},
      {"fgate_preact.bias", "gate.bias#1"},
      {"multihead_norm", "out_norm"},
      {"proj_up_gate.weight", "gate_up.weight#0"},
      {"proj_up.weight", "gate_up.weight#1"},
      {"proj_down", "down"},
      {"_proj", ""}},
     6}};

std::string renamed(std::string name, const GoldenModel& model) {
  for (const auto& [theirs, ours] : model.names) {
    if (const auto at = name.find(theirs); at != std::string::npos) {
      name.replace(at, theirs.size(), ours);
    }
  }
  return name;
}

using Named = std::map<std::string, Tensor>;

/// Which rows of which parameter each tensor of a file is.
class Places {
 public:
  Places(Model& model, const GoldenModel& golden, const Named& file) {
    std::map<std::string, std::map<std::string, std::string>> parts;  // ours, "#n", theirs
    for (const auto& [theirs, value] : file) {
      const std::string ours = renamed(theirs, golden);
      const std::size_t cut = std::min(ours.find('#'), ours.size());
      parts[ours.substr(0, cut)][ours.substr(cut)] = theirs;
    }
    for (const auto& [ours, of] : parts) {
      const ag::Parameter* const p = model.parameters().find(ours);
      REQUIRE_MESSAGE(p, ours);
      Index first = 0;
      for (const auto& [part, theirs] : of) {
        const Index end = part.empty() ? p->var.shape()[0] : first + file.at(theirs).size(0);
        places_[theirs] = {&p->var, first, end};
        first = end;
      }
      REQUIRE_MESSAGE((of.size() == 1 || first == p->var.shape()[0]), ours);
    }
    REQUIRE(parts.size() == model.parameters().items().size());
  }
  Tensor value(const std::string& theirs) const { return rows(theirs, var(theirs).value()); }
  Tensor gradient(const std::string& theirs) const { return rows(theirs, var(theirs).grad()); }
  std::size_t size() const { return places_.size(); }

 private:
  struct Place {
    const ag::Var* var;
    Index first, end;
  };
  const ag::Var& var(const std::string& theirs) const { return *places_.at(theirs).var; }
  Tensor rows(const std::string& theirs, const Tensor& whole) const {
    return whole.slice(0, places_.at(theirs).first, places_.at(theirs).end);
  }
  std::map<std::string, Place> places_;
};

/// The f32 tensors of a safetensors file, as f64: the length of a JSON header, the header, bytes.
Named read_safetensors(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::array<unsigned char, 8> prefix{};
  file.read(reinterpret_cast<char*>(prefix.data()), prefix.size());
  std::size_t length = 0;
  for (std::size_t i = prefix.size(); i-- > 0;) {
    length = length << 8U | prefix[i];
  }
  std::string header(length, ' ');
  file.read(header.data(), static_cast<std::streamsize>(length));
  const auto entries = nlohmann::json::parse(header);
  Named out;
  for (const auto& [name, entry] : entries.items()) {
    if (name == "__metadata__") {
      continue;
    }
    REQUIRE_MESSAGE(entry.at("dtype") == "F32", name);
    Shape shape;
    for (const Index extent : entry.at("shape").get<std::vector<Index>>()) {
      shape.push_back(extent);
    }
    Tensor value = Tensor::empty(shape, DType::kF32);
    file.seekg(static_cast<std::streamoff>(8 + length +
                                           entry.at("data_offsets").at(0).get<std::size_t>()));
    file.read(static_cast<char*>(value.raw()), value.numel() * Index{sizeof(float)});
    REQUIRE_MESSAGE(file.good(), path);
    out[name] = value.to(DType::kF64);
  }
  return out;
}

/// Largest difference over the largest element.
double error(const Tensor& got, const Tensor& want) {
  REQUIRE(got.numel() == want.numel());
  double most = 0, size = 0;
  for (Index i = 0; i < want.numel(); ++i) {
    most = std::max(most, std::abs(got.slow_at(i) - want.slow_at(i)));
    size = std::max(size, std::abs(want.slow_at(i)));
  }
  return size > 0 ? most / size : most;
}

/// Next tokens; the last position has none.
Tensor labels_of(const Tensor& ids) {
  Tensor labels = Tensor::full(ids.shape(), DType::kI64, -100);
  labels.slice(1, 0, ids.size(1) - 1).copy_(ids.slice(1, 1, ids.size(1)));
  return labels;
}

ag::Var logits_of(Model& model, const GoldenModel& golden, const ag::Var& hidden) {
  const ag::Var u = model.logits(hidden);
  if (golden.softcap == 0) {
    return u;
  }
  return ag::scale(ag::call<ops::Activation>({.x = ag::scale(u, 1 / golden.softcap)},
                                             {.activation = ops::Act::kTanh})
                       .y,
                   golden.softcap);
}

/// The mean; where the model has no cap, as it trains.
ag::Var loss_of(Model& model, const GoldenModel& golden, const ag::Var& hidden,
                const Tensor& labels) {
  if (golden.softcap == 0) {
    const auto labelled = static_cast<double>(labels.numel() - labels.size(0));
    return ag::scale(model.loss(hidden, labels).sum, 1 / labelled);
  }
  return ag::call<ops::CrossEntropy>({.logits = model.logits(hidden), .targets = ag::Var(labels)},
                                     {.softcap = golden.softcap})
      .loss;
}

void check_whole(Model& model, const GoldenModel& golden, const Places& places,
                 const h5::File& file) {
  const double rtol = file.number("/", "rtol"), rtol_logits = file.number("/", "rtol_logits");
  const Tensor ids = file.read("inputs/input_ids");
  SeqContext seq(ids.size(0), ids.size(1), {});
  ag::Tape tape;
  const ag::Var hidden = model.hidden({ids, {}}, seq);
  CHECK(error(logits_of(model, golden, hidden).value(), file.read("outputs/logits")) < rtol_logits);
  const ag::Var loss = loss_of(model, golden, hidden, labels_of(ids));
  CHECK(error(loss.value(), file.read("outputs/loss")) < rtol_logits);
  tape.backward(loss);
  std::size_t count = 0;
  for (const std::string& name : file.children("grads")) {
    CHECK_MESSAGE(error(places.gradient(name), file.read("grads/" + name)) < rtol, name);
    ++count;
  }
  CHECK(count == places.size());
}

void check_decoding(Model& model, const GoldenModel& golden, const h5::File& file) {
  const ag::NoGrad no_grad;
  const Tensor ids = file.read("inputs/input_ids"), want = file.read("outputs/logits");
  ModelState state;
  double worst = 0;
  for (Index t = 0; t < ids.size(1); ++t) {
    SeqContext seq(ids.size(0), 1, {.incoming = t > 0 ? &state : nullptr, .keep_states = true});
    const ag::Var hidden = model.hidden({ids.slice(1, t, t + 1).contiguous(), {}}, seq);
    const Tensor logits = logits_of(model, golden, hidden).value();
    worst = std::max(worst, error(logits, want.slice(1, t, t + 1).contiguous()));
    state = seq.outgoing();
  }
  CHECK(worst < file.number("/", "rtol_logits"));
}

}  // namespace

TEST_SUITE("conformance") {
  TEST_CASE("golden models") {
    const std::string large = large_golden_dir();
    if (large.empty()) {
      skipped(
          "the large set of golden files is not beside the checkout (LONGSCAN_GOLDEN names it)");
      return;
    }
    for (const GoldenModel& golden : kModels) {
      SUBCASE(golden.folder.c_str()) {
        const std::string folder = large + "/models/" + golden.folder;
        const h5::File file = h5::File::open(folder + "/golden.h5");
        const Index vocab = file.read("outputs/logits").size(2);
        Model model(read_config_text<ModelConfig>(golden.yaml),
                    {.vocab_in = vocab, .classes = vocab}, 1);
        const Named weights = read_safetensors(folder + "/model.safetensors");
        const Places places(model, golden, weights);
        for (const auto& [name, value] : weights) {
          Tensor to = places.value(name);
          to.copy_(value.reshape(to.shape()));
        }
        check_whole(model, golden, places, file);
        check_decoding(model, golden, file);
      }
    }
  }
}
