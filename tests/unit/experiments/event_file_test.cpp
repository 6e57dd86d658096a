// Event files are, byte for byte, what TensorBoard's own writer makes.
#include "experiments/event_file.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

using namespace ls;
using namespace ls::experiments;

TEST_SUITE("unit") {
  TEST_CASE("event files: the bytes of TensorBoard's own writer") {
    // tensorboard 2.x: RecordWriter with the version's event, then a summary of one scalar.
    const std::string expected =
        "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c"
        "2100000000000000017becf609000000000000f83f10ac022a130a110a0a747261696e2f6c6f7373"
        "150000803e6557981f";
    std::string hex;
    for (const char c :
         event_file({{.wall_time = 1.5, .step = 300, .values = {{"train/loss", 0.25}}}})) {
      hex += fmt::format("{:02x}", static_cast<unsigned char>(c));
    }
    CHECK(hex == expected);
  }

  TEST_CASE("event files: lines of training and of evaluations, without what is no number") {
    RunRecord record;
    record.log = {{.step = 10, .loss = NAN, .lr = 0.1, .grad_norm = NAN, .seconds = 2.5},
                  {.step = 20, .seconds = 5, .without_targets = 3}};
    SliceResult slice{.name = "T8"};
    slice.metrics.values = {{"tok_acc", 0.5}, {"loss", NAN}};
    record.result.history = {
        {.step = 10, .split = data::Split::kValid, .slices = {slice}, .seconds = 3}};
    const std::vector<EventScalars> events = events_of(record, 100);
    REQUIRE(events.size() == 3);
    CHECK(events[0].wall_time == 102.5);
    CHECK(events[0].values.front() == std::pair<std::string, double>("train/lr", 0.1));
    const auto has = [](const EventScalars& e, const std::string& tag) {
      return std::ranges::count(e.values, tag, &std::pair<std::string, double>::first) == 1;
    };
    CHECK(!has(events[0], "train/loss"));
    CHECK(!has(events[0], "train/without_targets"));
    CHECK(!has(events[0], "train/step"));
    CHECK(has(events[2], "train/without_targets"));
    CHECK(events[1].wall_time == 103);
    CHECK(events[1].step == 10);
    CHECK(events[1].values ==
          std::vector<std::pair<std::string, double>>{{"valid/T8/tok_acc", 0.5}});
  }
}
