// The functions of a scan that has summaries, made of the class of its transition.
#include "layers/scan/scan.h"

namespace ls::layers {
namespace {

/// Columns of a, then of b.
Tensor beside(const Tensor& a, const Tensor& b) {
  const Index n = a.size(-1), all = n + b.size(-1);
  Tensor out = Tensor::empty(with_columns(a.shape(), all), a.dtype(), a.device());
  out.slice(-1, 0, n).copy_(a);
  out.slice(-1, n, all).copy_(b);
  return out;
}
/// Keeps the first n columns and returns the others, as views.
Tensor cut(Tensor& t, Index n) {
  const Tensor whole = t;
  t = whole.slice(-1, 0, n);
  return whole.slice(-1, n, whole.size(-1));
}

/// Shared by the functions of one scan. Ops register in any order: names are looked up when called.
class Summaries {
 public:
  Summaries(const ScanInfo& scan, SummaryParts parts)
      : op_(*scan.op),
        ports_(scan.states),
        read_by_(scan.read_by),
        clone_(scan.clone_attrs),
        parts_(std::move(parts)) {}

  Tensors summarize(std::span<const Tensor> in, const void* attrs) const {
    if (parts_.wide) {
      return local(in, attrs).summary;
    }
    Tensors summary = parts_.writes ? parts_.writes(in, attrs) : written(in, attrs);
    if (parts_.writes && !parts_.moves) {
      return summary;
    }
    for (Tensor& m : parts_.moves ? parts_.moves(in, attrs) : moved_unit(in, summary[0], attrs)) {
      summary.push_back(std::move(m));
    }
    return summary;
  }
  /// The values' columns from no state, and beside them, nothing being written, those of the unit
  /// state.
  LocalPart local(std::span<const Tensor> in, const void* attrs) const {
    Tensors from(in.begin(), in.end());
    Tensor& values = input_of(op_, from, parts_.values);
    const Index columns = values.size(-1);
    const Tensor none = written(without_tokens(in), attrs)[0];
    const Tensor zeros = Tensor::zeros(none.shape(), none.dtype(), none.device());
    const Tensor unit = parts_.transition->unit(none);
    input_of(op_, from, ports_[0].input) = beside(zeros, unit);
    values = beside(values, Tensor::zeros(with_columns(values.shape(), unit.size(-1)),
                                          values.dtype(), values.device()));
    LocalPart part;
    part.out = run_forward(op_, from, clone_(attrs));
    Tensor& written = output_of(op_, part.out, ports_[0].output);
    const Tensor moved = cut(written, columns).contiguous();
    part.reads = cut(output_of(op_, part.out, read_by_), columns).contiguous().to(written.dtype());
    written = written.contiguous();
    part.summary = {written, moved};
    return part;
  }
  /// The summary of no tokens.
  Tensors identity(std::span<const Tensor> like, const void* attrs) const {
    return summarize(without_tokens(like), attrs);
  }
  Tensors compose(const Tensors& earlier, const Tensors& later, const void* attrs) const {
    return layers::compose(*parts_.transition, earlier, later, ports_.size(), window(attrs));
  }
  Tensors act(const Tensors& summary, const Tensors& states, const void* attrs) const {
    return layers::act(*parts_.transition, summary, states, window(attrs));
  }
  Tensors act_adjoint(const Tensors& summary, const Tensors& states, const Tensors& dstates,
                      const void* attrs) const {
    return layers::act_adjoint(*parts_.transition, summary, states, dstates, window(attrs));
  }
  Tensors forget(std::span<const Tensor> like, const Tensors& fresh, const void* attrs) const {
    Tensors none = identity(like, attrs);
    const auto behind = none.begin() + std::ssize(ports_);
    Tensors transition(behind, none.end());
    parts_.transition->forget(transition);
    for (std::size_t i = 0; i < ports_.size(); ++i) {
      none[i] = fresh_state(fresh[i], none[i]);
    }
    return none;
  }

 private:
  Tensors without_tokens(std::span<const Tensor> in) const {
    Tensors none(in.begin(), in.end());
    for (std::size_t i = 0; i < none.size(); ++i) {
      if (none[i].defined() && is_sequence(op_.in[i])) {
        none[i] = none[i].slice(1, 0, 0);
      }
    }
    return none;
  }
  Index window(const void* attrs) const { return parts_.window ? parts_.window(attrs) : -1; }
  /// What the op leaves of nothing.
  Tensors written(std::span<const Tensor> in, const void* attrs) const {
    Tensors from(in.begin(), in.end());
    if (parts_.nothing) {
      parts_.nothing(from);
    }
    return run(from, attrs);
  }
  /// What it makes of the unit state, nothing being written.
  Tensors moved_unit(std::span<const Tensor> in, const Tensor& state, const void* attrs) const {
    Tensors from(in.begin(), in.end());
    Tensor& unit = input_of(op_, from, ports_[0].input);
    unit = parts_.transition->unit(state);
    Tensor& values = input_of(op_, from, parts_.values);
    // Its columns are in place of the values' where it has others.
    const bool other = unit.size(-1) != state.size(-1);
    values = Tensor::zeros(other ? with_columns(values.shape(), unit.size(-1)) : values.shape(),
                           values.dtype(), values.device());
    return run(from, attrs);
  }
  Tensors run(const Tensors& in, const void* attrs) const {
    const Tensors out = run_forward(op_, in, clone_(attrs));
    Tensors states;
    for (const StatePort& port : ports_) {
      states.push_back(output_of(op_, out, port.output));
    }
    return states;
  }

  const OpInfo& op_;
  std::vector<StatePort> ports_;
  std::string read_by_;
  std::function<std::shared_ptr<ScanAttrs>(const void* attrs)> clone_;
  SummaryParts parts_;
};

}  // namespace

void set_summary(ScanInfo& scan, SummaryParts parts) {
  const Transition& t = *parts.transition;
  scan.transition = &t;
  scan.affine = t.affine;
  const bool wide = parts.wide;
  const auto own = std::make_shared<const Summaries>(scan, std::move(parts));
  scan.summarize = [own](std::span<const Tensor> in, const void* attrs) {
    return own->summarize(in, attrs);
  };
  scan.identity = [own](std::span<const Tensor> like, const void* attrs) {
    return own->identity(like, attrs);
  };
  scan.compose = [own](const Tensors& earlier, const Tensors& later, const void* attrs) {
    return own->compose(earlier, later, attrs);
  };
  scan.act = [own](const Tensors& summary, const Tensors& states, const void* attrs) {
    return own->act(summary, states, attrs);
  };
  scan.act_adjoint = [own](const Tensors& summary, const Tensors& states, const Tensors& dstates,
                           const void* attrs) {
    return own->act_adjoint(summary, states, dstates, attrs);
  };
  if (wide) {
    scan.local = [own](std::span<const Tensor> in, const void* attrs) {
      return own->local(in, attrs);
    };
  }
  if (t.forget) {
    scan.forget = [own](std::span<const Tensor> like, const Tensors& fresh, const void* attrs) {
      return own->forget(like, fresh, attrs);
    };
  }
}

}  // namespace ls::layers
