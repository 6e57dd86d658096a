// eval and generate on small byte models.
#include <doctest/doctest.h>

#include <csignal>
#include <regex>

#include "tests/e2e/program.h"

using namespace ls;
using testing::Outcome;
using testing::Workplace;

namespace {

void train(const Workplace& w, const std::string& name, const std::string& layers) {
  std::string text;
  for (int i = 0; i < 3000; ++i) {
    text += "the cat sat. ";
  }
  w.write("text.txt", text);
  w.write(name + ".yaml", "name: " + name +
                              "\ntask: {name: bytes, path: text.txt, length: 32, test_windows: 8}\n"
                              "models: [{layers: " +
                              layers + ", width: 32, name: m}]\nsteps: 60\nbatch: 8\nlr: 1e-2\n");
  const Outcome out = w.run({"train", name + ".yaml"});
  INFO(out.text);
  REQUIRE(out.status == 0);
}

std::string checkpoint(const std::string& name) {
  return "runs/" + name + "/m/seed0/checkpoints/step_000000060.h5";
}

/// "1.2 KiB" behind "state " in what generate reports.
std::string state_of(const Outcome& out) {
  const std::size_t at = out.text.rfind("; state ");
  REQUIRE(at != std::string::npos);
  return out.text.substr(at + 8);
}

}  // namespace

