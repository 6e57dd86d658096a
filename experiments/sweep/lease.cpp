#include "experiments/sweep/lease.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "core/io/files.h"
#include "experiments/provenance.h"

namespace ls::experiments {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::size_t kNoteBytes = 512;  // one write, whatever the numbers are
constexpr double kBeats = 6;             // in the time after which a lease expires
constexpr double kLongestPause = 2;      // seconds between beats: others show how far the work is

std::string first_line(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

/// Tells apart machines, and containers whose processes do not see one another.
const std::string& machine() {
  static const std::string name = [] {
    std::error_code error;
    return first_line("/proc/sys/kernel/random/boot_id") + " " +
           fs::read_symlink("/proc/self/ns/pid", error).string();
  }();
  return name;
}

/// When a process began, which tells it from a later one of its number; "" where there is none.
std::string start_of(Index pid) {
  const std::string stat = first_line("/proc/" + std::to_string(pid) + "/stat");
  const std::size_t after_name = stat.rfind(')');
  if (after_name == std::string::npos) {
    return "";
  }
  std::istringstream fields(stat.substr(after_name + 1));
  std::string field, state;
  fields >> state;
  for (int i = 0; i < 19; ++i) {
    fields >> field;
  }
  return state == "Z" ? "" : field;
}

std::string new_token() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}", random(), random());
}

/// "NAME.3" -> NAME, 3.
std::optional<std::pair<std::string, Index>> parsed(const std::string& file) {
  const std::size_t dot = file.rfind('.');
  const std::string number = dot == std::string::npos ? "" : file.substr(dot + 1);
  if (number.empty() || number.size() > 15 ||
      number.find_first_not_of("0123456789") != std::string::npos) {
    return std::nullopt;
  }
  return std::pair(file.substr(0, dot), static_cast<Index>(std::stoll(number)));
}

std::string file_of(const std::string& folder, const std::string& name, Index generation) {
  return fmt::format("{}/{}.{}", folder, name, generation);
}

Json read_note(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return Json::parse(text.str(), nullptr, false);
}

}  // namespace

std::map<std::string, LeaseNote> LeaseWatch::look() {
  std::map<std::string, LeaseNote> out;
  std::map<std::string, Seen> seen;
  const std::string here = machine();
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    const std::string file = entry.path().filename().string();
    const auto name = parsed(file);
    if (!name) {
      continue;
    }
    LeaseNote note{.name = name->first, .generation = name->second};
    const Json j = read_note(entry.path().string());
    if (j.is_object()) {  // else it is being written or deleted
      note.beat = j.value("beat", Index{0});
      note.step = j.value("step", Index{0});
      note.steps = std::max<Index>(1, j.value("steps", Index{1}));
      note.pid = j.value("pid", Index{0});
      note.owner = j.value("host", "") + " " + std::to_string(note.pid);
      note.dead = j.value("machine", "") == here && start_of(note.pid) != j.value("start", "");
    }
    const auto before = seen_.find(file);
    const bool moved = before == seen_.end() || before->second.beat != note.beat;
    seen[file] = moved ? Seen{note.beat, Clock::now()} : before->second;
    const auto at = out.find(note.name);
    if (at == out.end() || at->second.generation < note.generation) {
      out[note.name] = note;
    }
  }
  seen_ = std::move(seen);
  return out;
}

bool LeaseWatch::expired(const LeaseNote& note) const {
  const auto at = seen_.find(note.name + "." + std::to_string(note.generation));
  return note.dead ||
         (at != seen_.end() &&
          std::chrono::duration<double>(Clock::now() - at->second.since).count() > seconds_);
}

bool LeaseWatch::tidy() {
  std::error_code error;
  for (const auto& [name, note] : look()) {
    if (!expired(note)) {
      return false;
    }
    fs::remove(file_of(folder_, name, note.generation), error);
  }
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    fs::remove(entry.path(), error);
  }
  return true;
}

