#include "experiments/forms.h"

#include <algorithm>

#include "core/ops/common/chunks.h"

namespace ls::experiments {

std::string form_used(const layers::FamilyInfo& family, std::span<const ag::Var> inputs,
                      const ScanAttrs& attrs) {
  Index longest = inputs[0].size(1);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (family.op->in[i].name == "offsets" && inputs[i].defined()) {
      const auto offsets = inputs[i].value().to_vector<std::int64_t>();
      longest = 0;
      for (std::size_t d = 1; d < offsets.size(); ++d) {
        longest = std::max<Index>(longest, offsets[d] - offsets[d - 1]);
      }
    }
  }
  if (family.boundary == layers::Boundary::kStart) {
    return "blocks";
  }
  if (!family.has_chunk || ops::common::is_recurrent(attrs, longest)) {
    return "recurrent";
  }
  if (attrs.form == Form::kParallel && family.has_parallel) {
    return "parallel";
  }
  return "chunk of " + std::to_string(ops::common::chunk_of(attrs, longest));
}

std::vector<ag::Var> FormRecorder::run(const layers::FamilyInfo& family,
                                       std::span<const ag::Var> inputs,
                                       std::shared_ptr<const void> attrs) {
  forms_[family.op->name] = form_used(family, inputs, *static_cast<const ScanAttrs*>(attrs.get()));
  return local_.run(family, inputs, std::move(attrs));
}

}  // namespace ls::experiments
