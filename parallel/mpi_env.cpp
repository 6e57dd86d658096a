#include "parallel/mpi_env.h"

#include <sched.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/base/parallel_for.h"
#include "parallel/mpi_comm.h"
#include "parallel/rank_board.h"

#ifdef LS_HAVE_MPI
#define OMPI_SKIP_MPICXX 1  // the C interface only
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>
#endif

namespace ls::parallel {
namespace {

/// One write, so that lines of several processes do not mix.
void print_error(const std::string& text) {
  std::fflush(stdout);
  const std::string line = "longscan: " + text + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
  std::fflush(stderr);
}

/// The message of the exception being handled.
std::string current_message() {
  try {
    throw;
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "unknown exception";
  }
}

std::optional<int> integer_from_environment(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') {
    return std::nullopt;
  }
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  return *end == '\0' ? std::optional<int>(static_cast<int>(value)) : std::nullopt;
}

class SoloEnv final : public RankEnv {
 public:
  explicit SoloEnv(const RankOptions& options) {
    if (options.time_limit_s > 0) {
      world_->set_time_limit(options.time_limit_s);
    }
  }
  Communicator& world() override { return *world_; }
  int local_size() const override { return 1; }
  int threads() const override { return num_threads(); }

 private:
  std::unique_ptr<Communicator> world_ = solo_communicator();
};

int run_alone(const std::function<int(RankEnv&)>& body, const RankOptions& options) {
  try {
    SoloEnv env(options);
    return body(env);
  } catch (...) {
    print_error(current_message());
    return 1;
  }
}

void sleep_s(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

#ifdef LS_HAVE_MPI

/// How long ranks may take to unwind after another failed, and how long to be ended by it.
constexpr double kUnwindSeconds = 1, kAbortSeconds = 5;

/// MPI initialised, and what must be undone before it is finalised.
class MpiEnv final : public RankEnv {
 public:
  explicit MpiEnv(const RankOptions& options)
      : time_limit_s_(options.time_limit_s > 0 ? options.time_limit_s : default_comm_time_limit()) {
    LS_CHECK(options.message_bytes >= 1 && options.message_bytes <= INT_MAX, kConfig,
             "MPI messages of {} bytes; expected 1 to {}", options.message_bytes, INT_MAX);
    LS_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &rank_));
    LS_MPI(MPI_Comm_size(MPI_COMM_WORLD, &size_));
    LS_MPI(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node_));
    LS_MPI(MPI_Comm_rank(node_, &local_rank_));
    LS_MPI(MPI_Comm_size(node_, &local_size_));
    int leader = local_rank_ == 0 ? rank_ : -1;
    LS_MPI(MPI_Bcast(&leader, 1, MPI_INT, 0, node_));
    on_first_node_ = leader == 0;

    void* mine = nullptr;
    const Index bytes = local_rank_ == 0 ? RankBoard::bytes(local_size_) : 0;
    LS_MPI(MPI_Win_allocate_shared(bytes, 1, MPI_INFO_NULL, node_, &mine, &window_));
    MPI_Aint window_bytes = 0;
    int unit = 0;
    void* memory = nullptr;
    LS_MPI(MPI_Win_shared_query(window_, 0, &window_bytes, &unit, &memory));
    if (local_rank_ == 0) {
      RankBoard::clear(memory, local_size_);
    }
    LS_MPI(MPI_Barrier(node_));
    board_.emplace(memory, local_size_, local_rank_, rank_);

    share_cores();
    context_.emplace(*board_, options.message_bytes, local_size_ > cores_);
    world_ = mpi_world(*context_);
    world_->set_time_limit(time_limit_s_);
  }

  Communicator& world() override { return *world_; }
  int local_size() const override { return local_size_; }
  int threads() const override { return threads_; }

  /// Waits for the other ranks and frees everything. Not from a destructor: it may throw, and after
  /// a failure there is nobody to wait for.
  void finish() {
    board_->leave(RankBoard::Phase::kReturned);
    mpi_meet_at_end(*context_, time_limit_s_);
    world_.reset();
    LS_MPI(MPI_Win_free(&window_));
    LS_MPI(MPI_Comm_free(&node_));
  }

  /// Reports the failure, unless another rank of this machine has, and ends the job.
  [[noreturn]] void abort(const std::string& why) {
    const bool first = board_->fail(why);
    board_->leave(RankBoard::Phase::kFailed);
    if (first) {
      if (!on_first_node_) {
        sleep_s(2 *
                kUnwindSeconds);  // if all machines fail alike, the first one's message is enough
      }
      char host[256] = "an unknown host";
      gethostname(host, sizeof host - 1);
      print_error(fmt::format("on {}, rank {} of {} failed: {}", host, rank_, size_, why));
      for (double waited = 0; waited < kUnwindSeconds && !board_->others_left(); waited += 0.01) {
        sleep_s(0.01);
      }
    } else {
      std::fflush(stdout);
      sleep_s(kAbortSeconds);
    }
    // Aborting must not hang either, whatever other threads of this process are doing.
    std::signal(SIGALRM, SIG_DFL);
    ::alarm(static_cast<unsigned>(kAbortSeconds));
    for (int tries = 0; tries < 100 && !context_->mutex.try_lock(); ++tries) {
      sleep_s(0.01);
    }
    MPI_Abort(MPI_COMM_WORLD, 1);
    std::_Exit(1);
  }

 private:
  /// threads_ from the affinity masks of all ranks here, cores_ from their union.
  void share_cores() {
    cpu_set_t mine;
    CPU_ZERO(&mine);
    LS_CHECK(sched_getaffinity(0, sizeof mine, &mine) == 0, kDevice,
             "cannot read the processor affinity of rank {}", rank_);
    std::vector<cpu_set_t> all(static_cast<std::size_t>(local_size_));
    LS_MPI(MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all.data(), sizeof mine, MPI_BYTE, node_));
    double share = 0;
    cores_ = 0;
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      const auto users = std::ranges::count_if(
          all, [&](const cpu_set_t& set) { return CPU_ISSET(core, &set) != 0; });
      cores_ += users > 0 ? 1 : 0;
      share += CPU_ISSET(core, &mine) ? 1.0 / static_cast<double>(users) : 0.0;
    }
    threads_ = std::max(1, static_cast<int>(share + 1e-9));
  }

  double time_limit_s_;
  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1, threads_ = 1, cores_ = 1;
  bool on_first_node_ = true;
  MPI_Comm node_ = MPI_COMM_NULL;
  MPI_Win window_ = MPI_WIN_NULL;
  std::optional<RankBoard> board_;
  std::optional<MpiContext> context_;
  std::unique_ptr<Communicator> world_;
};