std::unique_ptr<Lease> Lease::claim(const LeaseWatch& watch, const std::string& name,
                                    const std::optional<LeaseNote>& held) {
  if (held && !watch.expired(*held)) {
    return nullptr;
  }
  const Index generation = held ? held->generation + 1 : 1;
  const std::string token = new_token();
  std::unique_ptr<Lease> lease(new Lease(watch.folder(), name, generation, token));
  // Written whole under a name of its own before anybody sees it.
  const std::string mine = watch.folder() + "/." + token;
  {
    std::ofstream out(mine, std::ios::binary);
    out << lease->text() << std::flush;
    LS_CHECK(out.good(), kIo, "{}: cannot be written: {}", mine, write_failure(errno));
  }
  const bool made = ::link(mine.c_str(), lease->file().c_str()) == 0;
  const int error = errno;
  ::unlink(mine.c_str());
  if (!made) {
    lease->lost_ = true;
    LS_CHECK(error == EEXIST, kIo,
             "{}: cannot be made: {}; a sweep's folder needs a file system with hard links",
             lease->file(), write_failure(error));
    return nullptr;
  }
  if (held) {
    ::unlink(file_of(watch.folder(), name, held->generation).c_str());
  }
  const double pause = std::min(watch.seconds() / kBeats, kLongestPause);
  Lease* const self = lease.get();
  lease->heart_ = std::thread([self, pause] {
    const auto step = std::chrono::milliseconds(20);
    auto next = std::chrono::steady_clock::now();
    while (!self->ends_ && !self->lost_) {
      next += std::chrono::duration_cast<std::chrono::steady_clock::duration>(
          std::chrono::duration<double>(pause));
      while (!self->ends_ && std::chrono::steady_clock::now() < next) {
        std::this_thread::sleep_for(step);
      }
      try {
        if (!self->ends_) {
          self->renew();
        }
      } catch (const LeaseLost&) {
        return;                 // the next write finds it lost
      } catch (const Error&) {  // of a file system that may be there again at the next beat
      }
    }
  });
  return lease;
}

Lease::Lease(std::string folder, std::string name, Index generation, std::string token)
    : folder_(std::move(folder)),
      name_(std::move(name)),
      token_(std::move(token)),
      generation_(generation) {}

Lease::~Lease() {
  ends_ = true;
  if (heart_.joinable()) {
    heart_.join();
  }
  if (!lost_ && still_mine()) {
    ::unlink(file().c_str());
  }
}

std::string Lease::file() const {
  return file_of(folder_, name_, generation_);
}

bool Lease::still_mine() const {
  const Json j = read_note(file());
  std::error_code error;
  return j.is_object() && j.value("token", "") == token_ &&
         !fs::exists(file_of(folder_, name_, generation_ + 1), error);
}

std::string Lease::text() const {
  const auto pid = static_cast<Index>(::getpid());
  static const std::string start = start_of(pid);
  std::string out = Json{{"beat", beat_.load()}, {"step", step_.load()}, {"steps", steps_.load()},
                         {"token", token_},      {"host", host_name()},  {"pid", pid},
                         {"start", start},       {"machine", machine()}}
                        .dump();
  out.resize(std::max(kNoteBytes, out.size()), ' ');
  return out;
}

void Lease::renew() {
  const std::lock_guard lock(write_);
  if (!lost_ && still_mine()) {
    ++beat_;
    const std::string note = text();
    const int fd = ::open(file().c_str(), O_WRONLY | O_CLOEXEC);
    const bool written =
        fd >= 0 && ::pwrite(fd, note.data(), note.size(), 0) == static_cast<ssize_t>(note.size());
    if (fd >= 0) {
      ::close(fd);
    }
    if (written) {
      return;
    }
    LS_CHECK(fd < 0, kIo, "{}: cannot be written: {}", file(), write_failure(errno));
  }
  lost_ = true;
  throw LeaseLost(ErrorKind::kIo,
                  fmt::format("{}: another worker has taken this run over, which stood still for "
                              "too long",
                              name_));
}

}  // namespace ls::experiments
