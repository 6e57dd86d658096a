#include "layers/golden.h"

#include <algorithm>
#include <cmath>

#include "autograd/functional.h"
#include "autograd/tape.h"

namespace ls::layers {
namespace {

// Beyond the case's own rtol. f32 and bf16 inputs are rounded from the f64 of the file, so these
// bounds hold the conditioning of the case as well as the arithmetic; gradients pass through twice
// as many operations.
struct Tolerance {
  double output, grad;
};
Tolerance tolerance(DType dtype, double rtol) {
  switch (dtype) {
    case DType::kF64: return {rtol, rtol};
    case DType::kF32: return {std::max(rtol, 2e-5), std::max(rtol, 1e-4)};
    default: return {std::max(rtol, 3e-2), std::max(rtol, 8e-2)};
  }
}

// Largest difference over the largest reference; absolute where the reference is zero. Anything that
// is not comparable is infinitely wrong.
double error_of(const Tensor& x, const Tensor& ref) {
  if (!x.defined() || x.numel() != ref.numel()) {
    return INFINITY;
  }
  const std::vector<double> a = x.to_vector<double>(), b = ref.to_vector<double>();
  double diff = 0, scale = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = a[i] == b[i] ? 0.0 : std::abs(a[i] - b[i]);
    if (!(d <= INFINITY) || std::isinf(d)) {
      return INFINITY;
    }
    diff = std::max(diff, d);
    scale = std::max(scale, std::abs(b[i]));
  }
  return scale > 0 ? diff / scale : diff;
}

std::map<std::string, Tensor> read_group(const h5::File& file, const std::string& group) {
  std::map<std::string, Tensor> out;
  if (file.exists(group)) {
    for (const std::string& name : file.children(group)) {
      out.emplace(name, file.read(group + "/" + name));
    }
  }
  return out;
}

bool is_sequence(const ArgSpec& arg) {
  return arg.axes.size() >= 2 && arg.axes[0] == "B" && arg.axes[1] == "T";
}

}  // namespace

std::vector<GoldenCase> read_golden(const std::string& path) {
  const h5::File file = h5::File::open(path);
  LS_CHECK(file.has_attribute("/", "format") && file.has_attribute("/", "op"), kIo,
           "{}: is not a golden file: the root has no attributes 'format' and 'op'", path);
  LS_CHECK(file.integer("/", "format") == 1, kIo, "{}: format {} is not supported, expected 1", path,
           file.integer("/", "format"));
  std::vector<GoldenCase> cases;
  for (const std::string& name : file.children()) {
    if (!file.is_group(name)) {
      continue;
    }
    GoldenCase c;
    c.op = file.text("/", "op");
    c.name = name;
    c.inputs = read_group(file, name + "/inputs");
    c.outputs = read_group(file, name + "/outputs");
    c.cotangents = read_group(file, name + "/cotangents");
    c.grads = read_group(file, name + "/grads");
    for (const std::string& a : file.attributes(name)) {
      c.attributes.emplace(a, file.attribute(name, a));
    }
    if (c.attributes.count("rtol")) {
      c.rtol = file.number(name, "rtol");
    }
    LS_CHECK(!c.outputs.empty(), kIo, "{}: case '{}' has no outputs", path, name);
    cases.push_back(std::move(c));
  }
  LS_CHECK(!cases.empty(), kIo, "{}: holds no case", path);
  return cases;
}

Registry<GoldenAdapter>& golden_registry() {
  static auto* const registry = new Registry<GoldenAdapter>("golden op");
  return *registry;
}

GoldenCall::GoldenCall(const GoldenCase& golden, const GoldenOptions& options) : case_(golden), options_(options) {
  ignore({"dtype", "rtol", "agreement", "checked_by", "note", "source"});
}

ag::Var GoldenCall::load(const std::string& name, DType dtype) {
  used_inputs_.insert(name);
  const auto known = leaves_.find(name);
  if (known != leaves_.end()) {
    return known->second;
  }
  const auto it = case_.inputs.find(name);
  LS_CHECK(it != case_.inputs.end(), kIo, "the case has no input '{}'", name);
  const Tensor value = is_float(it->second.dtype()) ? it->second.to(dtype).clone() : it->second;
  const ag::Var v = case_.grads.count(name) ? ag::Var::leaf(value) : ag::Var(value);
  leaves_.emplace(name, v);
  return v;
}

ag::Var GoldenCall::in(const std::string& name) { return load(name, options_.dtype); }
ag::Var GoldenCall::acc(const std::string& name) { return load(name, acc_dtype(options_.dtype)); }
Tensor GoldenCall::values(const std::string& name) {
  used_inputs_.insert(name);
  return case_.inputs.at(name);
}

