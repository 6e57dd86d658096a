#include "core/op/run.h"

#include <algorithm>

#include "core/base/profile.h"
#include "core/op/report.h"
#include "core/tensor/devices.h"
#include "core/tensor/host_code.h"
#include "core/tensor/host_errors.h"
#include "core/tensor/rows.h"

namespace ls {
namespace {

thread_local int reference_depth = 0;

bool is_half(DType t) {
  return t == DType::kBF16 || t == DType::kF16;
}

[[noreturn]] void shape_mismatch(const OpInfo& op, const ArgSpec& arg, const ShapeOf& t,
                                 std::span<const ShapeOf> in) {
  std::string all;
  for (std::size_t i = 0; i < op.in.size(); ++i) {
    if (in[i].defined()) {
      all += (all.empty() ? "" : ", ") + op.in[i].name + " " + in[i].describe();
    }
  }
  LS_FAIL(kShape, "{}: argument {} has shape {}; the contract is ({}), the call has {}", op.name,
          arg.text, t.shape().str(), op.contract_in, all);
}

/// Binds the symbols of one argument. @returns false where it does not fit what is bound
bool bind_axes(const ArgSpec& arg, const ShapeOf& x, Bindings& b) {
  const int named = static_cast<int>(arg.axes.size()), leading = x.rank() - named;
  if (leading < 0 || (leading > 0 && !arg.ellipsis)) {
    return false;
  }
  if (arg.ellipsis) {
    const Shape lead(std::span<const Index>(x.shape().begin(), static_cast<std::size_t>(leading)));
    if (b.ellipsis_bound && !(b.ellipsis == lead)) {
      return false;
    }
    b.ellipsis = lead;
    b.ellipsis_bound = true;
  }
  for (int a = 0; a < named; ++a) {
    const int symbol = arg.axes[a].symbol;
    if (symbol >= 0 && !b.bind(symbol, x.shape()[leading + a])) {
      return false;
    }
  }
  return true;
}

void check_inputs(const OpInfo& op, std::span<const ShapeOf> in, DType t, Bindings& b) {
  LS_CHECK(in.size() == op.in.size(), kInternal, "{}: {} inputs for {} arguments", op.name,
           in.size(), op.in.size());
  for (std::size_t i = 0; i < in.size(); ++i) {
    const ArgSpec& arg = op.in[i];
    const ShapeOf& x = in[i];
    if (!x.defined()) {
      LS_CHECK(arg.optional, kShape, "{}: argument {} is missing", op.name, arg.text);
      continue;
    }
    if (arg.type != ArgSpec::Type::kAny) {
      const DType want = arg.dtype(t);
      LS_CHECK(x.dtype() == want, kDType, "{}: argument {} is {}, expected {}", op.name, arg.text,
               x.describe(), enum_name(want));
    }
    if (!bind_axes(arg, x, b)) {
      shape_mismatch(op, arg, x, in);
    }
  }
}

void check_expressions(const OpInfo& op, std::span<const ShapeOf> in, const Bindings& b) {
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (!in[i].defined()) {
      continue;
    }
    const ArgSpec& arg = op.in[i];
    const int named = static_cast<int>(arg.axes.size());
    for (int a = 0; a < named; ++a) {
      const std::optional<Index> want = b.evaluate(arg.axes[a]);
      if (want && *want != in[i].shape()[in[i].rank() - named + a]) {
        shape_mismatch(op, arg, in[i], in);
      }
    }
  }
}

Shape shape_of(const ArgSpec& arg, const Bindings& b, const std::string& op) {
  Shape s;
  if (arg.ellipsis) {
    s = b.ellipsis;
  }
  for (const Axis& axis : arg.axes) {
    const std::optional<Index> n = b.evaluate(axis);
    LS_CHECK(n.has_value(), kInternal, "op {}: axis '{}' of output {} is not bound", op, axis.text,
             arg.text);
    s.push_back(*n);
  }
  return s;
}

/// The first element lies as the kernel wants it; `rows`: of a slice those of every row too.
bool aligned(const Layout& x, const Operand& o, bool rows = false) {
  const Index size = dtype_size(x.dtype());
  bool all = x.offset() * size % o.alignment == 0;
  for (int a = 0; rows && !x.is_contiguous() && a + 1 < x.rank(); ++a) {
    all = all && (x.shape()[a] == 1 || x.strides()[a] * size % o.alignment == 0);
  }
  return all;
}

/// A result of this shape and type can be written to `place` by a kernel that takes `o`.
bool fits(const Tensor& place, const Operand& o, const Shape& shape, DType t) {
  return place.defined() && place.dtype() == t && place.shape() == shape && pieces_of(place) &&
         (o.strided_grad || place.is_contiguous()) && (o.adds_grad || !place.adds()) &&
         aligned(place.layout(), o, true);
}

/// Memory for an output that follows `from`, which nobody else holds: over it where it is a state,
/// behind it where it is a cache to which `fresh` rows come and of which `shape[1]` are kept. A
/// cache without room gets half as many rows more than it needs. Undefined where it cannot follow.
Tensor following(const Tensor& from, const Tensor& fresh, const Shape& shape, DType t,
                 const Operand& o) {
  if (from.dtype() != t) {
    return {};
  }
  if (!fresh.defined()) {
    const bool over = from.shape() == shape && from.is_contiguous() && aligned(from.layout(), o);
    return over ? from : Tensor();
  }
  const Index rows = from.size(1) + fresh.size(1), kept = shape[1];
  if (const Tensor longer = from.extended(1, rows); longer.defined()) {
    return longer.slice(1, rows - kept, rows);
  }
  constexpr Index kFewest = 64;
  Shape roomy = shape;
  roomy[1] = kept + std::max(kFewest, kept / 2);
  return Tensor::empty(roomy, t, from.device()).slice(1, 0, kept);
}

bool present(const Operand& o, const ShapeOf& x) {
  return o.presence == Operand::Presence::kAny ||
         x.defined() == (o.presence == Operand::Presence::kGiven);
}

/// The call is one that the kernel is for.
bool takes(const Kernel& k, int generation, std::span<const ShapeOf> in, const void* attrs,
           Launch::Pass pass) {
  if (pass == Launch::Pass::kBackward && (!k.backward || k.keeps)) {
    return false;
  }
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (!present(k.in[i], in[i])) {
      return false;
    }
  }
  return !k.fits || k.fits(in, attrs, generation);
}

