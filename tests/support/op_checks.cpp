#include "tests/support/op_checks.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>
#include <optional>
#include <set>

#include "autograd/call.h"
#include "autograd/gradcheck.h"
#include "autograd/tape.h"
#include "core/base/parallel_for.h"
#include "core/base/rng.h"
#include "tests/support/poison.h"
#include "tests/support/tolerance.h"

namespace ls::test {
namespace {

using Tensors = std::vector<Tensor>;
using Layout = Tensor (*)(const Tensor&);

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

Tensor copied_into(Tensor view, const Tensor& t) {
  view.copy_(t);
  return view;
}

/// Room on both sides of every axis.
Tensor padded(const Tensor& t) {
  Shape shape = t.shape();
  for (int a = 0; a < shape.rank(); ++a) {
    shape[a] += 3;
  }
  Tensor view = Tensor::full(shape, t.dtype(), 77);
  for (int a = 0; a < shape.rank(); ++a) {
    view = view.slice(a, 1, 1 + t.size(a));
  }
  return copied_into(view, t);
}

/// Every second element of memory.
Tensor interleaved(const Tensor& t) {
  Shape shape = t.shape();
  shape.push_back(2);
  return copied_into(Tensor::full(shape, t.dtype(), 77).select(-1, 1), t);
}

/// Axes stored in the opposite order.
Tensor transposed(const Tensor& t) {
  Shape shape;
  std::vector<int> axes;
  for (int a = t.rank() - 1; a >= 0; --a) {
    shape.push_back(t.size(a));
    axes.push_back(a);
  }
  return copied_into(Tensor::full(shape, t.dtype(), 77).permute(std::span<const int>(axes)), t);
}

/// The first slice of an axis everywhere, with stride 0. Integers stay as they are.
template <int axis>
Tensor expanded(const Tensor& t) {
  if (t.rank() <= axis || t.size(axis) == 0 || !is_float(t.dtype())) {
    return t;
  }
  return t.slice(axis, 0, 1).expand(t.shape());
}

/// One element everywhere, as sums send it back.
Tensor constant(const Tensor& t) {
  if (t.numel() == 0) {
    return t;
  }
  Tensor one = t;
  Shape ones;
  for (int a = 0; a < t.rank(); ++a) {
    one = one.slice(a, 0, 1);
    ones.push_back(1);
  }
  return one.expand(t.shape());
}

bool has_word(const std::string& text, const std::string& word) {
  const auto in_word = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.';
  };
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
    const std::size_t end = at + word.size();
    if ((at == 0 || !in_word(text[at - 1])) && (end == text.size() || !in_word(text[end]))) {
      return true;
    }
  }
  return false;
}

Tensors each(const Tensors& ts, Layout f) {
  Tensors out;
  for (const Tensor& t : ts) {
    out.push_back(t.defined() ? f(t) : Tensor());
  }
  return out;
}

Tensor packed_copy(const Tensor& t) {
  return t.clone();
}

class Checker {
 public:
  Checker(const OpInfo& op, const OpCase& c) : op_(op), case_(c) {
    for (const Tensor& x : c.in) {
      terms_ = std::max(terms_, x.defined() ? x.numel() : Index{0});
    }
    Rng rng(23, "op cases/" + c.name);
    const UseReference reference;
    const Tensors out = run_forward(op, inputs(DType::kF64), attrs());
    for (std::size_t i = 0; i < out.size(); ++i) {
      const bool given = out[i].defined() && op.differentiable_out[i] && is_float(out[i].dtype()) &&
                         std::count(c.kept.begin(), c.kept.end(), op.out[i].name) == 0;
      cotangent_.push_back(given ? Tensor::empty(out[i].shape(), DType::kF64) : Tensor());
      for (Index e = 0; given && e < out[i].numel(); ++e) {
        cotangent_[i].data<double>()[e] = rng.normal();
      }
    }
  }

  std::vector<std::string> run() {
    derivative();
    for (const DType t : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
      values(t);
    }
    for (const DType t : {DType::kF64, DType::kF32, DType::kBF16}) {
      repeats(t);
      strides(t);
      subsets(t);
      absent(t);
      places(t);
    }
    no_gradients();
    refusals();
    cost();
    return std::move(faults_);
  }

