#pragma once
// What a sweep found: one table of its cells, one line of CSV for each run, split and slice.
#include <string>

#include "experiments/sweep/choice.h"

namespace ls::experiments {

/// results.csv, RFC 4180, with a header. What does not apply is empty. Columns:
///   run, each axis by its path, model, task, T (tokens of the slice), K (its pairs), setting,
///   seed, rate, role (choice or report), chosen, edge, status (finished or failed), step, split,
///   slice, each metric by name, published (the best of the task's first metric over rates,
///   evaluations and seeds of the cell, on validation data), examples, labels, left_out (examples
///   that eval.max_tokens left out), not_run (why nothing was measured), parameters, state_matrix,
///   state_vector, state_conv, state_kv, state_total (bytes after T tokens), zoology_state, tokens,
///   seconds, memory, host, device, commit, early (did it stop before `steps`?), error.
std::string results_csv(const SweepPlan& plan, const SweepFolder& folder);

/// What is reported of a run: its test after the last update where there is one, else validation;
/// nullptr where there is neither.
const Evaluation* reported(const RunResult& r);

/// A row for each cell whose choice is known, with what is missing above. Within `width` columns
/// where that is not 0.
std::string sweep_table(const SweepPlan& plan, const SweepFolder& folder, int width = 0);

}  // namespace ls::experiments