/// @throws Error(Device) where operands lie on several
Device& device_of(const OpInfo& op, std::span<const Tensor> in) {
  Device* device = nullptr;
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (!in[i].defined()) {
      continue;
    }
    device = device ? device : &in[i].device();
    LS_CHECK(device == &in[i].device(), kDevice,
             "{}: argument {} lies on {}, those before it on {}; copy one of them there "
             "(Tensor::to)",
             op.name, op.in[i].text, in[i].device().describe(), device->describe());
  }
  return device ? *device : cpu();
}

std::string_view pass_name(Launch::Pass pass) {
  return pass == Launch::Pass::kForward ? "forward" : "backward";
}

[[noreturn]] void no_kernel(const OpInfo& op, DeviceType device, DType dtype, Launch::Pass pass) {
  std::string all;
  for (const Kernel& k : op.kernels) {
    all += fmt::format("{}{} ({} {})", all.empty() ? "" : ", ", k.name, enum_name(k.device),
                       enum_name(k.dtype));
  }
  LS_FAIL(kUnsupported, "{}: no {} {} kernel for {} is for this call; there are: {}", op.name,
          enum_name(device), pass_name(pass), enum_name(dtype), all.empty() ? "none" : all);
}

/// Operands in the type of the kernel, and as it reads them.
void arrange(std::vector<Tensor>& ts, const std::vector<Operand>& os, DType from, DType to) {
  for (std::size_t i = 0; i < ts.size(); ++i) {
    Tensor& t = ts[i];
    if (!t.defined()) {
      continue;
    }
    if (from != to && t.dtype() == from) {
      t = t.to(to);
    }
    if (!aligned(t.layout(), os[i]) || !os[i].lies(t.layout())) {
      t = t.clone();
    }
  }
}

/// Whose kernels a device runs.
DeviceType kernels_of(const Device& device) {
  return device.properties().runs_host_code ? DeviceType::kCpu : device.type();
}

