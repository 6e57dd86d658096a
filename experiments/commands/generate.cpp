#include <fmt/core.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "experiments/commands/command.h"
#include "experiments/decoder.h"
#include "experiments/load.h"
#include "experiments/progress.h"
#include "experiments/sampling.h"
#include "parallel/grad_sync.h"

namespace ls::experiments {
namespace {

class Generate final : public Command {
 public:
  static constexpr int kPlace = 30;
  void options(Options& o) override {
    o("checkpoint", checkpoint_, {.help = "checkpoint of a byte model", .required = true});
    o("--prompt", prompt_, {.help = "text to go on from; a line feed when empty"});
    o("--prompt-file", prompt_file_,
      {.help = "file to go on from; - for standard input", .excludes = "--prompt"});
    o("--tokens", tokens_, {.help = "bytes to write", .min = 0, .max = Index{1} << 40});
    o("--temperature", sampling_.temperature,
      {.help = "0 takes the most likely byte", .min = 0, .max = 1e6});
    o("--top-k", sampling_.top_k,
      {.help = "choose among the k most likely; 0: all", .min = 0, .max = 1 << 20});
    o("--top-p", sampling_.top_p,
      {.help = "choose among the most likely that reach this probability; 0: the most likely",
       .min = 0,
       .max = 1});
    o("--device", device_,
      {.help = "where the model runs: cpu, cuda, cuda:N or auto; empty: as it was trained"});
    o("--seed", seed_, {.help = "of the choices", .min = 0, .max = Index{1} << 62});
    o("-q,--quiet", quiet_, {.help = "no figures on standard error"});
  }
  int run(parallel::RankEnv& env) override;

 private:
  std::string read_prompt() const;

  std::string checkpoint_, prompt_, prompt_file_, device_;
  Index tokens_ = 256, seed_ = 0;
  SamplingOptions sampling_;
  bool quiet_ = false;
};

std::string Generate::read_prompt() const {
  if (prompt_file_.empty()) {
    return prompt_;
  }
  std::FILE* f = prompt_file_ == "-" ? stdin : std::fopen(prompt_file_.c_str(), "rb");
  LS_CHECK(f, kIo, "{}: cannot be opened: {}", prompt_file_, std::strerror(errno));
  std::string text;
  char buffer[1 << 16];
  std::size_t n = 0;
  while ((n = std::fread(buffer, 1, sizeof buffer, f)) > 0) {
    text.append(buffer, n);
  }
  const bool failed = std::ferror(f) != 0;
  const int error = errno;
  if (f != stdin) {
    std::fclose(f);
  }
  LS_CHECK(!failed, kIo, "{}: cannot be read: {}", prompt_file_, std::strerror(error));
  return text;
}

int Generate::run(parallel::RankEnv& env) {
  const bool speaks = env.world().rank() == 0;
  const parallel::Mesh mesh(env.world(), {1, env.world().size()}, "auto");
  const LoadedModel loaded =
      device_.empty() ? load_model(checkpoint_) : load_model(checkpoint_, {"device=" + device_});
  const layers::ModelInterface& io = loaded.model->interface();
  LS_CHECK(io.vocab_in == 256 && io.classes == 256, kUnsupported,
           "{}: generation writes bytes, this model reads {}", checkpoint_,
           io.vocab_in > 0 ? fmt::format("{} tokens of {} classes", io.vocab_in, io.classes)
                           : std::string("vectors"));
  std::string asked = speaks ? read_prompt() : "";
  parallel::broadcast_text(env.world(), asked);
  const std::string prompt = asked.empty() ? "\n" : asked;
  Decoder decoder(*loaded.model, 1, loaded.config.graphs);
  decoder.reserve(std::ssize(prompt) + tokens_);
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  std::vector<float> logits;
  const auto as_row = [](const std::vector<std::int64_t>& bytes) {
    return Tensor::from(bytes, {1, std::ssize(bytes)});
  };
  const std::size_t each = kPrefill * static_cast<std::size_t>(env.world().size());
  for (std::size_t at = 0; at < prompt.size(); at += each) {
    std::vector<std::int64_t> piece;
    for (std::size_t i = at; i < std::min(prompt.size(), at + each); ++i) {
      piece.push_back(static_cast<unsigned char>(prompt[i]));
    }
    logits = decoder.feed(as_row(piece), mesh).to_vector<float>();
  }
  const auto read = Clock::now();
  // Every rank has the state and writes the same; one shows it.
  if (speaks) {
    std::fwrite(prompt.data(), 1, prompt.size(), stdout);
  }
  Rng rng(static_cast<std::uint64_t>(seed_), "generate");
  for (Index i = 0; i < tokens_; ++i) {
    const Index next = sample_token(logits, sampling_, rng);
    if (speaks) {
      std::fputc(static_cast<int>(next), stdout);
      std::fflush(stdout);
    }
    if (i + 1 < tokens_) {
      logits = decoder.feed(as_row({next})).to_vector<float>();
    }
  }
  if (!speaks) {
    return 0;
  }
  std::fputc('\n', stdout);
  if (!quiet_) {
    const std::chrono::duration<double> prefill = read - begin, decode = Clock::now() - read;
    fmt::print(stderr, "prompt {} bytes in {:.3f} s; {} bytes at {:.1f} bytes/s; state {}\n",
               prompt.size(), prefill.count(), tokens_,
               static_cast<double>(tokens_) / decode.count(),
               human_bytes(static_cast<double>(decoder.state().bytes().total())));
  }
  return 0;
}

LS_COMMAND(Generate, "generate", "go on from a prompt, byte by byte, from the model's state");

}  // namespace
}  // namespace ls::experiments
