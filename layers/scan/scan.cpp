#include "layers/scan/scan.h"

#include <algorithm>

#include "core/base/registration.h"
#include "layers/scan/check_scan.h"

namespace ls::layers {

Registry<const ScanInfo*>& scan_registry() {
  static auto* const registry = new Registry<const ScanInfo*>("scan");
  return *registry;
}

namespace {
/// All scans, for look-up by op without building names.
std::vector<const ScanInfo*>& scans() {
  static auto* const list = new std::vector<const ScanInfo*>;
  return *list;
}
}  // namespace

const ScanInfo& scan_of(const OpInfo& op, const void* attrs) {
  for (const ScanInfo* scan : scans()) {
    if (scan->op == &op && (!scan->applies || scan->applies(attrs))) {
      return *scan;
    }
  }
  LS_FAIL(kInternal, "op {} is not registered as a scan; see LS_SCAN", op.name);
}

void check_scan(const ScanInfo& scan, const std::string& name) {
  const OpInfo& op = *scan.op;
  LS_CHECK(!op.name.empty(), kInternal, "scan {}: its op is not declared by LS_OP", name);
  LS_CHECK(!scan.states.empty(), kInternal, "scan {}: no .state(...): it carries nothing", name);
  for (const StatePort& port : scan.states) {
    LS_CHECK(op.input_index(port.input) >= 0, kInternal,
             "scan {}: state {} goes in through '{}', which is no input of op {} ({})", name,
             port.name, port.input, op.name, op.contract_in);
    LS_CHECK(op.output_index(port.output) >= 0, kInternal,
             "scan {}: state {} comes out of '{}', which is no output of op {} ({})", name,
             port.name, port.output, op.name, op.contract_out);
  }
  const char* const boundary = scan.boundary == Boundary::kStart ? "start" : "offsets";
  LS_CHECK(op.input_index(boundary) >= 0, kInternal,
           "scan {}: documents need an input '{}' of op {} ({})", name, boundary, op.name,
           op.contract_in);
  LS_CHECK(scan.kind == FamilyKind::kRelay || scan.summarize, kInternal,
           "scan {}: family {} is {}, so it needs .transition(...) or .linear(...); without one it "
           "is relay",
           name, scan.family, enum_name(scan.kind));
  for (const std::vector<std::string>* const axes : {&scan.heads, &scan.columns}) {
    for (const std::string& axis : *axes) {
      LS_CHECK(std::find(op.symbols.begin(), op.symbols.end(), axis) != op.symbols.end(), kInternal,
               "scan {}: axis {} is none of op {} ({})", name, axis, op.name, op.contract_in);
    }
  }
  LS_CHECK(scan.merged_by.empty() || op.output_index(scan.merged_by) >= 0, kInternal,
           "scan {}: outputs are merged by '{}', which is no output of op {} ({})", name,
           scan.merged_by, op.name, op.contract_out);
  LS_CHECK(scan.read_by.empty() || op.output_index(scan.read_by) >= 0, kInternal,
           "scan {}: states are read by '{}', which is no output of op {} ({})", name, scan.read_by,
           op.name, op.contract_out);
  LS_CHECK(scan.read_by.empty() || scan.states.size() == 1, kInternal,
           "scan {}: output {} reads one state as a product, and there are {}", name, scan.read_by,
           scan.states.size());
  LS_CHECK(!scan.summarize || scan.boundary == Boundary::kStart || scan.forget, kInternal,
           "scan {}: documents are cut by offsets, which transition {} has no forget for", name,
           scan.transition ? scan.transition->name : "");
}

bool is_sequence(const ArgSpec& arg) {
  return arg.axes.size() >= 2 && arg.axes[0] == "B" && (arg.axes[1] == "T" || arg.axes[1] == "Tk");
}

Tensor fresh_state(const Tensor& fresh, const Tensor& like) {
  return fresh.defined() ? fresh.expand(like.shape()).clone()
                         : Tensor::zeros(like.shape(), like.dtype(), like.device());
}

namespace {

/// The states as they go out, then the transition.
void read_contract(ScanInfo& scan, const std::string& name) {
  if (!scan.transition) {
    return;
  }
  scan.symbols = scan.op->symbols;
  for (const StatePort& port : scan.states) {
    ArgSpec written = scan.op->out.at(static_cast<std::size_t>(scan.op->output_index(port.output)));
    written.name = port.name;
    scan.summary.push_back(std::move(written));
  }
  for (ArgSpec& arg : parse_contract(scan.transition->contract, name, scan.symbols)) {
    scan.summary.push_back(std::move(arg));
  }
}

}  // namespace

void check_summary(const ScanInfo& scan, const Tensors& summary) {
  const auto says = [&](const ArgSpec& arg) {
    return fmt::format("summary of scan {} ({}): {}", scan.op->name, scan.family, arg.text);
  };
  LS_CHECK(summary.size() == scan.summary.size(), kInternal,
           "summary of scan {} ({}): {} tensors, its contract has {}", scan.op->name, scan.family,
           summary.size(), scan.summary.size());
  const DType type = acc_dtype(summary[0].dtype());
  Bindings bound(scan.symbols);
  for (std::size_t i = 0; i < summary.size(); ++i) {
    const ArgSpec& arg = scan.summary[i];
    const Tensor& t = summary[i];
    const auto axes = std::ssize(arg.axes);
    LS_CHECK(t.defined() && (arg.ellipsis ? t.rank() >= axes : t.rank() == axes) &&
                 (arg.type != ArgSpec::Type::kAcc || t.dtype() == type),
             kInternal, "{} is {}", says(arg), t.defined() ? t.describe() : "absent");
    for (Index a = 0; a < axes; ++a) {
      const Index extent = t.size(static_cast<int>(t.rank() - axes + a));
      const Axis& axis = arg.axes[static_cast<std::size_t>(a)];
      const bool fits = axis.symbol >= 0 ? bound.bind(axis.symbol, extent)
                                         : bound.evaluate(axis).value_or(extent) == extent;
      LS_CHECK(fits, kInternal, "{} is {}: {} has another extent elsewhere", says(arg),
               t.describe(), axis.text);
    }
  }
}

Tensors summarize(const ScanInfo& scan, std::span<const Tensor> in, const void* attrs,
                  const std::vector<std::vector<Index>>& starts, const Tensors& fresh) {
  if (!scan.forget || starts.empty()) {
    Tensors whole = scan.summarize(in, attrs);
    check_summary(scan, whole);
    return whole;
  }
  // Row by row: of a row with boundaries the last document counts, after forgetting.
  Tensors all, from_ports = fresh;
  from_ports.resize(scan.states.size());
  for (std::size_t r = 0; r < starts.size(); ++r) {
    const auto row = static_cast<Index>(r);
    const Index from = starts[r].empty() ? 0 : starts[r].back();
    Tensors part(in.begin(), in.end());
    for (std::size_t i = 0; i < part.size(); ++i) {
      if (part[i].defined() && is_sequence(scan.op->in[i])) {
        part[i] = part[i].slice(0, row, row + 1).slice(1, from, part[i].size(1)).contiguous();
      }
    }
    Tensors m = scan.summarize(part, attrs);
    if (!starts[r].empty()) {
      m = scan.compose(scan.forget(part, from_ports, attrs), m, attrs);
    }
    check_summary(scan, m);
    for (std::size_t i = 0; i < m.size(); ++i) {
      if (r == 0) {
        Shape shape = m[i].shape();
        shape[0] = std::ssize(starts);
        all.push_back(Tensor::empty(shape, m[i].dtype(), m[i].device()));
      }
      all[i].slice(0, row, row + 1).copy_(m[i]);
    }
  }
  return all;
}

bool detail::register_scan(ScanInfo info, const std::string& name, std::source_location where) {
  auto* const stored = new ScanInfo(std::move(info));  // lives as long as the registry
  scans().push_back(stored);
  // Ops register in any order.
  check_at_start([stored, name, file = std::string(where.file_name())] {
    try {
      check_scan(*stored, name);
      read_contract(*stored, name);
    } catch (const Error& e) {
      LS_FAIL(kInternal, "{} ({})", e.message(), file);
    }
  });
  return scan_registry().add(name, stored, where);
}

}  // namespace ls::layers
