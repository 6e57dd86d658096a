#include "layers/seq_runner.h"

#include "autograd/functional.h"

namespace ls::layers {
namespace {

Shape flattened(const Shape& s) {
  Shape out{1, s[0] * s[1]};
  for (int i = 2; i < s.rank(); ++i) {
    out.push_back(s[i]);
  }
  return out;
}

Shape unflattened(const Shape& s, Index rows) {
  Shape out{rows, s[1] / rows};
  for (int i = 2; i < s.rank(); ++i) {
    out.push_back(s[i]);
  }
  return out;
}

/// Row `of[i]` of `carried` where that is a row with a past, else the fresh state of the port.
ag::Var started(const ag::Var& carried, std::size_t port, const std::vector<Index>& of,
                const Stretch& stretch, const ScanCall& call) {
  const ag::Var fresh = port < call.fresh.size() ? call.fresh[port] : ag::Var();
  if (!fresh.defined()) {
    return carried.defined() ? ag::take_rows(carried, of) : carried;
  }
  std::vector<Index> from;
  const Index last = carried.defined() ? carried.size(0) : 0;
  for (const Index r : of) {
    const bool goes_on = carried.defined() && r >= 0 && (call.begun || stretch.seen(r) > 0);
    from.push_back(goes_on ? r : last);
  }
  return ag::take_rows(carried.defined() ? ag::concat({carried, fresh}, 0) : fresh, from);
}

Tensor scaled(std::vector<Index> offsets, Index n, Device& device) {
  for (Index& o : offsets) {
    o *= n;
  }
  return Tensor::from(offsets).to(device);
}

}  // namespace

ag::Var first_states(const ag::Var& carried, std::size_t port, const Stretch& stretch,
                     const ScanCall& call) {
  if (port >= call.fresh.size() || !call.fresh[port].defined()) {
    return carried;
  }
  std::vector<Index> rows;
  for (Index r = 0; r < stretch.rows(); ++r) {
    rows.push_back(r);
  }
  return started(carried, port, rows, stretch, call);
}

std::vector<ag::Var> LocalRunner::run(const ScanInfo& scan, std::vector<ag::Var> in,
                                      std::shared_ptr<const void> attrs, const Stretch& stretch,
                                      const ScanCall& call) {
  const OpInfo& op = *scan.op;
  const bool packed = stretch.has_documents() && scan.boundary == Boundary::kOffsets;
  Index cached = 0;  // rows of keys and values that come in
  for (std::size_t i = 0; i < scan.states.size(); ++i) {
    const StatePort& port = scan.states[i];
    ag::Var& s = input_of(op, in, port.input);
    cached = port.part == StatePart::kKeyValue && s.defined() ? s.size(1) : cached;
    s = packed ? started(s, i, stretch.packing().first_of, stretch, call)
               : first_states(s, i, stretch, call);
  }
  if (packed) {
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (in[i].defined() && is_sequence(op.in[i])) {
        in[i] = ag::reshape(in[i], flattened(in[i].shape()));
      }
    }
    const Tensor& offsets = stretch.packing().offsets;
    input_of(op, in, "offsets") = ag::Var(
        call.updates == 1 ? offsets
                          : scaled(stretch.packing().begins, call.updates, offsets.device()));
  }
  // Of a cache a row sees what its document has seen, which may be less than there is.
  if (scan.boundary == Boundary::kStart &&
      (stretch.has_documents() || !stretch.all_have_seen(cached))) {
    input_of(op, in, "start") = ag::Var(stretch.document_start());
  }

  std::vector<ag::Var> out = ag::call(op, std::move(in), std::move(attrs));

  for (std::size_t i = 0; packed && i < out.size(); ++i) {
    if (out[i].defined() && is_sequence(op.out[i])) {
      out[i] = ag::reshape(out[i], unflattened(out[i].shape(), stretch.rows()));
    }
  }
  for (const StatePort& port : scan.states) {
    ag::Var& s = output_of(op, out, port.output);
    if (packed && s.defined()) {
      s = ag::take_rows(s, stretch.packing().last_of);
    }
  }
  return out;
}

}  // namespace ls::layers
