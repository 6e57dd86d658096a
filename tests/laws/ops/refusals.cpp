// Calls that do not fit are refused with a message; every op says what it costs.
#include "tests/laws/ops/checker.h"

#include <algorithm>
#include <cmath>

namespace ls::test::op_laws {

int Checker::uses(const std::string& symbol) const {
  int n = 0;
  for (std::size_t i = 0; i < op_.in.size(); ++i) {
    if (case_.in[i].defined()) {
      n += static_cast<int>(std::count(op_.in[i].axes.begin(), op_.in[i].axes.end(), symbol));
    }
  }
  return n;
}

void Checker::refused(std::size_t i, const std::string& what, const Tensors& in, ErrorKind kind,
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

void Checker::refusals() {
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
          named >= 0 ? arg.axes[static_cast<std::size_t>(named)].text : std::string("...");
      Shape shape = in[i].shape();
      shape[a] += 1;
      refused(i, fmt::format("with one more element along axis {}", a),
              with(Tensor::zeros(shape, in[i].dtype())), ErrorKind::kShape,
              named < 0 ? ellipses > 1 : uses(symbol) > 1);
    }
  }
}

void Checker::cost() {
  if (!op_.cost) {
    fault("cost: none is declared");
    return;
  }
  const Tensors in = inputs(DType::kF32);
  const Cost c = op_.cost(shapes_of(in), attrs());
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

}  // namespace ls::test::op_laws
