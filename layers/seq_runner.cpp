#include "layers/seq_runner.h"

#include <algorithm>

#include "autograd/functional.h"
#include "layers/state.h"

namespace ls::layers {
namespace {

/// Row `of[i]` of `carried` where that is a row with a past, else the fresh state of the port.
ag::Var started(const ag::Var& carried, const ag::Var& fresh, const std::vector<Index>& of,
                const Stretch& stretch, const ScanCall& call) {
  std::vector<Index> from;
  const Index last = carried.defined() ? carried.size(0) : 0;
  for (const Index r : of) {
    const bool goes_on = carried.defined() && r >= 0 && (call.begun || stretch.begun(r));
    from.push_back(goes_on ? r : last);
  }
  return ag::take_rows(carried.defined() ? ag::concat({carried, fresh}, 0) : fresh, from);
}

/// What documents start from, for an op that takes offsets: the rows' states, and behind them,
/// where there is one, the fresh state.
ag::Var packed_states(const ag::Var& carried, const ag::Var& fresh, const Stretch& stretch,
                      const ScanCall& call) {
  if (stretch.varies()) {
    if (!carried.defined()) {
      return fresh.defined() ? ag::take_rows(fresh, std::vector<Index>(stretch.rows() + 1, 0))
                             : fresh;
    }
    return fresh.defined() ? entries(ag::concat({carried, fresh}, 0), stretch.tensors().fresh)
                           : entries(carried, stretch.tensors().goes_on);
  }
  std::vector<Index> of;
  for (Index r = 0; r < stretch.rows(); ++r) {
    const std::span<const Index> starts = stretch.starts(r);
    of.push_back(!starts.empty() && starts[0] == 0 ? -1 : r);
  }
  if (fresh.defined()) {
    of.push_back(-1);
    return started(carried, fresh, of, stretch, call);
  }
  const bool all_go_on = std::find(of.begin(), of.end(), -1) == of.end();
  return all_go_on || !carried.defined() ? carried : ag::take_rows(carried, of);
}

/// The fresh state of a port; zeros where only other ports of the scan have one, since what
/// documents start from has one size for all.
ag::Var fresh_of(const ScanCall& call, std::size_t port, const ag::Var& carried) {
  const ag::Var fresh = port < call.fresh.size() ? call.fresh[port] : ag::Var();
  const auto has = [](const ag::Var& v) { return v.defined(); };
  if (fresh.defined() || !carried.defined() || std::ranges::none_of(call.fresh, has)) {
    return fresh;
  }
  Shape shape = carried.shape();
  shape[0] = 1;
  return ag::Var(Tensor::zeros(shape, carried.dtype(), carried.value().device()));
}

/// Offsets of n updates a token.
Tensor scaled(const Tensor& offsets, Index n) {
  Tensor each = offsets.to(DType::kF64);
  each.mul_(static_cast<double>(n));
  return each.to(DType::kI64);
}

}  // namespace

ag::Var first_states(const ag::Var& carried, std::size_t port, const Stretch& stretch,
                     const ScanCall& call) {
  if (port >= call.fresh.size() || !call.fresh[port].defined()) {
    return carried;
  }
  std::vector<Index> rows;
  bool all_go_on = carried.defined();
  for (Index r = 0; r < stretch.rows(); ++r) {
    rows.push_back(r);
    all_go_on &= call.begun || stretch.begun(r);
  }
  return all_go_on ? carried : started(carried, call.fresh[port], rows, stretch, call);
}

std::vector<ag::Var> LocalRunner::run(const ScanInfo& scan, std::vector<ag::Var> in,
                                      std::shared_ptr<const void> attrs, const Stretch& stretch,
                                      const ScanCall& call) {
  const OpInfo& op = *scan.op;
  const bool varies = stretch.varies(), documents = stretch.has_documents();
  const bool packed = scan.boundary == Boundary::kOffsets &&
                      (varies ? stretch.tensors().offsets.defined() : documents);
  Index cached = 0;  // rows of keys and values that come in
  for (std::size_t i = 0; i < scan.states.size(); ++i) {
    const StatePort& port = scan.states[i];
    ag::Var& s = input_of(op, in, port.input);
    cached = port.part == StatePart::kKeyValue && s.defined() ? s.size(1) : cached;
    if (packed) {
      s = packed_states(s, fresh_of(call, i, s), stretch, call);
    } else if (!varies) {
      s = first_states(s, i, stretch, call);
    }
  }
  if (packed) {
    const Tensor& offsets = stretch.tensors().offsets;
    input_of(op, in, "offsets") =
        ag::Var(call.updates == 1 ? offsets : scaled(offsets, call.updates));
  }
  // Of a cache a row sees what its document has seen, which may be less than there is.
  if (scan.boundary == Boundary::kStart &&
      (varies || documents || !stretch.all_have_seen(cached))) {
    input_of(op, in, "start") = ag::Var(stretch.tensors().start);
  }
  if (!call.places.empty()) {
    return ag::call(op, in, std::move(attrs), call.places);
  }
  return ag::call(op, std::move(in), std::move(attrs));
}

}  // namespace ls::layers