void run_kernel(const Kernel& kernel, Launch::Pass pass, std::span<const Tensor> read,
                std::span<Tensor> written, std::array<std::size_t, 3> sizes, const void* attrs) {
  const auto in = read.first(sizes[0]);
  if (pass == Launch::Pass::kForward) {
    kernel.forward(in, written.first(sizes[1]), written.subspan(sizes[1]), attrs);
  } else {
    kernel.backward(in, read.subspan(sizes[0], sizes[1]),
                    read.subspan(sizes[0] + sizes[1], sizes[2]), written,
                    read.subspan(sizes[0] + sizes[1] + sizes[2]), attrs);
  }
}

/// Puts the kernel on this thread's stream of the device. The processor's runs now, so that a bad
/// value that it finds is an error of this call.
void execute(Launch& l) {
  const bool forward = l.pass == Launch::Pass::kForward;
  if (l.device->type() == DeviceType::kCpu) {
    ErrorFlag bad;
    {
      const UseErrorFlag use(&bad);
      forward ? l.kernel->forward(l.in, l.out, l.kept, l.attrs.get())
              : l.kernel->backward(l.in, l.out, l.dout, l.din, l.kept, l.attrs.get());
    }
    check_error_flag(bad);
    return;
  }
  const ExecutionContext ctx = current_context(*l.device);
  const std::array<std::size_t, 3> sizes = {l.in.size(), l.out.size(), l.dout.size()};
  std::vector<Tensor> read = l.in, written = forward ? l.out : l.din;
  if (!forward) {
    read.insert(read.end(), l.out.begin(), l.out.end());
    read.insert(read.end(), l.dout.begin(), l.dout.end());
  }
  std::vector<Tensor>& keeps = forward ? written : read;
  keeps.insert(keeps.end(), l.kept.begin(), l.kept.end());
  if (l.device->properties().runs_host_code) {
    launch_host_code(ctx, l.op->name, read, written,
                     [kernel = l.kernel, pass = l.pass, sizes, attrs = l.attrs](
                         std::span<const Tensor> in, std::span<Tensor> out) {
                       run_kernel(*kernel, pass, in, out, sizes, attrs.get());
                     });
    return;
  }
  const ErrorContext context(l.op->name);
  const RunningOn running(ctx);
  run_kernel(*l.kernel, l.pass, read, written, sizes, l.attrs.get());
  record_launch(ctx, read, written);
}

/// Results of the op's float type that were computed in a wider one.
void narrow(Launch& l) {
  const DType t = l.dtype;
  if (l.kernel->dtype == t) {
    return;
  }
  const bool forward = l.pass == Launch::Pass::kForward;
  std::vector<Tensor>& results = forward ? l.out : l.din;
  const std::vector<ArgSpec>& args = forward ? l.op->out : l.op->in;
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (results[i].defined() && args[i].type == ArgSpec::Type::kFloat && !args[i].grad_is_acc) {
      results[i] = results[i].to(t);
    }
  }
}

std::vector<Tensor> make_outputs(const Launch& l, std::span<const Tensor> in, const Bindings& b,
                                 const std::vector<bool>& spent, std::span<const Tensor> places) {
  const OpInfo& op = *l.op;
  std::vector<Tensor> out(op.out.size());
  // References write where they want; and of documents in one row the last may end before the first
  // has read what it starts from.
  const auto given = [&](std::string_view name) {
    const int i = op.input_index(name);
    return i >= 0 && in[static_cast<std::size_t>(i)].defined();
  };
  const bool packed = !spent.empty() && given("offsets");
  const bool appended = !spent.empty() && given("used");  // the cache is a buffer, as a state is
  const bool own_kernel = l.kernel->dtype == l.dtype && op.has(*l.kernel);
  const bool in_place = !spent.empty() && !packed && own_kernel;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const ArgSpec& arg = op.out[i];
    if (arg.optional && b.dropped(arg.name)) {
      continue;
    }
    const Shape shape = shape_of(arg, b, op.name);
    const DType t = arg.dtype(l.kernel->dtype);
    if (own_kernel && !places.empty() && fits(places[i], l.kernel->out[i], shape, t)) {
      out[i] = places[i];
    } else if (in_place && arg.continues >= 0 && spent[static_cast<std::size_t>(arg.continues)]) {
      out[i] =
          following(in[static_cast<std::size_t>(arg.continues)],
                    arg.fresh < 0 || appended ? Tensor() : in[static_cast<std::size_t>(arg.fresh)],
                    shape, t, l.kernel->out[i]);
    }
    if (!out[i].defined()) {
      out[i] = Tensor::empty(shape, t, *l.device);
    }
  }
  return out;
}

}  // namespace

