#include "tests/e2e/program.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

namespace ls::testing {
namespace fs = std::filesystem;

namespace {
#ifdef LS_MPIRUN
constexpr const char* kMpirun = LS_MPIRUN;
#else
constexpr const char* kMpirun = "";
#endif
}  // namespace

bool have_ranks() {
  return *kMpirun != '\0';
}

std::vector<double> numbers(const std::string& json, const std::string& key) {
  std::vector<double> found;
  const std::string wanted = "\"" + key + "\":";
  for (std::size_t at = 0; (at = json.find(wanted, at)) != std::string::npos;) {
    at += wanted.size();
    found.push_back(std::strtod(json.c_str() + at, nullptr));
  }
  return found;
}

Workplace::Workplace() {
  std::string pattern = (fs::temp_directory_path() / "longscan-test-XXXXXX").string();
  directory_ = mkdtemp(pattern.data());
  fs::permissions(directory_, fs::perms::all);
}
Workplace::~Workplace() {
  std::error_code ignored;
  fs::remove_all(directory_, ignored);
}

void Workplace::write(const std::string& name, const std::string& text) const {
  fs::create_directories(fs::path(path(name)).parent_path());
  std::ofstream(path(name), std::ios::binary) << text;
}

std::string Workplace::read(const std::string& name) const {
  std::ifstream in(path(name), std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

Outcome Workplace::run(const std::vector<std::string>& arguments, const Options& o) const {
  std::vector<std::string> command;
  if (o.ranks > 0) {
    command = {kMpirun, "-n", std::to_string(o.ranks)};
  }
  command.emplace_back(LS_PROGRAM);
  command.insert(command.end(), arguments.begin(), arguments.end());
  return start(command, o);
}

Outcome Workplace::shell(const std::string& script) const {
  return start({"/bin/sh", "-c",
                std::string("longscan='") + LS_PROGRAM + "'\nmpirun='" + kMpirun + "'\n" + script},
               {});
}

Outcome Workplace::start(const std::vector<std::string>& command, const Options& o) const {
  const std::string log = path("output.txt");
  fs::remove(log);
  const pid_t pid = fork();
  if (pid == 0) {
    for (const int s : {SIGINT, SIGTERM}) {
      signal(s, SIG_DFL);  // doctest's handlers are not for the child
    }
    setpgid(0, 0);  // mpirun passes a signal on to its whole group
    if (chdir(directory_.c_str()) != 0) {
      _exit(126);
    }
    const int fd = open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    dup2(fd, 1);
    dup2(fd, 2);
    if (o.full_output) {
      dup2(open("/dev/full", O_WRONLY), 1);
    }
    if (o.file_limit > 0) {
      const rlimit limit{static_cast<rlim_t>(o.file_limit), static_cast<rlim_t>(o.file_limit)};
      setrlimit(RLIMIT_FSIZE, &limit);
    }
    // Opened before the change of user: the way to it may be closed to others (/root).
    const int program = o.unprivileged ? open(command[0].c_str(), O_PATH | O_CLOEXEC) : -1;
    if (o.unprivileged && geteuid() == 0 && setuid(65534) != 0) {
      _exit(126);
    }
    std::vector<char*> argv;
    for (const std::string& a : command) {
      argv.push_back(const_cast<char*>(a.c_str()));
    }
    argv.push_back(nullptr);
    if (o.unprivileged) {
      fexecve(program, argv.data(), environ);
    } else {
      execv(argv[0], argv.data());
    }
    _exit(127);
  }
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  auto counted_from = Clock::time_point::max();
  int status = 0;
  bool sent = o.signal == 0, hung = false;
  while (waitpid(pid, &status, WNOHANG) == 0) {
    const auto now = Clock::now();
    const std::chrono::duration<double> elapsed = now - begin;
    if (counted_from == Clock::time_point::max()) {
      std::error_code missing;
      if (o.signal_when.empty() || (fs::file_size(path(o.signal_when), missing) > 0 && !missing)) {
        counted_from = now;
      }
    }
    if (!sent && now >= counted_from &&
        std::chrono::duration<double>(now - counted_from).count() >= o.signal_after_s) {
      kill(pid, o.signal);
      sent = true;
    }
    if (elapsed.count() > o.time_limit_s && !hung) {
      kill(-pid, SIGKILL);  // what a script started, too
      hung = true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  Outcome out;
  out.status = hung ? 124 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  out.text = read("output.txt");
  return out;
}

}  // namespace ls::testing
