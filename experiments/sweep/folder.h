#pragma once
// The folder of a sweep, which any number of workers share:
//
//   RUN/             a run that has ended: config.yaml, metrics.jsonl, and run.h5 or, where it
//                    failed, failed.json; it appears whole, by a rename, and is never written again
//   .work/RUN.G/     a run under way, under generation G of its lease, or what is left of one
//   .leases/         who works on what, see lease.h
//   sweep.yaml, table.txt, results.csv
//
// Which run of a plan a folder holds is decided by its config and not by its name, so that folders
// keep their names when axes come and go.
#include <map>
#include <optional>
#include <set>
#include <string>

#include "experiments/result.h"
#include "experiments/sweep/plan.h"

namespace ls::experiments {

struct EndedRun {
  std::string name;
  std::optional<RunResult> result;  ///< of a finished one
  std::string error;                ///< of a failed one
  Provenance provenance;
};

class SweepFolder {
 public:
  /// Makes it where it is not there.
  explicit SweepFolder(std::string directory);

  const std::string& path() const { return path_; }
  std::string leases() const { return path_ + "/.leases"; }
  std::string work() const { return path_ + "/.work"; }
  std::string work_of(const std::string& name, Index generation) const;

  /// Takes in what has ended since the last time.
  void refresh();
  /// nullptr while the run has not ended. Lives until remove() or the next refresh().
  const EndedRun* ended(const SweepRun& run) const;
  /// Of the folder that the run has or will have.
  const std::string& name_of(const SweepRun& run);
  /// The folder of an earlier worker with a part of the run, "" where there is none.
  std::string half_done(const SweepRun& run, Index before) const;
  /// Deletes what earlier workers left of a run.
  void remove_half_done(const std::string& name, Index before) const;
  /// Makes a folder of .work that of a run that has ended. False where somebody else was faster.
  bool publish(const std::string& work, const std::string& name);
  /// Writes why a run failed into its folder in .work, in place of checkpoints.
  static void write_failure_note(const std::string& work, const std::string& error, Index step,
                                 const Device& device);
  /// Deletes what killed workers left, when every run has ended and none works any more.
  void remove_left_over() const;
  /// The run is to be done again.
  void remove(const SweepRun& run);
  /// A file beside the runs, as replace_file does it, though several processes may write it.
  void replace(const std::string& file, const std::string& text) const;

 private:
  std::string path_;
  std::map<std::string, std::string> identity_of_;  // folder -> run; "" of one that is no run
  std::map<std::string, EndedRun> ended_;           // run -> what is known
  std::map<std::string, std::string> name_of_;      // run -> folder
  std::set<std::string> taken_;                     // names of folders
};

}  // namespace ls::experiments
