#pragma once
// How scans were computed: what `form: auto` came to, for the run record.
#include <map>
#include <string>

#include "layers/seq_runner.h"

namespace ls::experiments {

/// "chunk of 32", "recurrent", "parallel": the form in which an op runs these inputs. A form that a
/// family does not have counts as auto, and auto is in chunks where there are any and a sequence is
/// longer than one token.
std::string form_used(const layers::FamilyInfo& family, std::span<const ag::Var> inputs,
                      const ScanAttrs& attrs);

/// Runs scans on this process and notes the form of each op.
class FormRecorder final : public layers::SeqRunner {
 public:
  std::vector<ag::Var> run(const layers::FamilyInfo& family, std::span<const ag::Var> inputs,
                           std::shared_ptr<const void> attrs) override;
  /// Op name -> form.
  const std::map<std::string, std::string>& forms() const { return forms_; }

 private:
  layers::LocalRunner local_;
  std::map<std::string, std::string> forms_;
};

}  // namespace ls::experiments