MpiEnv* aborts_on_terminate = nullptr;  // the one of this process, while it runs

[[noreturn]] void abort_on_terminate() {
  aborts_on_terminate->abort(std::current_exception() ? current_message()
                                                      : "terminated without an exception");
}

/// Some sandboxes forbid reading a neighbour's memory, and Open MPI then warns at every message.
void avoid_forbidden_calls() {
  char from = 1, to = 0;
  iovec local{&to, 1}, remote{&from, 1};
  if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) != 1) {
    setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
    setenv("OMPI_MCA_smsc", "^cma", 0);  // its name from version 5 on
  }
}

int run_over_mpi(const Launch& launch, const std::function<int(RankEnv&)>& body,
                 const RankOptions& options) {
  avoid_forbidden_calls();
  int level = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &level);
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  int size = 0, rank = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  std::string fault;
  if (launch.size > 0 && size != launch.size) {
    fault = fmt::format(
        "the launcher started {} ranks but this build's MPI ({}) sees {}: use the mpirun of "
        "that MPI",
        launch.size, mpi_version(), size);
  } else if (level < MPI_THREAD_SERIALIZED) {
    fault = fmt::format("MPI ({}) offers thread level {}; expected MPI_THREAD_SERIALIZED",
                        mpi_version(), level);
  }
  std::optional<MpiEnv> env;
  if (fault.empty()) {
    try {
      env.emplace(options);
    } catch (...) {
      fault = current_message();
    }
  }
  if (!fault.empty()) {
    const int status = fail_unconnected(launch, fault);
    MPI_Abort(MPI_COMM_WORLD, status);
    std::_Exit(status);
  }

  aborts_on_terminate = &*env;
  const std::terminate_handler previous = std::set_terminate(abort_on_terminate);
  set_num_threads(env->threads());
  int status = 0;
  try {
    status = body(*env);
    env->finish();
  } catch (...) {
    env->abort(current_message());
  }
  std::set_terminate(previous);
  aborts_on_terminate = nullptr;
  env.reset();
  MPI_Finalize();
  return status;
}

#endif

}  // namespace

int fail_unconnected(const Launch& launch, const std::string& text) {
  if (launch.rank != 0) {
    sleep_s(2);
  }
  print_error(text);
  return 1;
}

std::optional<Launch> launched_by() {
  // Open MPI and its kin; MPICH, Intel MPI and Slurm's PMI; MVAPICH. PMIx alone does not tell the
  // size.
  constexpr std::pair<const char*, const char*> kNames[] = {
      {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
      {"PMI_RANK", "PMI_SIZE"},
      {"MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"},
  };
  for (const auto& [rank_name, size_name] : kNames) {
    const auto rank = integer_from_environment(rank_name);
    const auto size = integer_from_environment(size_name);
    if (size && *size > 0) {
      return Launch{rank.value_or(0), *size};
    }
  }
  if (const auto rank = integer_from_environment("PMIX_RANK")) {
    return Launch{*rank, integer_from_environment("SLURM_STEP_NUM_TASKS").value_or(0)};
  }
  return std::nullopt;
}

/// Slurm started several tasks and told none of them of the others: each would run alone, in one
/// folder.
static std::string lone_task(const std::optional<Launch>& launch) {
  const int tasks = integer_from_environment("SLURM_STEP_NUM_TASKS").value_or(1);
  if (tasks == 1 || (launch && launch->size != 1)) {
    return "";
  }
  return fmt::format(
      "this is one of {} tasks of a Slurm step, and its MPI counts one rank: start it with srun "
      "--mpi=pmix or --mpi=pmi2 (srun --mpi=list shows what this Slurm has), or with mpirun",
      tasks);
}

std::string mpi_version() {
#ifdef LS_HAVE_MPI
  char text[MPI_MAX_LIBRARY_VERSION_STRING + 1] = {};
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string version(text);
  return version.substr(0, version.find_first_of("\n,"));
#else
  return "none";
#endif
}

int run_with_ranks(const std::function<int(RankEnv&)>& body, const RankOptions& options) {
  const std::optional<Launch> launch = launched_by();
  if (const std::string fault = lone_task(launch); !fault.empty()) {
    return fail_unconnected({integer_from_environment("SLURM_PROCID").value_or(0), 0}, fault);
  }
  if (!launch) {
    return run_alone(body, options);
  }
#ifdef LS_HAVE_MPI
  return run_over_mpi(*launch, body, options);
#else
  if (launch->size != 1) {
    return fail_unconnected(*launch,
                            "several ranks were launched, but this build has no MPI: install "
                            "libopenmpi-dev and build again, or run without a launcher");
  }
  return run_alone(body, options);
#endif
}

}  // namespace ls::parallel
