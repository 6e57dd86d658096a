// Evaluation at any length: in segments, within limits, and what is seen of states.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <set>

#include "autograd/tape.h"
#include "core/base/profile.h"
#include "core/comm/thread_comm.h"
#include "core/config/yaml.h"
#include "experiments/lengths_report.h"
#include "experiments/model_io.h"
#include "experiments/needs.h"
#include "experiments/progress.h"
#include "experiments/state_metrics.h"
#include "tests/support/errors.h"
#include "tests/support/mixer_laws.h"
#include "tests/support/stand_in.h"
#include "tests/support/state_runs.h"

namespace ls::experiments {
namespace {

using test::message;
using test::says;

constexpr Index kVocab = 11;
constexpr Needs kEndless{INFINITY, INFINITY};

data::Batch batch_of(Index rows, Index length, bool documents = false) {
  data::Batch b;
  b.rows = b.global_rows = rows;
  b.length = length;
  std::vector<std::int64_t> tokens, labels;
  for (Index i = 0; i < rows * length; ++i) {
    tokens.push_back((3 * i + i * i / 7) % kVocab);
    labels.push_back(i % 5 == 0 ? data::kIgnore : (tokens.back() + i) % kVocab);
  }
  b.tokens = Tensor::from(tokens, {rows, length});
  b.labels = Tensor::from(labels, {rows, length});
  if (documents) {
    b.documents.resize(static_cast<std::size_t>(rows));
    b.documents[0] = {4, 5, 10};
  }
  return b;
}

layers::Model model_of(const std::string& yaml) {
  return layers::Model(test::mixer_case("m", yaml).config, {.vocab_in = kVocab, .classes = kVocab},
                       3);
}

double difference(const Tensor& a, const Tensor& b) {
  double most = 0;
  for (Index i = 0; i < a.numel(); ++i) {
    most = std::max(most, std::abs(a.slow_at(i) - b.slow_at(i)));
  }
  return most;
}

RunConfig run_config(const std::string& more) {
  return read_config_text<RunConfig>(
      "name: run\nmodels: [{layers: [{name: gla, heads: 2}], width: 16, name: m}]\ntask: {name: "
      "parity, length: 16, test_lengths: [16, 32, 64], test_examples: 12}\n" +
      more);
}

struct Trained {
  explicit Trained(const std::string& more)
      : config(run_config(more)),
        task(data::make_task(config.task, {.seed = 1})),
        model(config.models[0], model_interface(*task), 1),
        comm(solo_communicator()),
        mesh(*comm, {}, "auto") {}
  Evaluation evaluation() { return *evaluate(model, *task, data::Split::kTest, config, 1, mesh); }
  RunConfig config;
  std::unique_ptr<data::Task> task;
  layers::Model model;
  std::unique_ptr<Communicator> comm;
  parallel::Mesh mesh;
};

/// Texts to validate on.
struct Documents : test::TextFolder {
  Documents() : TextFolder(1000) {}
  /// A folder of documents of so many bytes.
  std::string text(const std::string& name, const std::vector<std::size_t>& bytes) const {
    const std::string folder = path + "/" + name;
    std::filesystem::create_directories(folder);
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      std::string words;
      for (std::size_t k = 0; k < bytes[i]; ++k) {
        words += static_cast<char>('a' + (k * k + 3 * k + 7 * i) % 23);
      }
      replace_file(folder + "/" + std::to_string(100 + i), words);
    }
    return folder;
  }
};

struct Bytes {
  Bytes(const std::string& text, const std::string& fields,
        const std::string& more = "eval: {batch: 4}")
      : config(read_config_text<RunConfig>(
            "name: run\nmodels: [{layers: [{name: gla, heads: 2}], width: 16, name: m}]\ntask: "
            "{name: bytes, path: " +
            text + ", valid_path: " + text + ", length: 16, " + fields + "}\n" + more)),
        task(data::make_task(config.task,
                             {.seed = 1, .stream = config.state.streams(), .training = false})),
        model(config.models[0], model_interface(*task), 1),
        comm(solo_communicator()) {}
  LengthStudy study(const LengthOptions& options) {
    return study_lengths(model, *task, data::Split::kValid, config, 1, *comm, 16, options);
  }
  RunConfig config;
  std::unique_ptr<data::Task> task;
  layers::Model model;
  std::unique_ptr<Communicator> comm;
};

}  // namespace

