#pragma once
// Runs the built program as a user would, in a folder of its own.
#include <string>
#include <vector>

namespace ls::testing {

/// Whether Workplace::run can start several ranks.
bool have_ranks();
/// Every number that stands behind "KEY": in JSON lines, in order.
std::vector<double> numbers(const std::string& json, const std::string& key);

struct Outcome {
  int status = 0;    ///< exit status; 128 + signal when killed
  std::string text;  ///< standard output and standard error together
};

/// A scratch folder, removed at the end.
class Workplace {
 public:
  Workplace();
  ~Workplace();
  Workplace(const Workplace&) = delete;
  Workplace& operator=(const Workplace&) = delete;
  std::string path(const std::string& name) const { return directory_ + "/" + name; }
  void write(const std::string& name, const std::string& text) const;
  std::string read(const std::string& name) const;

  struct Options {
    int signal = 0;  ///< sent once, `signal_after_s` after `signal_when` is there
    double signal_after_s = 0;
    std::string signal_when;    ///< a file that has content by then; empty: the start
    long file_limit = 0;        ///< largest file in bytes (RLIMIT_FSIZE), 0: none
    double time_limit_s = 120;  ///< a run that takes longer has hung: killed, status 124
    int ranks = 0;              ///< under mpirun, where the build has MPI; 0: plainly
    bool full_output = false;   ///< standard output is a full disk
    bool unprivileged = false;  ///< as user nobody, when the test runs as root
  };
  /// longscan ARGUMENTS
  Outcome run(const std::vector<std::string>& arguments, const Options& options) const;
  Outcome run(const std::vector<std::string>& arguments) const { return run(arguments, Options()); }
  /// A shell script, in which $longscan is the program and $mpirun starts ranks of it.
  Outcome shell(const std::string& script) const;

 private:
  Outcome start(const std::vector<std::string>& command, const Options& options) const;
  std::string directory_;
};

}  // namespace ls::testing
