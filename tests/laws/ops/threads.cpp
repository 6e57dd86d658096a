// The same bits again, with any number of threads.
#include "tests/laws/ops/checker.h"

#include "core/base/parallel_for.h"

namespace ls::test::op_laws {

void Checker::repeats(DType t) {
  const std::string type(enum_name(t));
  const Tensors in = inputs(t), dout = cotangents(t);
  const int threads = num_threads();
  const Call first = call(in, dout);
  same("repeat: " + type, call(in, dout), first, 0);
  for (const int n : {1, 2, 3}) {
    set_num_threads(n);
    same(fmt::format("threads: {}, {} threads", type, n), call(in, dout), first, 0);
  }
  set_num_threads(threads);
}

}  // namespace ls::test::op_laws
