#pragma once
// What the numbers of one part (a model and a seed of a run) depend on, and whether a changed
// config keeps those that are finished.
#include <memory>
#include <string>
#include <vector>

#include "data/identity.h"
#include "experiments/run_config.h"

namespace ls::experiments {

/// Hash of the fields that the numbers of a model of the config depend on: not of other models, of
/// names, of seeds, or of when it is evaluated and saved. Seed and data are told apart by their own
/// records.
std::string part_hash(const RunConfig& config, const RunModel& model);
/// The whole of a config with one model and one seed, as a hash and the fields that say where data
/// and first weights lie, but for names and for what becomes of checkpoints: two such runs have the
/// same results, up to what the machine decides and to what those files hold.
std::string run_identity(const RunConfig& config);
std::unique_ptr<optim::Schedule> make_schedule(const RunConfig& config, const RunModel& model);

/// The data that a part is trained on, the checkpoint that its weights come from among them; reads
/// all of it once. What `init.from` names may have gone since: then it has no files.
std::vector<data::DataIdentity> part_data(const data::Task& task, const RunModel& model);

/// What an earlier sitting left of a part.
struct EarlierSitting {
  std::string path;    ///< of the checkpoint or result
  std::string config;  ///< of that sitting, YAML or JSON
  std::string model;   ///< label
  std::string part_hash;
  Index step = 0;  ///< finished updates
};

/// Does `config` give every finished update the numbers that it had? It may ask for more updates,
/// where the schedule gives all that are finished the same rate, and may differ in what part_hash
/// leaves out.
/// @throws Error(Config) that names what differs, old and new
void check_same_numbers(const EarlierSitting& before, const RunConfig& config,
                        const RunModel& model);
/// What to record from now on: `now`, with what was recorded of files that are gone.
/// @throws Error(Config) with both identities where they differ
std::vector<data::DataIdentity> check_same_data(const std::string& path,
                                                const std::vector<data::DataIdentity>& before,
                                                std::vector<data::DataIdentity> now);

}  // namespace ls::experiments