TEST_SUITE("e2e") {
  TEST_CASE(
      "generate: choices follow the seed, the state does not grow, output comes as it is made") {
    const Workplace w;
    train(w, "run", "[{name: gated_deltanet, heads: 2, head_dim: 16}]");
    const auto generate = [&](std::vector<std::string> more) {
      more.insert(more.begin(), {"generate", checkpoint("run")});
      const Outcome out = w.run(more);
      INFO(out.text);
      CHECK(out.status == 0);
      return out;
    };
    const std::vector<std::string> base = {"--prompt", "the cat", "--tokens", "40", "-q"};
    const auto with = [&](const std::vector<std::string>& more) {
      std::vector<std::string> all = base;
      all.insert(all.end(), more.begin(), more.end());
      return generate(all).text;
    };
    const std::string greedy = with({"--temperature", "0"});
    CHECK(greedy.substr(0, 7) == "the cat");
    CHECK(greedy.size() == 7 + 40 + 1);
    CHECK(greedy.find("cat sat. the cat sat.") != std::string::npos);  // it has learnt the text
    CHECK(with({"--top-k", "1", "--seed", "5"}) == greedy);
    CHECK(with({"--top-p", "0", "--seed", "5"}) == greedy);
    CHECK(with({"--temperature", "3", "--seed", "1"}) ==
          with({"--temperature", "3", "--seed", "1"}));
    CHECK(with({"--temperature", "3", "--seed", "1"}) !=
          with({"--temperature", "3", "--seed", "2"}));
    w.write("prompt.txt", "the cat");
    CHECK(generate({"--prompt-file", "prompt.txt", "--tokens", "40", "-q", "--temperature", "0"})
              .text == greedy);
    const Outcome piped = w.shell("printf 'the cat' | $longscan generate " + checkpoint("run") +
                                  " --prompt-file - --tokens 40 -q --temperature 0");
    CHECK(piped.text == greedy);

    CHECK(state_of(generate({"--tokens", "4"})) == state_of(generate({"--tokens", "400"})));
    const Outcome cut = w.run({"generate", checkpoint("run"), "--tokens", "100000000"},
                              {.signal = SIGTERM, .signal_when = "output.txt"});
    CHECK(cut.status == 128 + SIGTERM);
    CHECK(!cut.text.empty());

    const auto refused = [&](const std::vector<std::string>& more, const std::string& wanted) {
      std::vector<std::string> all = {"generate", checkpoint("run")};
      all.insert(all.end(), more.begin(), more.end());
      const Outcome out = w.run(all);
      INFO(out.text);
      CHECK(out.status > 0);
      CHECK(out.text.find(wanted) != std::string::npos);
    };
    refused({"--prompt-file", "none.txt"}, "No such file");
    refused({"--prompt-file", "."}, "cannot be read");
    refused({"--prompt", "a", "--prompt-file", "prompt.txt"}, "--prompt");
    refused({"--temperature", "-1"}, "--temperature");
    refused({"--top-p", "1.5"}, "--top-p");
    refused({"--tokens", "many"}, "--tokens");
    const Outcome full =
        w.run({"generate", checkpoint("run"), "--tokens", "4", "-q"}, {.full_output = true});
    CHECK(full.status == 1);
  }

  TEST_CASE("generate: attention's state grows with what it has read") {
    const Workplace w;
    train(w, "run", "[{name: attention, heads: 2, head_dim: 16}]");
    const auto state = [&](const char* tokens) {
      return state_of(w.run({"generate", checkpoint("run"), "--tokens", tokens}));
    };
    CHECK(state("4") != state("400"));
  }

  TEST_CASE("eval: what training reported, another split of the text, one line of JSON") {
    const Workplace w;
    train(w, "run", "[{name: gated_deltanet, heads: 2, head_dim: 16}]");
    const std::vector<double> trained =
        testing::numbers(w.read("runs/run/m/seed0/metrics.jsonl"), "bpb");
    REQUIRE(trained.size() == 1);
    const Outcome out = w.run({"eval", checkpoint("run"), "--json"});
    INFO(out.text);
    REQUIRE(out.status == 0);
    CHECK(testing::numbers(out.text, "bpb") == trained);
    const Outcome longer =
        w.run({"eval", checkpoint("run"), "--set", "task.test_lengths=[64, 128]"});
    INFO(longer.text);
    CHECK(longer.status == 0);
    CHECK(longer.text.find("T128") != std::string::npos);
    const Outcome wrong = w.run({"eval", checkpoint("run"), "--set", "task.lengths=3"});
    CHECK(wrong.status == 1);
    CHECK(wrong.text.find("lengths") != std::string::npos);
  }

  TEST_CASE("list, describe, info and --version") {
    const Workplace w;
    for (const char* kind :
         {"mixers", "ops", "families", "tasks", "optimizers", "schedules", "channels"}) {
      const Outcome out = w.run({"list", kind});
      CHECK(out.status == 0);
      CHECK(out.text.size() > 60);
    }
    const std::string all = w.run({"list"}).text;
    for (const char* name : {"gated_deltanet", "attention", "mqar", "bytes", "adamw", "sgd",
                             "cosine", "wsd", "constant", "delta_rule"}) {
      CAPTURE(name);
      CHECK(all.find(name) != std::string::npos);
    }
    for (const char* mixer : {"attention", "linear_attn", "retnet", "simple_gla", "deltanet",
                              "gated_deltanet", "lstm"}) {
      const Outcome out = w.run({"describe", mixer, "--width", "64", "--tokens", "1"});
      INFO(out.text);
      CHECK(out.status == 0);
      // Equation, source with its year, whose defaults; family and state.
      for (const char* part : {" = ", "defaults of ", "fields", "parameters", "family", "carries",
                               "matrix", "vector", "conv", "kv", "buffers"}) {
        INFO(std::string(part));
        CHECK(out.text.find(part) != std::string::npos);
      }
      CHECK(std::regex_search(out.text, std::regex("\\(.* (19|20)[0-9]{2}")));
    }
    const std::string delta = w.run({"describe", "deltanet", "--tokens", "5"}).text;
    INFO(delta);
    CHECK(delta.find("S [HV,Dk,Dv]") != std::string::npos);
    CHECK(delta.find("S [4, 64, 64] f32") != std::string::npos);
    CHECK(w.run({"--version"}).text.find("longscan ") == 0);
    CHECK(w.run({"info"}).text.find("compiler") != std::string::npos);
    CHECK(w.run({"config"}).text.find("seeds") != std::string::npos);
  }
}
