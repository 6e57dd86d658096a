// Outputs and gradients are right, written whole, and nothing else is written.
#include "tests/laws/ops/checker.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "autograd/gradcheck.h"
#include "tests/support/poison.h"

namespace ls::test::op_laws {

namespace {

std::uint64_t hash(const Tensor& t) {
  if (!t.defined()) {
    return 0;
  }
  const Tensor c = t.contiguous();
  std::uint64_t h = 0xCBF29CE484222325u;
  const auto* p = static_cast<const unsigned char*>(std::as_const(c).raw());
  for (Index i = 0; i < c.bytes(); ++i) {
    h = (h ^ p[i]) * 0x100000001B3u;
  }
  return h;
}

std::vector<std::uint64_t> hashes(const Tensors& ts) {
  std::vector<std::uint64_t> all;
  for (const Tensor& t : ts) {
    all.push_back(hash(t));
  }
  return all;
}

/// The first element whose bytes are all 0xff, as the allocator left them.
std::optional<Index> unwritten(const Tensor& t) {
  const Tensor c = t.contiguous();
  const Index size = dtype_size(c.dtype());
  const auto* p = static_cast<const unsigned char*>(std::as_const(c).raw());
  for (Index i = 0; i < c.numel(); ++i) {
    if (std::all_of(p + i * size, p + (i + 1) * size, [](unsigned char b) { return b == 0xff; })) {
      return i;
    }
  }
  return std::nullopt;
}

}  // namespace

void Checker::derivative() {
  if (differentiated().empty()) {
    return;
  }
  const UseReference reference;
  const ag::GradcheckReport r = ag::gradcheck(op_, inputs(DType::kF64), case_.attrs, case_.kept,
                                              {.tolerance = 1e-7 * case_.slack, .directions = 1});
  if (!r.passed) {
    fault("derivative: {} ({:.3g} times what is allowed)", r.worst, r.error);
  }
}

Call Checker::watched(const std::string& who, const Tensors& in, const Tensors& dout) {
  Call result;
  {
    const Poisoned poisoned;
    {
      Call c{each(in, packed_copy), {}, each(dout, packed_copy), {}};
      const auto in_before = hashes(c.in), dout_before = hashes(c.dout);
      c.out = run_forward(op_, c.in, attrs(), {}, &c.kept);
      const auto out_before = hashes(c.out);
      if (has_backward()) {
        c.din = backward(c, c.dout, all_wanted());
      }
      const auto unchanged = [&](const char* kind, const std::vector<ArgSpec>& args,
                                 const std::vector<std::uint64_t>& before, const Tensors& now) {
        for (std::size_t i = 0; i < now.size(); ++i) {
          if (hash(now[i]) != before[i]) {
            fault("inputs: {} changes {}{}", who, kind, args[i].name);
          }
        }
      };
      unchanged("", op_.in, in_before, c.in);
      unchanged("d", op_.out, dout_before, c.dout);
      unchanged("", op_.out, out_before, c.out);
      written(who, "", op_.out, c.out);
      written(who, "d", op_.in, c.din);
      result = {{}, each(c.out, packed_copy), {}, each(c.din, packed_copy)};
    }
    for (const std::string& violation : take_guard_violations()) {
      fault("guard: {}: {}", who, violation);
    }
  }
  return result;
}

void Checker::written(const std::string& who, const char* kind, const std::vector<ArgSpec>& args,
                      const Tensors& results) {
  for (std::size_t i = 0; i < results.size(); ++i) {
    const std::optional<Index> at = results[i].defined() ? unwritten(results[i]) : std::nullopt;
    if (at) {
      fault("unwritten: {}: element {} of {}{} {}", who, *at, kind, args[i].name,
            results[i].describe());
    }
  }
}

void Checker::values(DType t) {
  const std::string type(enum_name(t));
  const Tensors in = inputs(t), dout = cotangents(t);
  const Call got = watched(type, in, dout);
  const UseReference reference;
  const Call want = watched("the reference", widened(in), widened(dout));
  same("value: " + type, got, want, allowed(t));
}

}  // namespace ls::test::op_laws
