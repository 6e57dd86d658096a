#pragma once
// What the ranks of one machine are doing, in memory that all of them map: lets a waiting rank name
// the one it waits for, and lets the first failure be the only one that is reported.
#include <optional>
#include <string>
#include <string_view>

#include "core/comm/comm.h"

namespace ls::parallel {

class RankBoard {
 public:
  enum class Phase : int { kWorks, kWaits, kReturned, kFailed };
  struct Failure {
    int rank;  // in the world
    std::string why;
  };

  /// Size of the shared memory.
  static Index bytes(int ranks);
  /// One rank of the machine calls this before any other touches the memory.
  static void clear(void* memory, int ranks);
  /// @param memory  shared, cleared, of bytes(ranks); outlives this object
  /// @param slot  this rank among the `ranks` of the machine; world_rank is its number in messages
  RankBoard(void* memory, int ranks, int slot, int world_rank);

  void begin_wait(const CommCall& call);
  void end_wait();
  /// This rank has left the program's body, well or not.
  void leave(Phase phase);
  /// True for the first rank to fail; `why` is what the others then see.
  bool fail(std::string_view why);
  std::optional<Failure> failure() const;

  /// Has this rank of the world left the body without failing? False for ranks elsewhere.
  bool has_returned(int world_rank) const;
  /// Has every rank here but this one left the body?
  bool others_left() const;
  /// "rank 0 waits in barrier for 3 s, rank 1 works for 12 s", ranks of this machine only.
  std::string situation() const;

 private:
  struct Memory;
  struct Slot;
  static Memory* aligned(void* memory);
  Slot& slot(int i) const;

  Memory* memory_;
  int ranks_, mine_;
};

}  // namespace ls::parallel
