#pragma once
// Commands of the program: each registers itself from its own file in experiments/commands.
//
//   class Info final : public Command {
//    public:
//     static constexpr int kPlace = 60;  // in the list of commands
//     void options(Options& o) override { o("checkpoint", path_, {.help = "a checkpoint"}); }
//     int run(parallel::RankEnv& env) override;
//   };
//   LS_COMMAND(Info, "info", "facts about this build, or about a checkpoint");
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/enum_names.h"
#include "core/base/registry.h"
#include "parallel/mpi_env.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace ls::experiments {

struct OptionRules {
  std::string help;
  bool required = false;
  std::optional<double> min = {}, max = {};  ///< given together
  std::vector<std::string> choices = {};     ///< of a text; of an enum all when empty
  std::string excludes = {};                 ///< an option listed before
};

/// What a command reads from the command line into its variables. "--steps" is an option, "config"
/// stands by its place, "--config,config" may be given either way.
class Options {
 public:
  explicit Options(CLI::App& app) : app_(app) {}
  /// T is bool (a flag), Index, double, text, or a list of Index or text. An option of a list of
  /// text takes one value each time it is given, an argument all that follow.
  template <class T>
  void operator()(const std::string& names, T& value, const OptionRules& rules);
  template <NamedEnum E>
  void operator()(const std::string& names, E& value, const OptionRules& rules) {
    OptionRules named = rules;
    if (named.choices.empty()) {
      named.choices.assign(std::begin(EnumNames<E>::kNames), std::end(EnumNames<E>::kNames));
    }
    choice(
        names, [&value](const std::string& text) { value = parse_enum<E>(text); }, named);
  }
  /// A flag that may be given a value, "--resume" or "--resume=strict": "" when it is not there,
  /// "true" when it stands alone, else one of the choices.
  void mode(const std::string& names, std::string& value, const OptionRules& rules);
  /// Text below the list of options.
  void footer(const std::string& text);

 private:
  void choice(const std::string& names, std::function<void(const std::string&)> set,
              const OptionRules& rules);
  void apply(CLI::Option* option, const OptionRules& rules);
  CLI::App& app_;
};

class Command {
 public:
  virtual ~Command() = default;
  virtual void options(Options&) {}
  /// Returns the exit status.
  virtual int run(parallel::RankEnv& env) = 0;
};

struct CommandInfo {
  std::string help;
  int place;
  std::unique_ptr<Command> (*make)();
};
Registry<CommandInfo>& commands();

/// A command line as understood: a command to run, or the exit status where there is none.
struct CommandLine {
  std::unique_ptr<Command> command;
  int status = 0;
  Index threads = 0;  ///< --threads; 0: as many as the affinity mask allows
};
/// Prints help or what is wrong, with the nearest name where one is misspelt. Of several ranks, all
/// of which read the same line, one speaks.
CommandLine parse_command_line(int argc, char** argv);

#define LS_COMMAND(Type, name, help)                                                        \
  [[maybe_unused]] static const bool ls_command_##Type = ::ls::experiments::commands().add( \
      name, {help, Type::kPlace, []() -> std::unique_ptr<::ls::experiments::Command> {      \
               return std::make_unique<Type>();                                             \
             }})

}  // namespace ls::experiments
