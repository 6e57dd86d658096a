#include "experiments/golden/golden.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "autograd/functional.h"
#include "autograd/tape.h"

namespace ls::golden {
namespace {

// Beyond the case's own rtol. f32 and bf16 inputs are rounded from the f64 of the file, so these
// bounds hold the conditioning of the case as well as the arithmetic; gradients pass through twice
// as many operations.
struct Tolerance {
  double output, grad;
};
Tolerance tolerance(DType dtype, double rtol) {
  switch (dtype) {
    case DType::kF64:
      return {rtol, rtol};
    case DType::kF32:
      return {std::max(rtol, 2e-5), std::max(rtol, 1e-4)};
    default:
      return {std::max(rtol, 3e-2), std::max(rtol, 8e-2)};
  }
}

// Largest difference over the largest reference; absolute where the reference is zero. Anything
// that is not comparable is infinitely wrong.
double error_of(const Tensor& x, const Tensor& ref) {
  const std::vector<double> a = x.to_vector<double>(), b = ref.to_vector<double>();
  double diff = 0, scale = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = a[i] == b[i] ? 0.0 : std::abs(a[i] - b[i]);
    if (!std::isfinite(d)) {
      return INFINITY;
    }
    diff = std::max(diff, d);
    scale = std::isfinite(b[i]) ? std::max(scale, std::abs(b[i])) : scale;
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

/// Every tensor of `parts` has one of its name and shape in `wholes`.
void check_partners(const std::map<std::string, Tensor>& parts,
                    const std::map<std::string, Tensor>& wholes, const std::string& where,
                    const char* kind) {
  for (const auto& [name, part] : parts) {
    const auto whole = wholes.find(name);
    LS_CHECK(whole != wholes.end(), kIo, "{}/{}: there is no {} of that name", where, name, kind);
    LS_CHECK(whole->second.shape() == part.shape(), kIo, "{}/{}: shape {}, that {} has {}", where,
             name, part.shape().str(), kind, whole->second.shape().str());
  }
}

}  // namespace

std::vector<GoldenCase> read_golden(const std::string& path) {
  const h5::File file = h5::File::open(path);
  LS_CHECK(file.has_attribute("/", "format") && file.has_attribute("/", "op"), kIo,
           "{}: is not a golden file: the root has no attributes 'format' and 'op'", path);
  LS_CHECK(file.integer("/", "format") == 1, kIo, "{}: format {} is not supported, expected 1",
           path, file.integer("/", "format"));
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
    LS_CHECK(std::isfinite(c.rtol) && c.rtol > 0, kIo, "{}: case '{}' has rtol {}", path, name,
             c.rtol);
    LS_CHECK(!c.outputs.empty(), kIo, "{}: case '{}' has no outputs", path, name);
    check_partners(c.grads, c.inputs, path + ": case '" + name + "': grads", "input");
    check_partners(c.cotangents, c.outputs, path + ": case '" + name + "': cotangents", "output");
    cases.push_back(std::move(c));
  }
  LS_CHECK(!cases.empty(), kIo, "{}: holds no case", path);
  return cases;
}

Registry<GoldenAdapter>& golden_registry() {
  static auto* const registry = new Registry<GoldenAdapter>("golden op");
  return *registry;
}

GoldenCall::GoldenCall(const GoldenCase& golden, const GoldenOptions& options)
    : case_(golden), options_(options) {
  ignore({"dtype", "rtol", "agreement", "checked_by", "note", "source"});
}

ag::Var GoldenCall::load(const std::string& name, DType dtype, DType through) {
  const Tensor stored = values(name);
  const auto known = leaves_.find(name);
  if (known != leaves_.end()) {
    return known->second;
  }
  const Tensor value = (is_float(stored.dtype()) ? stored.to(through).to(dtype).clone() : stored)
                           .to(*options_.device);
  const ag::Var v = case_.grads.count(name) ? ag::Var::leaf(value) : ag::Var(value);
  leaves_.emplace(name, v);
  return v;
}

ag::Var GoldenCall::in(const std::string& name) {
  return load(name, options_.dtype, rounding_.value_or(options_.dtype));
}
ag::Var GoldenCall::acc(const std::string& name) {
  const DType acc = acc_dtype(options_.dtype);
  return load(name, acc, rounding_ ? acc_dtype(*rounding_) : acc);
}
Tensor GoldenCall::values(const std::string& name) {
  used_inputs_.insert(name);
  const auto it = case_.inputs.find(name);
  LS_CHECK(it != case_.inputs.end(), kIo, "the case has no input '{}'", name);
  return it->second;
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

int GoldenCall::choice(const std::string& name, const std::vector<std::string>& known) {
  const std::string chosen = text(name, known[0]);
  const auto it = std::find(known.begin(), known.end(), chosen);
  LS_CHECK(it != known.end(), kUnsupported, "{} '{}' is not one of {}", name, chosen,
           fmt::join(known, ", "));
  return static_cast<int>(it - known.begin());
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

bool GoldenReport::passed() const {
  return fault.empty() && worst_output <= tolerance_output && worst_grad <= tolerance_grad;
}

/// One computation of a case and its errors.
class GoldenRun {
 public:
  GoldenRun(const GoldenCase& golden, const GoldenOptions& options)
      : golden_(golden), call_(golden, options) {
    const Tolerance tol = tolerance(options.dtype, golden.rtol);
    report.op = golden.op;
    report.name = golden.name;
    report.tolerance_output = tol.output;
    report.tolerance_grad = tol.grad;
  }

  /// As if inputs and cotangents had gone through the types of `other`.
  void round_as(const GoldenRun& other) {
    call_.rounding_ = other.call_.options_.dtype;
    for (const auto& [name, value] : other.call_.outputs_) {
      seed_types_[name] = value.dtype();
    }
  }

  void run() {
    try {
      const GoldenAdapter* const adapter = golden_registry().find(golden_.op);
      if (!adapter) {
        const std::string near = nearest_name(golden_.op, golden_registry().names());
        report.fault =
            "no op of that name" + (near.empty() ? "" : "; the nearest is '" + near + "'");
        return;
      }
      ag::Tape tape;
      (*adapter)(call_);
      report.fault = unknown();
      if (report.fault.empty()) {
        compare_outputs();
      }
      if (report.fault.empty() && !golden_.grads.empty()) {
        tape.backward(outputs_, seeds_);
        compare_grads();
      }
    } catch (const Error& e) {
      report.fault = e.message();
      report.unsupported = e.kind() == ErrorKind::kUnsupported;
    } catch (const std::exception& e) {
      report.fault = e.what();
    }
    const GoldenOptions& o = call_.options_;
    note(o.form != Form::kAuto && !call_.form_done_, "form does not apply");
    note(o.chunk > 0 && !call_.chunk_done_, "chunk does not apply");
    note(o.split > 1 && !call_.split_done_, "split does not apply");
  }
  void note(bool applies, const std::string& text) {
    if (applies) {
      report.note += (report.note.empty() ? "" : ", ") + text;
    }
  }

  /// The case with what this run computed in the place of the reference.
  GoldenCase results() const {
    GoldenCase computed = golden_;
    for (auto& [name, value] : computed.outputs) {
      value = call_.outputs_.at(name).value().to(cpu());
    }
    for (auto& [name, value] : computed.grads) {
      const Tensor& grad = call_.leaves_.at(name).grad();
      value = grad.defined() ? grad.to(cpu()) : Tensor::zeros(value.shape(), DType::kF64);
    }
    return computed;
  }

  GoldenReport report;

 private:
  std::string unknown() const {
    std::string list;
    for (const auto& [name, value] : golden_.inputs) {
      if (!call_.used_inputs_.count(name)) {
        list += (list.empty() ? "" : ", ") + ("input " + name);
      }
    }
    for (const auto& [name, value] : golden_.attributes) {
      if (!call_.used_attributes_.count(name)) {
        list += (list.empty() ? "" : ", ") + ("attribute " + name);
      }
    }
    return list.empty() ? list : "unknown " + list;
  }
  void compare_outputs() {
    for (const auto& [name, ref] : golden_.outputs) {
      const auto it = call_.outputs_.find(name);
      if (it == call_.outputs_.end() || !it->second.defined()) {
        report.fault = "output " + name + " is not computed";
        return;
      }
      const Tensor value = it->second.value().to(cpu());
      if (!same_shape("output " + name, value, ref)) {
        return;
      }
      take(error_of(value, ref), name, report.worst_output, report.worst_output_name);
      const auto seed = golden_.cotangents.find(name);
      if (seed != golden_.cotangents.end()) {
        const auto through = seed_types_.find(name);
        const Tensor rounded =
            through == seed_types_.end() ? seed->second : seed->second.to(through->second);
        outputs_.push_back(it->second);
        seeds_.push_back(rounded.to(value.dtype()).to(*call_.options_.device));
      }
    }
  }
  void compare_grads() {
    for (const auto& [name, ref] : golden_.grads) {
      // What no gradient reached has a gradient of zero.
      const Tensor& grad = call_.leaves_.at(name).grad();
      const Tensor value =
          grad.defined() ? grad.to(cpu()) : Tensor::zeros(ref.shape(), DType::kF64);
      if (same_shape("gradient of " + name, value, ref)) {
        take(error_of(value, ref), name, report.worst_grad, report.worst_grad_name);
      }
    }
  }
  bool same_shape(const std::string& what, const Tensor& value, const Tensor& ref) {
    if (value.shape() == ref.shape()) {
      return true;
    }
    report.fault =
        what + " has shape " + value.shape().str() + ", the reference " + ref.shape().str();
    return false;
  }
  static void take(double error, const std::string& name, double& worst, std::string& worst_name) {
    if (worst_name.empty() || !(error <= worst)) {
      worst = error;
      worst_name = name;
    }
  }

  const GoldenCase& golden_;
  GoldenCall call_;
  std::map<std::string, DType> seed_types_;
  std::vector<ag::Var> outputs_;
  std::vector<Tensor> seeds_;
};

GoldenReport check_golden(const GoldenCase& golden, const GoldenOptions& options) {
  GoldenRun run(golden, options);
  run.run();
  GoldenReport& report = run.report;
  if (report.passed() || !report.fault.empty() || options.dtype == DType::kF64) {
    return report;
  }
  GoldenOptions wide = options;
  wide.dtype = DType::kF64;
  wide.device = &cpu();
  GoldenRun exact(golden, wide), rounded(golden, wide);
  exact.run();
  rounded.round_as(run);
  rounded.run();
  if (!exact.report.passed() || !rounded.report.fault.empty()) {
    return report;
  }
  const GoldenCase reference = rounded.results();
  GoldenRun again(reference, options);
  again.run();
  if (!again.report.passed()) {
    return report;
  }
  again.note(true, fmt::format("against f64 on inputs rounded to {}, which changes outputs by "
                               "{:.0e}, gradients by {:.0e}",
                               enum_name(options.dtype), rounded.report.worst_output,
                               rounded.report.worst_grad));
  return again.report;
}

}  // namespace ls::golden
