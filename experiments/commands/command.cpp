#include "experiments/commands/command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "experiments/provenance.h"

namespace ls::experiments {
namespace {

/// A number from `least` to `most`; NaN is none.
CLI::Validator number_between(double least, double most) {
  return CLI::Validator(
      [=](std::string& text) {
        char* end = nullptr;
        const double x = std::strtod(text.c_str(), &end);
        const bool good = end != text.c_str() && *end == '\0' && x >= least && x <= most;
        return good
                   ? std::string()
                   : fmt::format("a number from {} to {} is expected, got '{}'", least, most, text);
      },
      "");
}

/// What is wrong with a command line, with the nearest name where one is misspelt.
std::string usage_error(const CLI::App& app, const CLI::ParseError& error,
                        const std::vector<std::string>& command_names) {
  const std::vector<CLI::App*> chosen = app.get_subcommands();
  std::vector<std::string> names = command_names;
  if (!chosen.empty()) {
    names.clear();
    for (const CLI::Option* option : chosen.front()->get_options()) {
      for (const std::string& name : option->get_lnames()) {
        names.push_back("--" + name);
      }
    }
  }
  std::string text = error.what();
  if (chosen.empty() && app.remaining(true).empty()) {
    text = "a command is required";
  }
  for (const std::string& word : app.remaining(true)) {
    const bool option = word.starts_with('-');
    if (option == chosen.empty()) {
      continue;
    }
    const std::string near = nearest_name(word.substr(0, word.find('=')), names);
    text = fmt::format("unknown {} '{}'{}", option ? "option" : "command", word,
                       near.empty() ? "" : ", did you mean '" + near + "'?");
    break;
  }
  if (!chosen.empty()) {
    return text + "; longscan " + chosen.front()->get_name() + " --help lists its options";
  }
  text += "; commands:";
  for (const std::string& name : names) {
    text += " " + name;
  }
  return text;
}

}  // namespace

Registry<CommandInfo>& commands() {
  static Registry<CommandInfo> registry("command");
  return registry;
}

template <class T>
void Options::operator()(const std::string& names, T& value, const OptionRules& rules) {
  if constexpr (std::is_same_v<T, bool>) {
    return apply(app_.add_flag(names, value, rules.help), rules);
  } else {
    CLI::Option* const option = app_.add_option(names, value, rules.help);
    if constexpr (std::is_same_v<T, Index> || std::is_same_v<T, std::vector<Index>>) {
      option->check(CLI::Range(static_cast<Index>(*rules.min), static_cast<Index>(*rules.max)));
    } else if constexpr (std::is_same_v<T, double>) {
      option->check(number_between(*rules.min, *rules.max));
    } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
      if (names.starts_with("--")) {
        option->take_all()->allow_extra_args(false);
      }
    }
    apply(option, rules);
  }
}
template void Options::operator()(const std::string&, bool&, const OptionRules&);
template void Options::operator()(const std::string&, Index&, const OptionRules&);
template void Options::operator()(const std::string&, double&, const OptionRules&);
template void Options::operator()(const std::string&, std::string&, const OptionRules&);
template void Options::operator()(const std::string&, std::vector<Index>&, const OptionRules&);
template void Options::operator()(const std::string&, std::vector<std::string>&,
                                  const OptionRules&);

void Options::choice(const std::string& names, std::function<void(const std::string&)> set,
                     const OptionRules& rules) {
  apply(app_.add_option_function<std::string>(names, set, rules.help), rules);
}

void Options::mode(const std::string& names, std::string& value, const OptionRules& rules) {
  const std::vector<std::string> choices = rules.choices;
  CLI::Option* const option = app_.add_flag(names, value, rules.help);
  option->check(CLI::Validator(
      [=](std::string& text) {
        const bool good = text == "true" || std::ranges::find(choices, text) != choices.end();
        return good ? std::string()
                    : fmt::format("stands alone or with '={}', got '{}'",
                                  fmt::join(choices, "', '="), text);
      },
      ""));
  apply(option, {.help = rules.help, .required = rules.required, .excludes = rules.excludes});
}

void Options::apply(CLI::Option* option, const OptionRules& rules) {
  option->required(rules.required);
  if (!rules.choices.empty()) {
    option->check(CLI::IsMember(rules.choices));
  }
  if (!rules.excludes.empty()) {
    option->excludes(app_.get_option(rules.excludes));
  }
}

void Options::footer(const std::string& text) {
  app_.footer(text);
}

CommandLine parse_command_line(int argc, char** argv) {
  CLI::App app(
      "Longscan: training and measuring sequence models whose memory is a recurrent state");
  app.set_version_flag("--version", version_line());
  app.require_subcommand(1);
  CommandLine line;
  app.add_option("--threads", line.threads, "compute threads; 0 follows the affinity mask")
      ->check(CLI::Range(0, 4096));
  app.fallthrough();

  std::vector<std::string> names = commands().names();
  std::ranges::sort(names, {}, [](const std::string& name) { return commands().at(name).place; });
  std::map<std::string, std::unique_ptr<Command>> made;  // options point into them
  for (const std::string& name : names) {
    const CommandInfo& info = commands().at(name);
    Options options(*app.add_subcommand(name, info.help));
    made[name] = info.make();
    made[name]->options(options);
  }
  try {
    app.parse(argc, argv);
    line.command = std::move(made.at(app.get_subcommands().front()->get_name()));
  } catch (const CLI::ParseError& e) {
    const auto launch = parallel::launched_by();
    if (e.get_exit_code() == 0) {
      if (!launch || launch->rank == 0) {
        app.exit(e);
      }
      return line;
    }
    const std::string text = usage_error(app, e, names);
    line.status = launch ? parallel::fail_unconnected(*launch, text)
                         : (std::fprintf(stderr, "longscan: %s\n", text.c_str()), 2);
  }
  return line;
}

}  // namespace ls::experiments
