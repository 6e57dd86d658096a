// Bytes that strategies send, from shapes alone.
#include <algorithm>
#include <numeric>

#include "core/op/run.h"
#include "parallel/sequence/heads.h"
#include "parallel/sequence/pieces.h"
#include "parallel/sequence/strategy.h"

namespace ls::parallel {
namespace {

using layers::is_sequence;
using layers::ScanInfo;

/// Of all entries but those of axis 1.
Index row_bytes(const Tensor& t) {
  Index n = dtype_size(t.dtype());
  for (int a = 0; a < t.rank(); ++a) {
    n *= a == 1 ? 1 : t.size(a);
  }
  return n;
}

SplitSizes::OfToken of_token(const ScanInfo& scan, const std::vector<ArgSpec>& args,
                             const Tensors& values) {
  SplitSizes::OfToken sum;
  for (std::size_t i = 0; i < args.size(); ++i) {
    if (!values[i].defined() || !is_sequence(args[i])) {
      continue;
    }
    const Index bytes = row_bytes(values[i]);
    sum.all += bytes;
    sum.heads += axis_of(args[i], scan.heads) < 0 ? bytes : 0;
    sum.columns += axis_of(args[i], scan.columns) < 0 ? bytes : 0;
  }
  return sum;
}

Tensors without_tokens(const ScanInfo& scan, Tensors in) {
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (in[i].defined() && is_sequence(scan.op->in[i])) {
      in[i] = in[i].slice(1, 0, 0);
    }
  }
  for (const layers::StatePort& port : scan.states) {
    layers::input_of(*scan.op, in, port.input) = Tensor();
  }
  return in;
}

}  // namespace

Index token_bytes(const ScanInfo& scan, const Tensors& inputs) {
  return of_token(scan, scan.op->in, inputs).all;
}

SplitSizes split_sizes(const ScanInfo& scan, const Tensors& inputs, const void* attrs, Index ranks,
                       Index tokens, Index total) {
  SplitSizes s{.ranks = ranks, .tokens = tokens, .total = total};
  const Tensors none = without_tokens(scan, inputs);
  const Tensors out = run_forward(*scan.op, none, scan.clone_attrs(attrs));
  s.in = of_token(scan, scan.op->in, none);
  s.out = of_token(scan, scan.op->out, out);
  for (std::size_t i = 0; i < none.size(); ++i) {
    const int head = axis_of(scan.op->in[i], scan.heads),
              column = axis_of(scan.op->in[i], scan.columns);
    if (none[i].defined()) {
      s.head_units = head < 0 ? std::gcd(s.head_units, none[i].size(head)) : s.head_units;
      s.column_units = column < 0 ? std::gcd(s.column_units, none[i].size(column)) : s.column_units;
    }
  }
  Index rows = tokens, before = (ranks - 1) * tokens;
  if (scan.reach) {
    const Index reach = scan.reach(inputs, attrs);
    rows = std::min(rows, reach);
    before = std::min(before, reach);
  }
  for (const layers::StatePort& port : scan.states) {
    const Tensor& t = layers::output_of(*scan.op, out, port.output);
    const bool cache = port.part == layers::StatePart::kKeyValue;
    s.state += cache ? rows * row_bytes(t) : t.bytes();
    s.handed += cache ? before * row_bytes(t) : t.bytes();
  }
  // Heads are worked on in parts, each with a transition of its own.
  const std::vector<ag::Var> vars(none.begin(), none.end());
  const HeadParts parts(scan, vars, ranks > 1 ? kHeadParts : 1);
  s.parts = parts.count();
  for (int g = 0; g < parts.count() && scan.summarize; ++g) {
    Tensors part;
    for (std::size_t i = 0; i < none.size(); ++i) {
      part.push_back(parts.of_input(none[i], i, g));
    }
    const Tensors summary = scan.identity(part, attrs);
    for (std::size_t i = scan.states.size(); i < summary.size(); ++i) {
      s.transition += summary[i].bytes();
    }
    s.pieces = StatePieces(scan, summary).count();
  }
  return s;
}

}  // namespace ls::parallel