TEST_SUITE("experiments") {
  TEST_CASE("lengths: as they are written") {
    CHECK(parse_lengths("1x..8x", 20) == std::vector<Index>{20, 40, 80, 160});
    CHECK(parse_lengths("8x,1x,2x", 20) == std::vector<Index>{20, 40, 160});
    CHECK(parse_lengths("512..3000", 20) == std::vector<Index>{512, 1024, 2048, 3000});
    CHECK(parse_lengths("40,2x,7", 20) == std::vector<Index>{7, 40});
    for (const char* wrong : {"", "x", "0", "4y", "1x..", "-3", "1.5x", "2x,,4x"}) {
      CHECK_MESSAGE(says(message([&] { parse_lengths(wrong, 20); }), "is no length"), wrong);
    }
    CHECK(says(message([] { parse_lengths("8x..2x", 20); }), "goes down"));
    CHECK(says(message([] { parse_lengths("99999999999x", 1000); }), "is no length"));
  }

  TEST_CASE("lengths: ranges of positions lie end to end") {
    for (const Index trained : {1, 3, 8, 100}) {
      Index next = 1;
      for (const PositionRange& r : position_ranges(trained, 64 * trained)) {
        CHECK(r.from == next);
        CHECK(r.to >= r.from);
        CHECK((r.to <= trained || r.from > trained));
        next = r.to + 1;
      }
      CHECK(next > 64 * trained);
    }
  }

  TEST_CASE("evaluation in segments is evaluation in one piece, for every mixer") {
    std::vector<test::MixerCase> cases = test::mixer_cases();
    cases.push_back(test::mixer_case(
        "attention, dynamic, length untold",
        "layers: [{name: attention, heads: 2, rope_scaling: {type: dynamic, factor: 2, "
        "original_length: 8}}]"));
    for (test::MixerCase& c : cases) {
      c.config.dtype = DType::kF64;
      layers::Model model(c.config, {.vocab_in = kVocab, .classes = kVocab}, 3);
      for (const bool documents : {false, true}) {
        const data::Batch batch = batch_of(3, 23, documents);
        layers::ModelState none, again, left, left_again;
        const Told whole = pass(model, batch, {}, none, {});
        const Told parts = pass(model, batch, {}, again, {.segment = 5, .stops = {3, 5, 21}});
        CHECK_MESSAGE(difference(whole.loss, parts.loss) < 1e-9, c.name);
        CHECK(difference(whole.predicted, parts.predicted) == 0);
        pass(model, batch, {}, left, {.keep = true});
        pass(model, batch, {}, left_again, {.segment = 1, .keep = true});
        REQUIRE(left.slots.size() == left_again.slots.size());
        for (const auto& [path, slot] : left.slots) {
          const Tensor& other = left_again.slots.at(path).value.value();
          REQUIRE(slot.value.shape() == other.shape());
          CHECK_MESSAGE(difference(slot.value.value(), other) < 1e-9, c.name << " " << path);
        }
      }
    }
  }

  TEST_CASE("memory of an evaluation does not grow with the length where states do not") {
    for (const std::string& yaml :
         {std::string("layers: [{name: gated_deltanet, heads: 2, head_dim: 4}, {name: attention, "
                      "heads: 2, window: 9}]"),
          std::string("layers: [{name: mamba2, head_dim: 4, state_dim: 6}, lstm]")}) {
      test::StandIn device(1);
      layers::Model model = model_of(yaml);
      model.parameters().to(device);
      const auto reserved_after = [&](Index length) {
        layers::ModelState state;
        pass(model, batch_of(2, length), {}, state, {.segment = 16, .keep = true});
        return device.reserved_bytes();
      };
      const Index few = reserved_after(64);
      CHECK_MESSAGE(reserved_after(2048) == few, yaml);
    }
  }

  TEST_CASE("needs: operations of any length follow from a few segments") {
    const auto solo = solo_communicator();
    for (const char* yaml : {"layers: [{name: attention, heads: 2}, {name: gla, heads: 2}]",
                             "layers: [{name: attention, heads: 2, window: 5}]",
                             "layers: [{name: attention, heads: 2, window: 50}]",
                             "layers: [{name: attention, heads: 2}, {name: attention, heads: 2, "
                             "window: 50}]",
                             "layers: [{name: mamba2, head_dim: 4, state_dim: 6}]"}) {
      layers::Model model = model_of(yaml);
      const NeedsModel needs(model, {}, 16, 2, 160, kEndless, *solo);
      layers::ModelState state;
      profile::start();
      pass(model, batch_of(2, 160), {}, state, {.segment = 16});
      double flops = 0;
      for (const profile::Entry& e : profile::stop()) {
        flops += e.flops;
      }
      CHECK_MESSAGE(needs.flops(160) == doctest::Approx(flops).epsilon(1e-9), yaml);
      CHECK(needs.of(160).seconds > 0);
    }
    layers::Model growing = model_of("layers: [{name: attention, heads: 2}]");
    layers::Model fixed = model_of("layers: [{name: gla, heads: 2}]");
    const NeedsModel grows(growing, {}, 16, 2, 1024, kEndless, *solo);
    const NeedsModel stays(fixed, {}, 16, 2, 1024, kEndless, *solo);
    // Keys and values of width 16 in f32, of two rows, with room for as much again and half;
    // of a fixed state the tokens themselves.
    constexpr double kMore = 1 << 20;
    const auto by_token = [&](const NeedsModel& n) {
      return (n.of(2 << 20).bytes - n.of(1 << 20).bytes) / kMore;
    };
    CHECK(by_token(grows) - by_token(stays) == doctest::Approx(2.5 * 2 * 2 * 16 * 4).epsilon(1e-6));
    CHECK(by_token(stays) == doctest::Approx(2 * 40).epsilon(1e-6));
  }

  TEST_CASE("needs: bytes are those of an evaluation, not of what was before") {
    const auto solo = solo_communicator();
    layers::Model model = model_of("layers: [{name: gla, heads: 2}]");
    constexpr std::size_t kBefore = std::size_t{512} << 20;
    {
      std::vector<char> before(kBefore, 1);
      CHECK(std::ranges::count(before, 1) == std::ssize(before));
    }
    const Index now = resident_bytes();
    const Index peak = peak_resident_bytes();
    REQUIRE(peak > now + (Index{256} << 20));
    const NeedsModel needs(model, {}, 64, 2, 64, kEndless, *solo);
    CHECK(needs.of(64).bytes < static_cast<double>(now + (Index{64} << 20)));
    CHECK(peak_resident_bytes() >= peak);  // of the run
  }

  TEST_CASE("needs: a short length is not charged a whole segment") {
    // On a device, whose pool says what was taken.
    const auto solo = solo_communicator();
    test::StandIn device(3);
    layers::Model model = model_of("layers: [{name: attention, heads: 2}]");
    model.parameters().to(device);
    const double before = static_cast<double>(device.reserved_bytes());
    const NeedsModel needs(model, {}, 2048, 4, 2048, kEndless, *solo);
    const double whole = needs.of(2048).bytes - before, part = needs.of(16).bytes - before;
    CHECK(part < whole / 64);
  }

  TEST_CASE("needs: the trial keeps to the limits itself") {
    const auto solo = solo_communicator();
    test::StandIn device(5), probed(6);
    layers::Model model = model_of("layers: [{name: attention, heads: 2}]");
    layers::Model again = model_of("layers: [{name: attention, heads: 2}]");
    model.parameters().to(device);
    const NeedsModel whole(model, {}, 1024, 64, 4096, kEndless, *solo);
    again.parameters().to(probed);
    const double limit = whole.of(1024).bytes / 2;
    const NeedsModel kept(again, {}, 1024, 64, 4096, {limit, INFINITY}, *solo);
    CHECK(static_cast<double>(probed.reserved_bytes()) < limit);
    CHECK(kept.of(1024).bytes > limit);
    CHECK(kept.of(4096).bytes > limit);
    const NeedsModel brief(again, {}, 1024, 64, 4096, {INFINITY, 1e-9}, *solo);
    CHECK(brief.of(16).seconds > 1e-9);
  }

  TEST_CASE("limits: a setting above them is a row that says what it needs") {
    Trained plain("eval: {batch: 4}");
    const Evaluation all = plain.evaluation();
    REQUIRE(all.slices.size() == 3);
    CHECK(all.slices[2].examples == 12);

    Trained tokens("eval: {batch: 4, max_tokens: 100}");
    const Evaluation capped = tokens.evaluation();
    CHECK(capped.slices[0].examples == 6);
    CHECK(capped.slices[0].left_out == 6);
    CHECK(capped.slices[2].examples == 1);
    CHECK(capped.slices[2].left_out == 11);
    CHECK(capped.slices[2].metrics.find("loss") != nullptr);

    Trained short_of("eval: {batch: 4, max_tokens: 40}");
    const Evaluation fewer = short_of.evaluation();
    CHECK(fewer.slices[1].examples == 1);
    CHECK(fewer.slices[2].not_run == "needs 64 tokens, eval.max_tokens is 40");
    CHECK(fewer.slices[2].metrics.values.empty());
    CHECK(fewer.slices[2].length == 64);
    CHECK(mean_metric(fewer, "loss") ==
          doctest::Approx(
              (fewer.slices[0].metrics.at("loss") + fewer.slices[1].metrics.at("loss")) / 2));

    Trained memory("eval: {batch: 4, max_memory: 1000}");
    const Evaluation none = memory.evaluation();
    CHECK(says(none.slices[0].not_run, " of memory, eval.max_memory is 1000 B"));
    CHECK(std::isnan(mean_metric(none, "loss")));
    Trained time("eval: {batch: 4, max_seconds: 1e-12}");
    CHECK(says(time.evaluation().slices[0].not_run, "eval.max_seconds is"));
    // They survive the file.
    const nlohmann::ordered_json j = fewer;
    const auto back = j.get<Evaluation>();
    CHECK(back.slices[2].not_run == fewer.slices[2].not_run);
    CHECK(j["eval"][0]["left_out"] == 10);
  }

  TEST_CASE("limits: fewer examples are the first ones") {
    Trained capped("eval: {batch: 5, max_tokens: 112}");  // 7 of 16 tokens
    const auto task = data::make_task(
        read_config_text<RunConfig>("name: run\nmodels: [{layers: [gla]}]\ntask: {name: parity, "
                                    "length: 16, test_lengths: [16, 32, 64], test_examples: 7}")
            .task,
        {.seed = 1});
    const Evaluation first = *evaluate(capped.model, *task, data::Split::kTest,
                                       run_config("eval: {batch: 5}"), 1, capped.mesh);
    CHECK(capped.evaluation().slices[0].metrics.at("loss") ==
          doctest::Approx(first.slices[0].metrics.at("loss")).epsilon(1e-12));
  }

  TEST_CASE("effective remembrance: its definition, row by row") {
    layers::Model model =
        model_of("{layers: [{name: gla, heads: 2}, {name: attention, heads: 2}], dtype: f64}");
    const data::Batch batch = batch_of(3, 13);
    RunConfig config = run_config("eval: {segment: 4}");
    const auto got = effective_remembrance(model, batch, config);
    CHECK(got.size() == 8);  // 1 2 4 8 and 12 11 9 5
    const auto prediction = [&](Index row, Index from) {
      const ag::NoGrad no_grad;
      layers::SeqContext seq(1, 13 - from, {});
      const Tensor ids = batch.tokens.slice(0, row, row + 1).slice(1, from, 13).contiguous();
      const Tensor logits = model.logits(model.hidden({ids, {}}, seq)).value();
      std::vector<double> p;
      double sum = 0;
      for (Index c = 0; c < kVocab; ++c) {
        p.push_back(std::exp(logits.slow_at((13 - from - 1) * kVocab + c)));
        sum += p.back();
      }
      for (double& v : p) {
        v /= sum;
      }
      return p;
    };
    for (const RemembranceRecord& r : got) {
      double want = 0;
      for (Index row = 0; row < 3; ++row) {
        const auto p = prediction(row, 0), q = prediction(row, r.dropped);
        for (std::size_t c = 0; c < p.size(); ++c) {
          want += std::abs(p[c] - q[c]) / 2 / 3;
        }
      }
      CHECK(r.read == 13);
      CHECK(r.total_variation == doctest::Approx(want).epsilon(1e-9));
    }
  }

  TEST_CASE("effective remembrance: examples of one document, and within the limits") {
    // Of 16 windows of 32 bytes every second has a border inside.
    const Documents s;
    const std::string text = s.text("many", std::vector<std::size_t>(16, 48));
    Bytes t(text, "test_lengths: [32]");
    LengthOptions options;
    options.rows = 6;
    const LengthStudy study = t.study(options);
    REQUIRE(!study.remembrance.empty());
    const data::Batcher batcher(*t.task, {.split = data::Split::kValid, .batch = 1});
    std::vector<RemembranceRecord> want;
    double rows = 0;
    for (Index i = 0; i < batcher.batches() && rows < 6; ++i) {
      const data::Batch b = batcher.make(i);
      const bool one = b.documents.empty() || b.documents[0] == std::vector<Index>{0};
      if (b.length == 32 && one && b.used_of(0) == 32) {
        const auto more = effective_remembrance(t.model, b, t.config);
        want.resize(more.size());
        for (std::size_t k = 0; k < more.size(); ++k) {
          want[k].total_variation += more[k].total_variation / 6;
        }
        rows += 1;
      }
    }
    CHECK(rows == 6);
    for (std::size_t k = 0; k < want.size(); ++k) {
      CHECK(study.remembrance[k].examples == 6);
      CHECK(study.remembrance[k].total_variation ==
            doctest::Approx(want[k].total_variation).epsilon(1e-5));
    }
    Bytes short_documents(s.text("short", {20, 40}), "test_lengths: [32]");
    const LengthStudy none = short_documents.study({});
    CHECK(none.remembrance.empty());
    CHECK(none.remembrance_not_run == "no example of 32 tokens is one document");
    CHECK(says(lengths_text(none, 0), "effective remembrance not run: no example of 32"));
    Bytes few(text, "test_lengths: [32]", "eval: {batch: 4, max_tokens: 70}");
    CHECK(few.study(options).remembrance.front().examples <= 2);
    Bytes memory(text, "test_lengths: [32]");
    memory.config.eval.max_seconds = 1e-9;
    CHECK(says(above_limits(memory.model, {32}, 4, memory.config, *memory.comm),
               "eval.max_seconds is"));
    memory.config.eval = {.max_memory = 1000};
    CHECK(says(above_limits(memory.model, {32}, 4, memory.config, *memory.comm),
               "eval.max_memory is 1000 B"));
  }

  TEST_CASE("a study of rows that go on: positions are those of their documents") {
    const Documents s;
    Bytes t(s.text("one", {1000}), "test_lengths: [16]", "eval: {batch: 3}\nstate: tbptt");
    const LengthStudy study = t.study({});
    REQUIRE(study.rows.size() == 2);
    // Row r goes through every third of the windows; label t of the whole is at position t + 1.
    const auto& slice = t.task->slices(data::Split::kValid)[1];
    REQUIRE(slice.carried);
    const auto ranges = position_ranges(16, 16 * ((slice.examples + 2) / 3));
    std::vector<Index> labels(ranges.size());
    const data::Batcher batcher(*t.task, {.split = data::Split::kValid, .batch = 3});
    std::vector<Index> read(3);
    for (Index i = 0; i < batcher.batches(); ++i) {
      const data::Batch b = batcher.make(i);
      if (b.slice != 1) {
        continue;
      }
      for (Index r = 0; r < 3; ++r) {
        for (Index k = 0; k < 16; ++k) {
          const Index position = ++read[static_cast<std::size_t>(r)];
          const auto at = std::ranges::find_if(
              ranges, [&](const auto& x) { return x.from <= position && position <= x.to; });
          labels[static_cast<std::size_t>(at - ranges.begin())] +=
              b.labels.slow_at(r * 16 + k) != static_cast<double>(data::kIgnore);
        }
      }
    }
    std::size_t at = 0;
    for (const PositionRecord& p : study.positions) {
      if (p.slice == slice.name) {
        while (labels[at] == 0) {
          ++at;
        }
        CHECK(p.range.from == ranges[at].from);
        CHECK(p.range.labels == labels[at++]);
      }
    }
    CHECK(std::accumulate(labels.begin() + static_cast<std::ptrdiff_t>(at), labels.end(),
                          Index{0}) == 0);
    // States at doublings, over all three rows.
    std::set<Index> places;
    for (const StateRecord& r : study.states) {
      places.insert(r.tokens);
    }
    CHECK(places.contains(64));
    CHECK(places.contains(128));
  }

  TEST_CASE("a study of windows that are not full: what is behind them is not looked at") {
    const Documents s;
    // Two windows of 32; of the second 20 bytes are text.
    Bytes t(s.text("one", {32 + 21}), "test_lengths: [32]");
    const LengthStudy study = t.study({});
    const data::Batcher batcher(*t.task, {.split = data::Split::kValid, .batch = 2});
    const data::Batch last = batcher.make(0);
    REQUIRE(last.used == std::vector<Index>{32, 20});
    for (const StateRecord& r : study.states) {
      if (r.tokens == 32) {
        layers::ModelState state;
        pass(t.model, last.cut(0, 1), {}, state, {.keep = true});
        const Tensor one = state.slots.at(r.slot).value.value().select(0, 0).select(0, r.head);
        double square = 0;
        for (Index i = 0; i < one.numel(); ++i) {
          square += one.slow_at(i) * one.slow_at(i);
        }
        CHECK(r.norm == doctest::Approx(std::sqrt(square)).epsilon(1e-5));
      }
    }
    for (const RemembranceRecord& r : study.remembrance) {
      CHECK(r.examples == 1);
    }
  }

  TEST_CASE("rotary positions by length: rows that go on past the original length are refused") {
    const test::states::Scratch s;
    for (const std::string scaling : {"{type: dynamic, factor: 2, original_length: 64}",
                                      "{type: longrope, factor: 2, original_length: 64, "
                                      "short_factor: [1, 1, 1, 1], long_factor: [2, 2, 2, "
                                      "2]}"}) {
      const std::string model =
          "layers: [{name: attention, heads: 2, head_dim: 8, rope_scaling: " + scaling + "}]";
      const RunConfig config = test::states::config_of(s, "tbptt", "", model);
      const auto solo = solo_communicator();
      Trainer here(config, 0, 3, "", *solo);
      const std::string refused = message([&] { here.steps(12); });
      CHECK_MESSAGE(says(refused, "beyond original_length 64"), refused);
      CHECK(says(refused, "set rope_scaling.length"));
      test::StandIn device(41);
      Trainer there(config, 0, 3, "", *solo, device);
      CHECK(says(message([&] { there.steps(12); }), "set rope_scaling.length"));
      // Rows that all end where they end are not.
      const RunConfig passed = test::states::config_of(s, "passed", "", model);
      Trainer other(passed, 0, 3, "", *solo);
      CHECK(std::isfinite(other.steps(12)));
      // Evaluation of rows that go on.
      layers::Model trained(config.models[0], {.vocab_in = 256, .classes = 256}, 3);
      data::Batch batch = batch_of(2, 40);
      layers::ModelState state;
      pass(trained, batch, {}, state, {.keep = true});
      batch.continues = true;
      CHECK(says(message([&] { pass(trained, batch, {}, state, {.keep = true}); }),
                 "beyond original_length 64"));
    }
  }

  TEST_CASE("a study is of one rank") {
    run_ranks(2, [](Communicator& comm) {
      CHECK(says(message([&] { check_one_rank(comm); }),
                 "looked at on one rank, here are 2; start it without mpirun"));
    });
    check_one_rank(*solo_communicator());
  }

  TEST_CASE("collapse: twice the largest loss within the training length") {
    const auto curve = [](double beyond) {
      return std::vector<PositionRange>{
          {1, 8, 10, 2.0, 0}, {9, 16, 10, 1.0, 0}, {17, 32, 10, 1.04, 0}, {33, 64, 10, beyond, 0}};
    };
    CHECK(!find_collapse(curve(3.9), 16)->found);
    CHECK(find_collapse(curve(4.1), 16)->found);
    CHECK(find_collapse(curve(4.1), 16)->at == 33);
    CHECK(find_collapse(curve(NAN), 16)->found);
    CHECK(find_collapse(curve(1.04), 16)->rises_at == 0);
    CHECK(find_collapse(curve(1.06), 16)->rises_at == 33);
    CHECK(!find_collapse(curve(1), 64));
  }

  TEST_CASE("horizon: states that walk at random fail where the spread says they do") {
    // Two classes at -1 and 1; what is added at each token has variance 1/400, so the spread is
    // sqrt(t)/20 and comes to readable_ratio(2, .9) = .7803 at t = 243.5.
    std::mt19937_64 bits(5);
    std::normal_distribution<double> step(0, 0.05);
    constexpr Index kTrained = 32, kLongest = 1024;
    const auto ranges = position_ranges(kTrained, kLongest);
    std::vector<ClassSpread> spread(ranges.size(), ClassSpread(2, 3));
    std::vector<double> right(ranges.size()), all(ranges.size());
    for (Index walk = 0; walk < 1500; ++walk) {
      const double mean = walk % 2 == 0 ? -1 : 1;
      double drift = 0;
      std::size_t range = 0;
      for (Index t = 1; t <= kLongest; ++t) {
        drift += step(bits);
        range += t > ranges[range].to ? 1 : 0;
        const std::vector<double> x = {mean + drift, 0, 2};
        spread[range].add(walk % 2, x);
        right[range] += (x[0] > 0) == (mean > 0);
        all[range] += 1;
      }
    }
    std::vector<SpreadRecord> records;
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      const auto s = spread[i].spread();
      records.push_back({.from = ranges[i].from,
                         .to = ranges[i].to,
                         .classes = s.classes,
                         .within = s.within,
                         .between = s.between,
                         .accuracy = right[i] / all[i]});
    }
    const auto horizon = find_horizon(records, kTrained, 0.9);
    REQUIRE(horizon);
    CHECK(horizon->threshold == doctest::Approx(0.7803).epsilon(1e-3));
    CHECK(horizon->predicted == doctest::Approx(243.5).epsilon(0.15));
    CHECK(horizon->measured > 210);
    CHECK(horizon->measured < 290);
    CHECK(!find_horizon({}, kTrained, 0.9));
  }

  TEST_CASE("a study: states are those of the model, and the files hold it") {
    Trained t("eval: {batch: 4, segment: 7, max_tokens: 400}");
    LengthOptions options;
    options.rows = 4;
    const LengthStudy study =
        study_lengths(t.model, *t.task, data::Split::kTest, t.config, 1, *t.comm, 16, options);
    REQUIRE(study.rows.size() == 3);
    CHECK(study.rows[2].result.examples == 6);
    CHECK(study.rows[1].state.matrix == t.model.measure_state(32).matrix);
    std::set<Index> places;
    const data::Batcher batcher(*t.task, {.split = data::Split::kTest, .batch = 4, .seed = 1});
    for (const StateRecord& r : study.states) {
      places.insert(r.tokens);
      if (r.tokens > 16) {
        continue;
      }
      const data::Batch batch = segment_of(batcher.make(0), 0, r.tokens);
      layers::ModelState state;
      pass(t.model, batch, {}, state, {.keep = true});
      const Tensor value = state.slots.at(r.slot).value.value();  // [4,2,Dk,Dv]
      double norm = 0, rank = 0;
      for (Index row = 0; row < 4; ++row) {
        const Tensor one = value.select(0, row).select(0, r.head).to(DType::kF64).contiguous();
        const std::vector<double> x = one.to_vector<double>();
        double square = 0;
        for (const double v : x) {
          square += v * v;
        }
        norm += std::sqrt(square) / 4;
        rank += effective_rank(x, one.size(0), one.size(1)) / 4;
      }
      CHECK(r.norm == doctest::Approx(norm).epsilon(1e-5));
      CHECK(r.effective_rank == doctest::Approx(rank).epsilon(1e-4));
    }
    CHECK(places == std::set<Index>{2, 4, 8, 16, 32, 64});
    CHECK(study.remembrance.front().read == 64);
    CHECK(study.collapse);
    CHECK(study.horizon);  // two classes
    double labels = 0;
    for (const PositionRecord& p : study.positions) {
      labels += p.slice == "T32" ? static_cast<double>(p.range.labels) : 0;
    }
    CHECK(labels == static_cast<double>(study.rows[1].result.labels));
    const nlohmann::ordered_json j = study;
    CHECK(j.at("lengths").size() == 3);
    CHECK(j.at("states").size() == study.states.size());
    CHECK(!lengths_text(study, 0).empty());
  }
}

}  // namespace ls::experiments
