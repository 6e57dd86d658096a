#include <fmt/core.h>

#include "experiments/commands/command.h"
#include "experiments/run.h"

namespace ls::experiments {
namespace {

struct Options {
  std::string config;
  std::vector<std::string> overrides;
  bool fields = false, comments = false, json = false;
};

Action setup(CLI::App& app) {
  auto o = std::make_shared<Options>();
  app.add_option("config", o->config, "YAML file");
  app.add_option("--set", o->overrides, "a.b=c: override one field")
      ->take_all()
      ->allow_extra_args(false);
  app.add_flag("--fields", o->fields,
               "list every field of a run with type, default, range and meaning");
  app.add_flag("--comments", o->comments, "print the meaning of each field beside its value");
  app.add_flag("--json", o->json, "print JSON");
  return [o](parallel::RankEnv&) {
    if (o->fields || o->config.empty()) {
      fmt::print("{}", format_fields(describe_config<RunConfig>()));
      return 0;
    }
    const RunConfig config = read_config_file<RunConfig>(o->config, o->overrides);
    validate_run(config);
    fmt::print("{}",
               o->json ? dump_json(config) + "\n" : dump_yaml(config, {.comments = o->comments}));
    fmt::print(stderr, "hash {}\n", config_hash(config));
    return 0;
  };
}
LS_COMMAND(config, {"config", "check a config and print it resolved; without one, list the fields",
                    50, setup});

}  // namespace
}  // namespace ls::experiments
