#pragma once
// Who works on what in a folder that several processes share, perhaps on several machines: leases
// that are kept alive by a heartbeat. No file locks and no comparison of clocks are needed.
//
// The lease of NAME is the file NAME.G in the folder of leases, G counting from 1. It is made by
// link(), which fails where it is there already; its owner alone writes into it, a number that
// grows. Whoever has seen it stand still for `seconds` of his own clock, or finds its process dead
// on his own machine, makes NAME.(G+1) and deletes NAME.G: one of those who try succeeds. An owner
// has lost his lease when his file is not there or a later one is. It is deleted with what it is
// for done; so whoever gets a lease looks again whether there is anything left to do.
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/base/error.h"
#include "core/base/types.h"

namespace ls::experiments {

/// What renew() throws.
struct LeaseLost : Error {
  using Error::Error;
};

/// What a lease's file says.
struct LeaseNote {
  std::string name;  ///< what is leased
  Index generation = 0;
  std::string owner;          ///< "host 123"
  Index beat = 0;             ///< grows while the owner lives
  Index step = 0, steps = 1;  ///< of the work, told by the owner
  Index pid = 0;
  bool dead = false;  ///< its process ran on this machine and is gone
};

/// Looks at leases again and again, and knows which have stood still for how long.
class LeaseWatch {
 public:
  LeaseWatch(std::string folder, double seconds) : folder_(std::move(folder)), seconds_(seconds) {}
  /// All leases, of each name the latest.
  std::map<std::string, LeaseNote> look();
  /// Of the last look.
  bool expired(const LeaseNote& note) const;
  /// Deletes what killed owners left, when there is nothing left to lease; false where an owner
  /// lives.
  bool tidy();
  const std::string& folder() const { return folder_; }
  double seconds() const { return seconds_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Seen {
    Index beat = -1;
    Clock::time_point since;
  };
  std::string folder_;
  double seconds_;
  std::map<std::string, Seen> seen_;  // by file
};

class Lease {
 public:
  /// nullptr where somebody else holds it or was faster. `held`: what the watch saw last of it.
  static std::unique_ptr<Lease> claim(const LeaseWatch& watch, const std::string& name,
                                      const std::optional<LeaseNote>& held);
  /// Ends the heartbeat; gives up the lease if it is still held.
  ~Lease();
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  const std::string& name() const { return name_; }
  Index generation() const { return generation_; }
  /// Also called by the heartbeat, a few times in the time after which a lease expires.
  /// @throws LeaseLost where somebody has taken it over
  void renew();
  /// Whether somebody has taken it over, as far as is known.
  bool lost() const { return lost_; }
  /// Shown to others from the next beat on.
  void tell(Index step, Index steps) {
    step_ = step;
    steps_ = steps;
  }

 private:
  Lease(std::string folder, std::string name, Index generation, std::string token);
  std::string file() const;
  bool still_mine() const;
  std::string text() const;

  std::string folder_, name_, token_;
  Index generation_;
  std::atomic<Index> beat_{1}, step_{0}, steps_{1};
  std::atomic<bool> lost_{false}, ends_{false};
  std::mutex write_;
  std::thread heart_;
};

}  // namespace ls::experiments
