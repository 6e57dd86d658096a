// The same outputs and gradients in every form, as the reference and by finite differences.
#include "tests/laws/scans/checker.h"

#include <algorithm>
#include <memory>

#include "autograd/gradcheck.h"

namespace ls::test::scans {

void Checker::reference() {
  const UseReference use;
  Run r = apply(x_, start_);
  derive(r, cotangent_);
  same_call("reference", r.out, r.din);
}

void Checker::derivative() {
  const ag::GradcheckReport r = ag::gradcheck(op_, whole_.in, case_.attrs, case_.kept,
                                              {.tolerance = 1e-7 * case_.slack, .directions = 1});
  if (!r.passed) {
    fault("derivative: " + r.worst);
  }
}

void Checker::forms() {
  struct Way {
    Form form;
    Index chunk;
    std::string name;
  };
  std::vector<Way> ways = {{Form::kRecurrent, 0, "recurrent"}};
  if (family_.has_chunk) {
    for (const Index c : {Index{1}, Index{16}, Index{37}, Index{64}, tokens_}) {
      ways.push_back({Form::kChunk, c, fmt::format("chunk of {}", c)});
    }
    ways.push_back({Form::kChunk, 0, "chunk"});
  }
  if (family_.has_parallel) {
    ways.push_back({Form::kParallel, 0, "parallel"});
  }
  for (const Way& way : ways) {
    const std::shared_ptr<ScanAttrs> attrs = family_.clone_attrs(this->attrs());
    attrs->form = way.form;
    attrs->chunk = way.chunk;
    Run r = apply(x_, start_, attrs.get());
    derive(r, cotangent_);
    same_call("forms (" + way.name + ")", r.out, r.din);
  }
}

}  // namespace ls::test::scans
