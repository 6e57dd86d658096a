#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <sstream>

#include "core/base/log.h"
#include "tests/fuzz/fuzz.h"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#endif

namespace ls::fuzz {
namespace {

constexpr std::uint64_t kSeed = 20260;
constexpr unsigned kMostSeconds = 60;  // of one case

std::atomic<long long> current = 0;
const char* program = "";
char folder[200];  // scratch files

void remove_folder() {
  if (folder[0] == 0) {
    return;
  }
  const pid_t child = ::fork();
  if (child == 0) {
    ::execl("/bin/rm", "rm", "-rf", "--", folder, nullptr);
    std::_Exit(3);
  }
  ::waitpid(child, nullptr, 0);
}

// From a signal handler: no allocation.
void tell() {
  char text[400];
  const int n =
      std::snprintf(text, sizeof text, "\nfuzz: case %lld failed; again: %s --case %lld\n",
                    current.load(), program, current.load());
  if (::write(2, text, static_cast<std::size_t>(n)) < 0) {
    std::_Exit(3);
  }
  remove_folder();
}

void on_signal(int signal) {
  tell();
  std::signal(signal, SIG_DFL);
  std::raise(signal == SIGALRM ? SIGABRT : signal);
}

bool run(long long number) {
  current = number;
  ::alarm(kMostSeconds);
  Rng rng(kSeed, "fuzz", static_cast<std::uint64_t>(number));
  const bool accepted = run_case(rng);
#if defined(__SANITIZE_ADDRESS__)
  constexpr long long kBetweenChecks = 50;  // a check takes as long as some cases
  if (number % kBetweenChecks == 0 && __lsan_do_recoverable_leak_check() != 0) {
    LS_FAIL(kInternal, "memory leaked in one of the cases {} to {}", number - kBetweenChecks + 1,
            number);
  }
#endif
  return accepted;
}

}  // namespace

void mutate(std::string& text, Rng& rng, const std::vector<std::string>& words) {
  for (Index i = 1 + rng.below(4); i > 0; --i) {
    const std::size_t at = below(rng, text.size() + 1);
    const std::size_t n = std::min(text.size() - at, below(rng, rng.bernoulli(0.1) ? 2000 : 12));
    switch (rng.below(7)) {
      case 0:
        if (at < text.size()) {
          text[at] = static_cast<char>(text[at] ^ (1 << rng.below(8)));
        }
        break;
      case 1:
        text.insert(at, 1, static_cast<char>(rng.below(256)));
        break;
      case 2:
        text.erase(at, n);
        break;
      case 3:
        text.insert(below(rng, text.size() + 1), text.substr(at, n));
        break;
      case 4:
        text.replace(at, n, n, '\0');
        break;
      default:
        if (!words.empty()) {
          text.replace(at, rng.bernoulli(0.5) ? n : 0, pick(rng, words));
        }
    }
  }
}

const std::filesystem::path& scratch() {
  static const std::filesystem::path path = [] {
    // In memory where the system has such a folder: most of the time would go into fsync.
    const std::filesystem::path memory = "/dev/shm";
    const bool fast = ::access(memory.c_str(), W_OK | X_OK) == 0;
    std::string pattern =
        ((fast ? memory : std::filesystem::temp_directory_path()) / "longscan-fuzz-XXXXXX")
            .string();
    LS_CHECK(::mkdtemp(pattern.data()) != nullptr, kIo, "{}: {}", pattern, std::strerror(errno));
    LS_CHECK(pattern.size() < sizeof folder, kIo, "{}: the path is too long", pattern);
    std::strcpy(folder, pattern.c_str());
    std::atexit(remove_folder);
    return std::filesystem::path(pattern);
  }();
  return path;
}

std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
}

}  // namespace ls::fuzz

// usage: fuzz_TARGET [SECONDS [FIRST CASE]]     fuzz_TARGET --case NUMBER
// Seconds of processor time, so that targets may run side by side.
int main(int argc, char** argv) {
  using namespace ls::fuzz;
  program = argv[0];
  ls::set_log_level(ls::LogLevel::kError);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_set_death_callback(tell);
#else
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) {
    std::signal(signal, on_signal);
  }
#endif
  std::signal(SIGALRM, on_signal);
  try {
    if (argc == 3 && std::strcmp(argv[1], "--case") == 0) {
      run(std::atoll(argv[2]));
      std::printf("fuzz: case %s passed\n", argv[2]);
      return 0;
    }
    const double time = argc > 1 ? std::atof(argv[1]) : 60;
    const long long first = argc > 2 ? std::atoll(argv[2]) : 0;
    long long number = first, accepted = 0;
    for (; static_cast<double>(std::clock()) < time * CLOCKS_PER_SEC; ++number) {
      accepted += run(number);
    }
    LS_CHECK(number > first && accepted > 0, kInternal,
             "{} cases, {} inputs accepted: nothing was tested", number - first, accepted);
    std::printf("fuzz: cases %lld to %lld passed, %lld inputs accepted\n", first, number - 1,
                accepted);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "fuzz: %s\n", e.what());
  }
  tell();
  return 1;
}
