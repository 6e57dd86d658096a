// When a run is asked to leave.
#include "experiments/stop.h"

#include <doctest/doctest.h>

#include <cstdlib>

#include "tests/support/errors.h"

using namespace ls;
using namespace ls::experiments;

TEST_SUITE("unit") {
  TEST_CASE("stop: durations as they are written") {
    CHECK(parse_duration("90").count() == 90);
    CHECK(parse_duration("90s").count() == 90);
    CHECK(parse_duration("5min").count() == 300);
    CHECK(parse_duration("1.5h").count() == 5400);
    for (const char* const text : {"", "min", "-5min", "5 min", "5m", "inf", "1e30h", "nan"}) {
      CAPTURE(text);
      CHECK(test::message([&] { parse_duration(text); }).find("is no duration; write 90s") !=
            std::string::npos);
    }
  }

  TEST_CASE("stop: the end of the job is what a scheduler says") {
    unsetenv("SLURM_JOB_END_TIME");
    unsetenv("LONGSCAN_JOB_END");
    CHECK(test::says(test::message([] { job_end(); }), "set LONGSCAN_JOB_END"));
    setenv("LONGSCAN_JOB_END", "1800000000", 1);
    CHECK(job_end() == std::chrono::system_clock::from_time_t(1800000000));
    setenv("SLURM_JOB_END_TIME", "tomorrow", 1);
    CHECK(test::says(test::message([] { job_end(); }), "SLURM_JOB_END_TIME is 'tomorrow'"));
    unsetenv("SLURM_JOB_END_TIME");
    unsetenv("LONGSCAN_JOB_END");
  }

  TEST_CASE("stop: statuses") {
    CHECK(stop_status(15) == 143);
    CHECK(stop_status(kTimeIsUp) == 75);
  }
}