UseReference::UseReference() {
  ++reference_depth;
}
UseReference::~UseReference() {
  --reference_depth;
}

std::vector<ShapeOf> shapes_of(std::span<const Tensor> tensors) {
  std::vector<ShapeOf> out;
  out.reserve(tensors.size());
  for (const Tensor& t : tensors) {
    out.emplace_back(t);
  }
  return out;
}

DType op_dtype(const OpInfo& op, std::span<const ShapeOf> in) {
  for (std::size_t i = 0; i < op.in.size(); ++i) {
    if (op.in[i].type == ArgSpec::Type::kFloat && in[i].defined()) {
      LS_CHECK(is_float(in[i].dtype()), kDType, "{}: argument {} is {}, expected a float type",
               op.name, op.in[i].text, in[i].describe());
      return in[i].dtype();
    }
  }
  return DType::kF32;
}
DType op_dtype(const OpInfo& op, std::span<const Tensor> in) {
  return op_dtype(op, shapes_of(in));
}

const Kernel& choose_kernel(const OpInfo& op, DeviceType device, int generation, DType dtype,
                            std::span<const ShapeOf> in, const void* attrs, Launch::Pass pass) {
  const auto own = [&](DType t) -> const Kernel* {
    for (const Kernel& k : op.kernels) {
      if (k.device == device && k.dtype == t && takes(k, generation, in, attrs, pass)) {
        return &k;
      }
    }
    return nullptr;
  };
  const auto reference = [&](DType t) -> const Kernel* {
    const Kernel& k = op.references[static_cast<std::size_t>(t)];
    return pass == Launch::Pass::kForward ? (k.forward ? &k : nullptr)
                                          : (k.backward ? &k : nullptr);
  };
  const bool host = device == DeviceType::kCpu;
  for (const DType t : {dtype, DType::kF32}) {
    if (const Kernel* k = host && reference_depth > 0 ? nullptr : own(t)) {
      return *k;
    }
    if (const Kernel* k = host ? reference(t) : nullptr) {
      return *k;
    }
    if (!host || !is_half(dtype)) {
      break;
    }
  }
  no_kernel(op, device, dtype, pass);
}

Launch prepare_forward(const OpInfo& op, std::span<const Tensor> in, Attributes attrs,
                       const std::vector<bool>& spent, Kept* kept, std::span<const Tensor> places) {
  const std::vector<ShapeOf> shapes = shapes_of(in);
  Launch l;
  l.op = &op;
  l.attrs = std::move(attrs);
  l.dtype = op_dtype(op, shapes);
  Bindings b(op.symbols);
  check_inputs(op, shapes, l.dtype, b);
  if (op.bind) {
    op.bind(shapes, l.attrs.get(), b);
  }
  check_expressions(op, shapes, b);
  l.device = &device_of(op, in);
  l.kernel = &choose_kernel(op, kernels_of(*l.device), l.device->properties().generation, l.dtype,
                            shapes, l.attrs.get(), l.pass);
  l.out = make_outputs(l, in, b, spent, places);
  l.in.assign(in.begin(), in.end());
  if (kept) {
    kept->kernel = l.kernel;
    kept->tensors.clear();
    if (l.kernel->keeps) {
      for (const ShapeOf& s : l.kernel->keeps(shapes, l.attrs.get())) {
        kept->tensors.push_back(Tensor::empty(s.shape(), s.dtype(), *l.device));
      }
    }
    l.kept = kept->tensors;
  }
  return l;
}

void launch(Launch& l) {
  const Kernel& k = *l.kernel;
  arrange(l.in, k.in, l.dtype, k.dtype);
  if (l.pass == Launch::Pass::kBackward) {
    arrange(l.out, k.out, l.dtype, k.dtype);
    arrange(l.dout, k.out, l.dtype, k.dtype);
  }
  execute(l);
  narrow(l);
}

