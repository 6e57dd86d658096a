#pragma once
// Which parts of a run's folder a run has made: manifest.json. Only what is listed is ever deleted.
#include <set>
#include <string>

namespace ls::experiments {

class Manifest {
 public:
  /// Reads FOLDER/manifest.json if there is one. @throws Error(Io) if it is something else
  explicit Manifest(std::string folder);
  /// `part`: a folder below the run's, "MODEL/seed0".
  bool lists(const std::string& part) const { return parts_.contains(part); }
  /// Writes the file when that is new.
  void add(const std::string& part);
  /// Deletes the files that a run writes for a part, and its folders where nothing else is left.
  /// @throws Error(Config) when there are such files and the manifest does not list the part;
  /// Error(Io) when one cannot be deleted
  void remove(const std::string& part) const;

 private:
  std::string path() const { return folder_ + "/manifest.json"; }
  std::string folder_;
  std::set<std::string> parts_;
};

}  // namespace ls::experiments
