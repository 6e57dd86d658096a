#pragma once
// RUN/MODEL/seedN/run.h5: what a part of a run has measured and told so far, in one HDF5 file that
// is replaced whole at every checkpoint and at the end. Tables, event files and CSV are made from
// it. Its layout, for h5py and the like:
//
//   attributes of /        format, version; run, model, seed, complete, parameters, steps, tokens,
//                          seconds, ...; metrics, a list of names; provenance.NAME
//   text/NAME              u8 [bytes], JSON: config, data, state_bytes, state_sizes, scan_forms,
//                          best
//   log/COLUMN             f64 [lines]: step, loss, lr, ... of every line of the training log
//   evaluations/COLUMN     [rows], a row for each evaluation and slice: step, length, examples,
//                          left_out, labels i64, seconds f64; split and slice i64, numbers in the
//                          lists that are attributes of the group
//   evaluations/metrics    f64 [rows, names], attribute `metrics`: the names; NaN: it has none
//   evaluations/settings   i64 [rows, names], attribute `settings`; -1: it has none
//   evaluations/not_run    u8, JSON: a text for each row, empty where it was run
//   positions/COLUMN       [ranges]: row of evaluations, from, to, labels i64, loss, accuracy f64
#include <string>
#include <vector>

#include "core/io/h5.h"
#include "experiments/result.h"
#include "experiments/training_log.h"

namespace ls::experiments {

struct RunRecord {
  RunResult result;
  std::vector<LogLine> log;
};

/// FOLDER/run.h5.
std::string run_file(const std::string& folder);
/// Is there a record of a part in the folder, this program's or an earlier one's (result.json)?
bool has_run_record(const std::string& folder);
/// Replaces FOLDER/run.h5: whatever happens, the old one or the new is there. @throws Error(Io)
void write_run_record(const std::string& folder, const RunResult& result,
                      const std::vector<LogLine>& log);
/// The inverse. Of a folder that an earlier program left, result.json and metrics.jsonl are read.
/// @throws Error(Io) naming the file, where there is none or it is damaged or something else
RunRecord read_run_record(const std::string& folder);

/// Lines as datasets log/COLUMN, in any file.
void write_log(h5::File& file, const std::vector<LogLine>& log);
std::vector<LogLine> read_log(const h5::File& file);

}  // namespace ls::experiments