std::vector<Tensor> run_forward(const OpInfo& op, std::span<const Tensor> in, Attributes attrs,
                                const std::vector<bool>& spent, Kept* kept,
                                std::span<const Tensor> places) {
  profile::Scope timed(op.name, "forward");
  if (profile::running() && op.cost) {
    const Cost cost = op.cost(shapes_of(in), attrs.get());
    timed.cost(cost.bytes, cost.flops);
  }
  Launch l = prepare_forward(op, in, std::move(attrs), spent, kept, places);
  if (OpReports* const listener = OpReports::listener()) {
    listener->note_kernel(op, l.kernel->name);
  }
  launch(l);
  return std::move(l.out);
}

namespace {

/// The first half of a backward pass; nothing to launch where `kernel` stays null.
Launch prepare_backward(const OpInfo& op, std::span<const Tensor> in, std::span<const Tensor> out,
                        std::span<const Tensor> dout, const std::vector<bool>& wanted,
                        std::span<const ShapeOf> shapes, DType t, Attributes attrs,
                        std::span<const Tensor> places, const Kept& kept) {
  Launch l;
  l.op = &op;
  l.attrs = std::move(attrs);
  l.pass = Launch::Pass::kBackward;
  l.dtype = t;
  for (const std::span<const Tensor> operands : {in, out, dout}) {
    for (const Tensor& x : operands) {
      l.device = x.defined() ? &x.device() : l.device;
    }
  }
  const bool keeps = kept.kernel && kept.kernel->keeps && reference_depth == 0;
  const Kernel& k =
      keeps ? *kept.kernel
            : choose_kernel(op, kernels_of(*l.device), l.device->properties().generation, t, shapes,
                            l.attrs.get(), l.pass);
  const bool own_kernel = k.dtype == t && op.has(k);
  l.din.resize(op.in.size());
  for (std::size_t i = 0; i < l.din.size(); ++i) {
    if (wanted[i] && op.in[i].differentiable) {
      const Shape& shape = shapes[i].shape();
      const DType g = op.in[i].grad_dtype(k.dtype);
      const bool in_place = own_kernel && !places.empty() && fits(places[i], k.in[i], shape, g);
      l.din[i] = in_place ? places[i] : Tensor::empty(shape, g, *l.device);
    }
  }
  const auto defined = [](const Tensor& x) { return x.defined(); };
  if (std::none_of(l.din.begin(), l.din.end(), defined)) {
    return l;
  }
  if (std::none_of(dout.begin(), dout.end(), defined)) {
    for (std::size_t i = 0; i < l.din.size(); ++i) {
      if (l.din[i].defined()) {
        l.din[i] = Tensor::zeros(shapes[i].shape(), op.in[i].grad_dtype(t), *l.device);
      }
    }
    return l;
  }
  l.kernel = &k;
  l.in.assign(in.begin(), in.end());
  l.out.assign(out.begin(), out.end());
  l.dout.assign(dout.begin(), dout.end());
  if (keeps) {
    l.kept = kept.tensors;
  }
  return l;
}

}  // namespace

std::vector<Tensor> run_backward(const OpInfo& op, std::span<const Tensor> in,
                                 std::span<const Tensor> out, std::span<const Tensor> dout,
                                 const std::vector<bool>& wanted, std::span<const ShapeOf> shapes,
                                 DType t, Attributes attrs, std::span<const Tensor> places,
                                 const Kept& kept) {
  for (std::size_t i = 0; i < dout.size(); ++i) {
    LS_CHECK(!dout[i].defined() || op.out[i].differentiable, kUnsupported,
             "op {}: output {} has no gradient, but what is differentiated depends on it; detach() "
             "it where it is meant as a constant",
             op.name, op.out[i].name);
  }
  std::vector<bool> once = wanted;
  const int first = op.same_gradient[0], second = op.same_gradient[1];
  const bool shared = first >= 0 && wanted[static_cast<std::size_t>(first)] &&
                      wanted[static_cast<std::size_t>(second)];
  if (shared) {
    once[static_cast<std::size_t>(second)] = false;
  }
  Launch l = prepare_backward(op, in, out, dout, once, shapes, t, std::move(attrs), places, kept);
  if (l.kernel) {
    launch(l);
  }
  if (shared) {
    l.din[static_cast<std::size_t>(second)] = l.din[static_cast<std::size_t>(first)];
  }
  return std::move(l.din);
}

}  // namespace ls