double GoldenCall::number(const std::string& name, double absent) {
  used_attributes_.insert(name);
  const auto it = case_.attributes.find(name);
  if (it == case_.attributes.end()) {
    return absent;
  }
  if (const auto* i = std::get_if<std::int64_t>(&it->second)) {
    return static_cast<double>(*i);
  }
  const auto* d = std::get_if<double>(&it->second);
  LS_CHECK(d, kIo, "attribute '{}' is not a number", name);
  return *d;
}

std::string GoldenCall::text(const std::string& name, const std::string& absent) {
  used_attributes_.insert(name);
  const auto it = case_.attributes.find(name);
  if (it == case_.attributes.end()) {
    return absent;
  }
  const auto* s = std::get_if<std::string>(&it->second);
  LS_CHECK(s, kIo, "attribute '{}' is not text", name);
  return *s;
}

std::vector<double> GoldenCall::numbers(const std::string& name) {
  used_attributes_.insert(name);
  const auto it = case_.attributes.find(name);
  LS_CHECK(it != case_.attributes.end(), kIo, "the case has no attribute '{}'", name);
  if (const auto* d = std::get_if<std::vector<double>>(&it->second)) {
    return *d;
  }
  if (const auto* i = std::get_if<std::vector<std::int64_t>>(&it->second)) {
    return std::vector<double>(i->begin(), i->end());
  }
  return {number(name)};
}

void GoldenCall::ignore(std::initializer_list<const char*> attributes) {
  used_attributes_.insert(attributes.begin(), attributes.end());
}

void GoldenCall::out(const std::string& name, const ag::Var& value) {
  if (case_.outputs.count(name)) {
    outputs_[name] = value;
  }
}

std::vector<ag::Var> GoldenCall::scan(const OpInfo& op, std::vector<ag::Var> in, const void* attrs,
                                      bool can_split) {
  const FamilyInfo* const family = find_family(op);
  LS_CHECK(family, kInternal, "op {} is not registered as a scan", op.name);
  scanned_ = true;
  const std::shared_ptr<void> own = family->clone_attrs(attrs);
  auto* const scan_attrs = static_cast<ScanAttrs*>(own.get());
  scan_attrs->form = options_.form;
  scan_attrs->chunk = options_.chunk;
  if (options_.split <= 1 || !can_split) {
    return ag::call(op, in, own);
  }
  split_done_ = true;

  Index tokens = 0;
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (in[i].defined() && is_sequence(op.in[i])) {
      tokens = in[i].size(1);
    }
  }
  const int offsets_input = op.input_index("offsets");
  const int start_input = op.input_index("start");
  std::vector<std::int64_t> offsets;
  if (offsets_input >= 0 && in[static_cast<std::size_t>(offsets_input)].defined()) {
    offsets = in[static_cast<std::size_t>(offsets_input)].value().to_vector<std::int64_t>();
  }
  const bool per_document = !offsets.empty() && family->boundary == Boundary::kOffsets;
  const auto documents = static_cast<Index>(offsets.size()) - 1;

  // States so far, one row a document (or a batch row).
  std::vector<ag::Var> states;
  for (const StatePort& port : family->states) {
    states.push_back(in[static_cast<std::size_t>(op.input_index(port.input))]);
  }
  std::vector<std::vector<ag::Var>> pieces(op.out.size());
  for (Index p = 0; p < options_.split; ++p) {
    // Uneven cuts; with more pieces than tokens some are empty.
    const Index a = tokens * p * (p + 1) / (options_.split * (options_.split + 1));
    const Index b = tokens * (p + 1) * (p + 2) / (options_.split * (options_.split + 1));
    std::vector<ag::Var> part = in;
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (in[i].defined() && is_sequence(op.in[i])) {
        part[i] = ag::slice(in[i], 1, a, b);
      }
    }
    std::vector<Index> rows, before, after;
    if (per_document) {
      std::vector<std::int64_t> local;
      for (Index d = 0; d < documents; ++d) {
        const Index from = offsets[static_cast<std::size_t>(d)], to = offsets[static_cast<std::size_t>(d + 1)];
        const bool here = from < b && to > a;
        (here ? rows : to <= a ? before : after).push_back(d);
        if (here) {
          local.push_back(std::max(from, a) - a);
        }
      }
      if (rows.empty()) {
        continue;
      }
      local.push_back(b - a);
      part[static_cast<std::size_t>(offsets_input)] = ag::Var(Tensor::from(local));
    } else if (!offsets.empty()) {
      std::vector<std::int64_t> start;
      for (Index t = a; t < b; ++t) {
        const auto d = std::upper_bound(offsets.begin(), offsets.end(), t) - offsets.begin() - 1;
        start.push_back(offsets[static_cast<std::size_t>(d)] - a);
      }
      part[static_cast<std::size_t>(offsets_input)] = ag::Var();
      part[static_cast<std::size_t>(start_input)] = ag::Var(Tensor::from(start, {1, b - a}));
    }
    for (std::size_t s = 0; s < states.size(); ++s) {
      part[static_cast<std::size_t>(op.input_index(family->states[s].input))] =
          per_document && states[s].defined() ? ag::take_rows(states[s], rows) : states[s];
    }
    const std::vector<ag::Var> out = ag::call(op, part, own);
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (out[i].defined() && is_sequence(op.out[i])) {
        pieces[i].push_back(out[i]);
      }
    }
    for (std::size_t s = 0; s < states.size(); ++s) {
      const ag::Var& fresh = out[static_cast<std::size_t>(op.output_index(family->states[s].output))];
      if (!per_document) {
        states[s] = fresh;
        continue;
      }
      const ag::Var old = states[s].defined() ? states[s] : [&] {
        Shape shape = fresh.shape();
        shape[0] = documents;
        return ag::Var(Tensor::zeros(shape, fresh.dtype()));
      }();
      states[s] = ag::concat({ag::take_rows(old, before), fresh, ag::take_rows(old, after)}, 0);
    }
  }
  std::vector<ag::Var> out(op.out.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (!pieces[i].empty()) {
      out[i] = ag::concat(pieces[i], 1);
    }
  }
  for (std::size_t s = 0; s < states.size(); ++s) {
    out[static_cast<std::size_t>(op.output_index(family->states[s].output))] = states[s];
  }
  return out;
}