  /// Names of the inputs and outputs whose gradients are compared with finite differences.
  std::vector<std::string> differentiated() const {
    std::vector<std::string> ins, outs;
    for (std::size_t i = 0; i < op_.in.size(); ++i) {
      if (all_wanted()[i] && case_.in[i].numel() > 0) {
        ins.push_back(op_.in[i].name);
      }
    }
    for (std::size_t i = 0; i < op_.out.size(); ++i) {
      if (cotangent_[i].defined() && cotangent_[i].numel() > 0) {
        outs.push_back(op_.out[i].name);
      }
    }
    if (!case_.smooth || !case_.backward || ins.empty() || outs.empty()) {
      return {};
    }
    ins.insert(ins.end(), outs.begin(), outs.end());
    return ins;
  }

 private:
  struct Call {
    Tensors in, out, dout, din;
  };

  const void* attrs() const { return case_.attrs.get(); }
  std::string in_name(std::size_t i) const { return op_.in[i].name; }

  DType type_of(const ArgSpec& arg, const Tensor& x, DType t) const {
    return !x.defined() || !is_float(x.dtype()) ? DType::kI64
           : arg.type == ArgSpec::Type::kFloat  ? t
           : arg.type == ArgSpec::Type::kAcc    ? acc_dtype(t)
           : arg.type == ArgSpec::Type::kExact  ? arg.exact
                                                : x.dtype();
  }
  /// Inputs of a call in type `t`.
  Tensors inputs(DType t) const {
    Tensors in = case_.in;
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (in[i].defined() && is_float(in[i].dtype())) {
        in[i] = in[i].to(type_of(op_.in[i], in[i], t));
      }
    }
    return in;
  }
  Tensors cotangents(DType t) const {
    Tensors d = cotangent_;
    for (std::size_t i = 0; i < d.size(); ++i) {
      if (d[i].defined()) {
        d[i] = d[i].to(type_of(op_.out[i], d[i], t));
      }
    }
    return d;
  }
  /// As numbers of f64 that have those values.
  static Tensors widened(Tensors ts) {
    for (Tensor& t : ts) {
      t = t.defined() && is_float(t.dtype()) ? t.to(DType::kF64) : t;
    }
    return ts;
  }

  bool has_backward() const { return op_.has_backward && case_.backward; }
  std::vector<bool> all_wanted() const {
    std::vector<bool> wanted;
    for (std::size_t i = 0; i < op_.in.size(); ++i) {
      wanted.push_back(case_.backward && case_.in[i].defined() && op_.differentiable[i]);
    }
    return wanted;
  }

  Tensors backward(const Call& c, const Tensors& dout, const std::vector<bool>& wanted,
                   const Tensors& places = {}) const {
    Tensors in = c.in, out = c.out;
    std::vector<Shape> shapes;
    for (std::size_t i = 0; i < in.size(); ++i) {
      shapes.push_back(in[i].defined() ? in[i].shape() : Shape());
      if (!op_.saves_in[i]) {
        in[i] = Tensor();
      }
    }
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (!op_.saves_out[i]) {
        out[i] = Tensor();
      }
    }
    return run_backward(op_, in, out, dout, wanted, shapes, op_dtype(op_, c.in), attrs(), places);
  }
  Call call(const Tensors& in, const Tensors& dout) const {
    Call c{in, run_forward(op_, in, attrs()), dout, {}};
    if (has_backward()) {
      c.din = backward(c, dout, all_wanted());
    }
    return c;
  }

  template <class... Args>
  void fault(fmt::format_string<Args...> format, Args&&... args) {
    faults_.push_back(fmt::format(format, std::forward<Args>(args)...) + " [" + case_.name + "]");
  }

  /// One fault a call is enough.
  void same(const std::string& what, const Call& got, const Call& want, double allowed) {
    const auto compare = [&](const std::string& name, const Tensor& x, const Tensor& y) {
      const std::string d = allowed > 0 ? difference(x, y, allowed) : bit_difference(x, y);
      if (!d.empty()) {
        fault("{}: {}: {}", what, name, d);
      }
      return d.empty();
    };
    for (std::size_t i = 0; i < got.out.size(); ++i) {
      if (!compare(op_.out[i].name, got.out[i], want.out[i])) {
        return;
      }
    }
    for (std::size_t i = 0; i < got.din.size(); ++i) {
      if (!compare("d" + in_name(i), got.din[i], want.din[i])) {
        return;
      }
    }
  }
  double allowed(DType t) const { return tolerance(t, terms_) * case_.slack; }

  // ---- checks

  void derivative() {
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

  /// A call on poisoned, guarded copies; says what it did beside its results.
  Call watched(const std::string& who, const Tensors& in, const Tensors& dout) {
    Call result;
    {
      const Poisoned poisoned;
      {
        Call c{each(in, packed_copy), {}, each(dout, packed_copy), {}};
        const auto in_before = hashes(c.in), dout_before = hashes(c.dout);
        c.out = run_forward(op_, c.in, attrs());
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
  void written(const std::string& who, const char* kind, const std::vector<ArgSpec>& args,
               const Tensors& results) {
    for (std::size_t i = 0; i < results.size(); ++i) {
      const std::optional<Index> at = results[i].defined() ? unwritten(results[i]) : std::nullopt;
      if (at) {
        fault("unwritten: {}: element {} of {}{} {}", who, *at, kind, args[i].name,
              results[i].describe());
      }
    }
  }

  void values(DType t) {
    const std::string type(enum_name(t));
    const Tensors in = inputs(t), dout = cotangents(t);
    const Call got = watched(type, in, dout);
    const UseReference reference;
    const Call want = watched("the reference", widened(in), widened(dout));
    same("value: " + type, got, want, allowed(t));
  }

  void repeats(DType t) {
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

  void strides(DType t) {
    const Tensors in = inputs(t), dout = cotangents(t);
    const struct {
      const char* name;
      Layout in, dout;
    } layouts[] = {{"padded", padded, padded},
                   {"interleaved", interleaved, interleaved},
                   {"transposed", transposed, transposed},
                   {"expanded", expanded<0>, expanded<0>},
                   {"expanded along axis 1", expanded<1>, constant}};
    for (const auto& layout : layouts) {
      const Tensors x = each(in, layout.in), g = each(dout, layout.dout);
      same(fmt::format("strides: {}, {}", enum_name(t), layout.name), call(x, g),
           call(each(x, packed_copy), each(g, packed_copy)), allowed(t));
    }
  }

  void subsets(DType t) {
    if (!has_backward()) {
      return;
    }
    const Call whole = call(inputs(t), cotangents(t));
    for (std::size_t i = 0; i < op_.in.size(); ++i) {
      if (!whole.din[i].defined()) {
        continue;
      }
      for (const bool alone : {true, false}) {
        std::vector<bool> wanted = alone ? std::vector<bool>(op_.in.size()) : all_wanted();
        wanted[i] = alone;
        Call part = whole;
        part.din = backward(whole, whole.dout, wanted);
        for (std::size_t k = 0; k < wanted.size(); ++k) {
          if (part.din[k].defined() != wanted[k]) {
            fault("subset: d{} is {} where it is {}", in_name(k), wanted[k] ? "not given" : "given",
                  wanted[k] ? "wanted" : "not wanted");
          } else if (!wanted[k]) {
            part.din[k] = whole.din[k];
          }
        }
        same(
            fmt::format("subset: {}, {} d{}", enum_name(t), alone ? "only" : "all but", in_name(i)),
            part, whole, allowed(t));
      }
    }
  }

  void absent(DType t) {
    if (!has_backward()) {
      return;
    }
    const Tensors dout = cotangents(t);
    const Call whole = call(inputs(t), dout);
    const auto compare = [&](const std::string& what, const Tensors& partly, Tensors zeros) {
      for (std::size_t i = 0; i < zeros.size(); ++i) {
        if (dout[i].defined() && !partly[i].defined()) {
          zeros[i] = Tensor::zeros(dout[i].shape(), dout[i].dtype());
        }
      }
      Call got = whole, want = whole;
      got.din = backward(whole, partly, all_wanted());
      want.din = backward(whole, zeros, all_wanted());
      same(fmt::format("absent: {}, {}", enum_name(t), what), got, want, allowed(t));
    };
    compare("no gradient at all", Tensors(dout.size()), Tensors(dout.size()));
    for (std::size_t i = 0; i < dout.size(); ++i) {
      if (dout[i].defined()) {
        Tensors one(dout.size()), others = dout;
        one[i] = dout[i];
        others[i] = Tensor();
        compare("only d" + op_.out[i].name, one, one);
        compare("all but d" + op_.out[i].name, others, others);
      }
    }
  }

  /// Pieces made of the axes from `axis` on, each within a longer one of 77s that `all` is.
  static Tensor place_like(const Tensor& t, int axis, Tensor& all) {
    Shape shape;
    Index piece = 1;
    for (int a = 0; a < t.rank(); ++a) {
      if (a < axis) {
        shape.push_back(t.size(a));
      } else {
        piece *= t.size(a);
      }
    }
    shape.push_back(piece + 5);
    all = Tensor::full(shape, t.dtype(), 77);
    return all.slice(-1, 2, 2 + piece).view(t.shape());
  }

  void places(DType t) {
    const auto kernel = static_cast<std::size_t>(t);
    if (!has_backward() || !op_.backward_cpu[kernel]) {
      return;
    }
    const Call whole = call(inputs(t), cotangents(t));
    for (int axis = 0; axis < kMaxRank; ++axis) {
      Tensors all(whole.din.size()), given(whole.din.size());
      bool any = false;
      for (std::size_t i = 0; i < given.size(); ++i) {
        if (op_.strided_grad[i] && whole.din[i].defined() && axis < whole.din[i].rank()) {
          given[i] = place_like(whole.din[i], axis, all[i]);
          any = true;
        }
      }
      if (!any) {
        return;
      }
      Call got = whole;
      got.din = backward(whole, whole.dout, all_wanted(), given);
      const std::string what = fmt::format("places: {}, pieces from axis {}", enum_name(t), axis);
      same(what, got, whole, 0);
      for (std::size_t i = 0; i < given.size(); ++i) {
        if (!given[i].defined()) {
          continue;
        }
        // A call without any incoming gradient gives zeros of its own.
        if (!got.din[i].shares_storage(given[i]) && dout_given(whole.dout)) {
          fault("{}: d{} is not there", what, in_name(i));
        }
        given[i].fill_(77);
        if (!bit_difference(all[i], Tensor::full(all[i].shape(), all[i].dtype(), 77)).empty()) {
          fault("{}: d{} is written beside its place", what, in_name(i));
        }
      }
    }
  }
  static bool dout_given(const Tensors& dout) {
    return std::any_of(dout.begin(), dout.end(), [](const Tensor& d) { return d.defined(); });
  }

  void no_gradients() {
    const Tensors in = inputs(DType::kF32);
    const auto refused = [&](const std::string& argument, const auto& call) {
      try {
        call();
        fault("no gradient: one of {} is not refused", argument);
      } catch (const Error& e) {
        if (e.kind() != ErrorKind::kUnsupported || !has_word(e.message(), op_.name) ||
            !has_word(e.message(), argument)) {
          fault("no gradient: one of {} gives the {} error '{}'", argument,
                error_kind_name(e.kind()), e.message());
        }
      }
    };
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (in[i].defined() && is_float(in[i].dtype()) && !op_.differentiable[i]) {
        refused(in_name(i), [&] {
          std::vector<ag::Var> vars(in.begin(), in.end());
          vars[i] = ag::Var::leaf(in[i]);
          const ag::Tape tape;
          ag::call(op_, vars, case_.attrs);
        });
      }
    }
    const std::vector<bool> wanted = all_wanted();
    for (std::size_t k = 0; k < op_.out.size() && has_backward(); ++k) {
      std::vector<ag::Var> vars;
      for (std::size_t i = 0; i < in.size(); ++i) {
        vars.push_back(wanted[i] ? ag::Var::leaf(in[i]) : ag::Var(in[i]));
      }
      ag::Tape tape;
      const ag::Var out = ag::call(op_, vars, case_.attrs)[k];
      if (out.defined() && is_float(out.dtype()) && !op_.differentiable_out[k]) {
        refused(op_.out[k].name,
                [&] { tape.backward(out, Tensor::zeros(out.shape(), out.dtype())); });
      }
    }
  }

  /// How often an axis symbol stands among the arguments of this call.
  int uses(const std::string& symbol) const {
    int n = 0;
    for (std::size_t i = 0; i < op_.in.size(); ++i) {
      if (case_.in[i].defined()) {
        n += static_cast<int>(std::count(op_.in[i].axes.begin(), op_.in[i].axes.end(), symbol));
      }
    }
    return n;
  }

  /// `must`: it has to be refused; else it may be a right call. The message may name another
  /// argument that shares an axis with argument i.
  void refused(std::size_t i, const std::string& what, const Tensors& in, ErrorKind kind,
               bool must) {
    try {
      run_forward(op_, in, attrs());
      if (must) {
        fault("refusal: {} {} is not refused", in_name(i), what);
      }
    } catch (const Error& e) {
      const bool argument = std::any_of(op_.in.begin(), op_.in.end(), [&](const ArgSpec& arg) {
        return has_word(e.message(), arg.name);
      });
      if (e.kind() != kind || !has_word(e.message(), op_.name) || !argument) {
        fault("refusal: {} {} gives the {} error '{}'", in_name(i), what, error_kind_name(e.kind()),
              e.message());
      }
    } catch (const std::exception& e) {
      fault("refusal: {} {} throws '{}'", in_name(i), what, e.what());
    }
  }

  void refusals() {
    const Tensors in = inputs(DType::kF32);
    int ellipses = 0;
    for (std::size_t i = 0; i < in.size(); ++i) {
      ellipses += in[i].defined() && op_.in[i].ellipsis;
    }
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (!in[i].defined()) {
        continue;
      }
      const ArgSpec& arg = op_.in[i];
      const auto with = [&](const Tensor& x) {
        Tensors changed = in;
        changed[i] = x;
        return changed;
      };
      if (!arg.optional) {
        refused(i, "missing", with({}), ErrorKind::kShape, true);
      }
      const bool is_index = !is_float(in[i].dtype());
      refused(i, "of another type", with(in[i].to(is_index ? DType::kF32 : DType::kI32)),
              ErrorKind::kDType, true);
      if (!is_index && arg.type != ArgSpec::Type::kFloat) {
        refused(i, "of another float type", with(in[i].to(DType::kF16)), ErrorKind::kDType, true);
      }
      if (!arg.ellipsis || ellipses > 1) {
        refused(i, "with one more axis", with(in[i].unsqueeze(0)), ErrorKind::kShape, true);
      }
      if (!arg.axes.empty() && in[i].numel() > 0) {
        Tensor flat = in[i];
        while (flat.rank() >= static_cast<int>(arg.axes.size())) {
          flat = flat.select(0, 0);
        }
        refused(i, "with too few axes", with(flat), ErrorKind::kShape, true);
      }
      for (int a = 0; a < in[i].rank(); ++a) {
        const int named = a - (in[i].rank() - static_cast<int>(arg.axes.size()));
        const std::string symbol =
            named >= 0 ? arg.axes[static_cast<std::size_t>(named)] : std::string("...");
        Shape shape = in[i].shape();
        shape[a] += 1;
        refused(i, fmt::format("with one more element along axis {}", a),
                with(Tensor::zeros(shape, in[i].dtype())), ErrorKind::kShape,
                named < 0 ? ellipses > 1 : uses(symbol) > 1);
      }
    }
  }

  void cost() {
    if (!op_.cost) {
      fault("cost: none is declared");
      return;
    }
    const Tensors in = inputs(DType::kF32);
    const Cost c = op_.cost(in, attrs());
    const Tensors out = run_forward(op_, in, attrs());
    const auto filled = [](const Tensor& t) { return !t.defined() || t.numel() > 0; };
    const bool empty =
        !std::all_of(in.begin(), in.end(), filled) || !std::all_of(out.begin(), out.end(), filled);
    // Ops that only move rows compute nothing.
    if (!empty &&
        !(std::isfinite(c.bytes) && c.bytes > 0 && std::isfinite(c.flops) && c.flops >= 0)) {
      fault("cost: {} bytes and {} flops", c.bytes, c.flops);
    }
  }

  const OpInfo& op_;
  const OpCase& case_;
  Tensors cotangent_;
  Index terms_ = 1;
  std::vector<std::string> faults_;
};

}  // namespace

std::vector<std::string> check_op(const OpInfo& op, const OpCase& c) {
  try {
    return Checker(op, c).run();
  } catch (const std::exception& e) {
    return {fmt::format("exception: {} [{}]", e.what(), c.name)};
  }
}

std::vector<std::string> unchecked_gradients(const OpInfo& op, const std::vector<OpCase>& cases) {
  std::set<std::string> checked;
  for (const OpCase& c : cases) {
    for (std::string& name : Checker(op, c).differentiated()) {
      checked.insert(std::move(name));
    }
  }
  std::vector<std::string> unchecked;
  const auto look = [&](const std::vector<ArgSpec>& args, const std::vector<bool>& differentiable) {
    for (std::size_t i = 0; i < args.size(); ++i) {
      if (differentiable[i] && checked.count(args[i].name) == 0) {
        unchecked.push_back(args[i].name);
      }
    }
  };
  look(op.in, op.differentiable);
  look(op.out, op.differentiable_out);
  return unchecked;
}

}  // namespace ls::test
