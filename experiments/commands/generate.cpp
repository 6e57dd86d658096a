#include <fmt/core.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "autograd/tape.h"
#include "experiments/commands/command.h"
#include "experiments/load.h"
#include "experiments/progress.h"
#include "experiments/sampling.h"

namespace ls::experiments {
namespace {

constexpr Index kPrefill = 1024;  // tokens per forward pass over the prompt

struct Options {
  std::string checkpoint, prompt, prompt_file;
  Index tokens = 256;
  Index seed = 0;
  SamplingOptions sampling;
  bool quiet = false;
};

std::string read_prompt(const Options& o) {
  if (o.prompt_file.empty()) {
    return o.prompt;
  }
  std::FILE* f = o.prompt_file == "-" ? stdin : std::fopen(o.prompt_file.c_str(), "rb");
  LS_CHECK(f, kIo, "{}: cannot be opened: {}", o.prompt_file, std::strerror(errno));
  std::string text;
  char buffer[1 << 16];
  for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, f)) > 0;) {
    text.append(buffer, n);
  }
  const bool failed = std::ferror(f) != 0;
  const int error = errno;
  if (f != stdin) {
    std::fclose(f);
  }
  LS_CHECK(!failed, kIo, "{}: cannot be read: {}", o.prompt_file, std::strerror(error));
  return text;
}

/// The model with its state between calls.
class Decoder {
 public:
  explicit Decoder(layers::Model& model) : model_(model) {}
  /// Feeds tokens; returns the scores of the token after the last.
  std::vector<float> feed(const std::vector<std::int64_t>& tokens) {
    const auto n = static_cast<Index>(tokens.size());
    layers::SeqContext seq(1, n, {.incoming = started_ ? &state_ : nullptr, .keep_states = true});
    const ag::Var h = model_.hidden({Tensor::from(tokens, {1, n}), {}}, seq);
    state_ = std::move(seq.outgoing());
    started_ = true;
    return model_.logits(ag::Var(h.value().slice(1, n - 1, n).contiguous()))
        .value()
        .to_vector<float>();
  }
  const layers::ModelState& state() const { return state_; }

 private:
  layers::Model& model_;
  layers::ModelState state_;
  bool started_ = false;
};

int generate(const Options& o) {
  const LoadedModel loaded = load_model(o.checkpoint);
  LS_CHECK(loaded.task->info().vocab_in == 256, kUnsupported,
           "{}: generation writes bytes, this model reads {}", o.checkpoint,
           loaded.task->info().vocab_in > 0 ? fmt::format("{} tokens", loaded.task->info().vocab_in)
                                            : std::string("vectors"));
  const ag::NoGrad no_grad;
  const std::string asked = read_prompt(o);
  const std::string prompt = asked.empty() ? "\n" : asked;
  Decoder decoder(*loaded.model);
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  std::vector<float> logits;
  for (std::size_t at = 0; at < prompt.size(); at += kPrefill) {
    std::vector<std::int64_t> piece;
    for (std::size_t i = at; i < std::min(prompt.size(), at + kPrefill); ++i) {
      piece.push_back(static_cast<unsigned char>(prompt[i]));
    }
    logits = decoder.feed(piece);
  }
  const auto read = Clock::now();
  std::fwrite(prompt.data(), 1, prompt.size(), stdout);
  Rng rng(static_cast<std::uint64_t>(o.seed), "generate");
  for (Index i = 0; i < o.tokens; ++i) {
    const Index next = sample_token(logits, o.sampling, rng);
    std::fputc(static_cast<int>(next), stdout);
    std::fflush(stdout);
    if (i + 1 < o.tokens) {
      logits = decoder.feed({next});
    }
  }
  std::fputc('\n', stdout);
  if (!o.quiet) {
    const std::chrono::duration<double> prefill = read - begin, decode = Clock::now() - read;
    fmt::print(stderr, "prompt {} bytes in {:.3f} s; {} bytes at {:.1f} bytes/s; state {}\n",
               prompt.size(), prefill.count(), o.tokens,
               static_cast<double>(o.tokens) / decode.count(),
               human_bytes(static_cast<double>(decoder.state().bytes().total())));
  }
  return 0;
}

Action setup(CLI::App& app) {
  auto o = std::make_shared<Options>();
  app.add_option("checkpoint", o->checkpoint, "checkpoint of a byte model")->required();
  auto* const text =
      app.add_option("--prompt", o->prompt, "text to go on from; a line feed when empty");
  app.add_option("--prompt-file", o->prompt_file, "file to go on from; - for standard input")
      ->excludes(text);
  app.add_option("--tokens", o->tokens, "bytes to write")
      ->check(CLI::Range(Index{0}, Index{1} << 40));
  app.add_option("--temperature", o->sampling.temperature, "0 takes the most likely byte")
      ->check(number_between(0, 1e6));
  app.add_option("--top-k", o->sampling.top_k, "choose among the k most likely; 0: all")
      ->check(CLI::Range(Index{0}, Index{1} << 20));
  app.add_option("--top-p", o->sampling.top_p,
                 "choose among the most likely that reach this probability; 0: the most likely")
      ->check(number_between(0, 1));
  app.add_option("--seed", o->seed, "of the choices")->check(CLI::Range(Index{0}, Index{1} << 62));
  app.add_flag("-q,--quiet", o->quiet, "no figures on standard error");
  return [o](parallel::RankEnv& env) {
    LS_CHECK(env.world().size() == 1, kConfig, "generate runs on one rank, not {}",
             env.world().size());
    return generate(*o);
  };
}
LS_COMMAND(generate,
           {"generate", "go on from a prompt, byte by byte, from the model's state", 30, setup});

}  // namespace
}  // namespace ls::experiments
