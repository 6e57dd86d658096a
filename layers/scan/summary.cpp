// The functions of a scan that has summaries, made of the class of its transition.
#include "layers/scan/scan.h"

namespace ls::layers {
namespace {

/// Shared by the functions of one scan. Ops register in any order: names are looked up when called.
class Summaries {
 public:
  Summaries(const ScanInfo& scan, SummaryParts parts)
      : op_(*scan.op), ports_(scan.states), clone_(scan.clone_attrs), parts_(std::move(parts)) {}

  Tensors summarize(std::span<const Tensor> in, const void* attrs) const {
    Tensors summary = parts_.writes ? parts_.writes(in, attrs) : written(in, attrs);
    for (Tensor& m : parts_.moves ? parts_.moves(in, attrs) : moved_unit(in, summary[0], attrs)) {
      summary.push_back(std::move(m));
    }
    return summary;
  }
  /// The summary of no tokens.
  Tensors identity(std::span<const Tensor> like, const void* attrs) const {
    Tensors none(like.begin(), like.end());
    for (std::size_t i = 0; i < none.size(); ++i) {
      if (none[i].defined() && is_sequence(op_.in[i])) {
        none[i] = none[i].slice(1, 0, 0);
      }
    }
    return summarize(none, attrs);
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
    values =
        Tensor::zeros(with_columns(values.shape(), unit.size(-1)), values.dtype(), values.device());
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
  std::function<std::shared_ptr<ScanAttrs>(const void* attrs)> clone_;
  SummaryParts parts_;
};

}  // namespace

void set_summary(ScanInfo& scan, SummaryParts parts) {
  const Transition& t = *parts.transition;
  scan.transition = &t;
  scan.affine = t.affine;
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
  if (t.forget) {
    scan.forget = [own](std::span<const Tensor> like, const Tensors& fresh, const void* attrs) {
      return own->forget(like, fresh, attrs);
    };
  }
}

}  // namespace ls::layers