bool GoldenReport::passed() const {
  return fault.empty() && worst_output <= tolerance_output && worst_grad <= tolerance_grad;
}

GoldenReport check_golden(const GoldenCase& golden, const GoldenOptions& options) {
  GoldenReport report;
  report.op = golden.op;
  report.name = golden.name;
  const Tolerance tol = tolerance(options.dtype, golden.rtol);
  report.tolerance_output = tol.output;
  report.tolerance_grad = tol.grad;
  try {
    const GoldenAdapter* const adapter = golden_registry().find(golden.op);
    if (!adapter) {
      report.fault = "no op of that name";
      return report;
    }
    ag::Tape tape;
    GoldenCall call(golden, options);
    (*adapter)(call);
    std::string unknown;
    for (const auto& [name, value] : golden.inputs) {
      if (!call.used_inputs_.count(name)) {
        unknown += " input " + name;
      }
    }
    for (const auto& [name, value] : golden.attributes) {
      if (!call.used_attributes_.count(name)) {
        unknown += " attribute " + name;
      }
    }
    if (!unknown.empty()) {
      report.fault = "unknown" + unknown;
      return report;
    }
    std::vector<ag::Var> outputs;
    std::vector<Tensor> seeds;
    for (const auto& [name, ref] : golden.outputs) {
      const auto it = call.outputs_.find(name);
      if (it == call.outputs_.end() || !it->second.defined()) {
        report.fault = "output " + name + " is not computed";
        return report;
      }
      const double e = error_of(it->second.value(), ref);
      if (!(e <= report.worst_output)) {
        report.worst_output = e;
        report.worst_output_name = name;
      }
      const auto seed = golden.cotangents.find(name);
      if (seed != golden.cotangents.end()) {
        outputs.push_back(it->second);
        seeds.push_back(seed->second.to(it->second.dtype()).reshape(it->second.shape()));
      }
    }
    if (!golden.grads.empty()) {
      tape.backward(outputs, seeds);
    }
    for (const auto& [name, ref] : golden.grads) {
      const auto it = call.leaves_.find(name);
      if (it == call.leaves_.end()) {
        report.fault = "input " + name + " was not used";
        return report;
      }
      const Tensor& g = it->second.grad();
      const double e = error_of(g.defined() ? g : Tensor::zeros(ref.shape(), DType::kF64), ref);
      if (!(e <= report.worst_grad)) {
        report.worst_grad = e;
        report.worst_grad_name = name;
      }
    }
    if (!call.scanned_ && (options.form != Form::kAuto || options.chunk > 0)) {
      report.note += " form and chunk do not apply";
    }
    if (options.split > 1 && !call.split_done_) {
      report.note += " split does not apply";
    }
  } catch (const std::exception& e) {
    report.fault = e.what();
  }
  return report;
}

}  // namespace ls::layers
