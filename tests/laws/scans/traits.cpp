// What a scan declares for strategies.
#include <algorithm>
#include <cmath>
#include <optional>

#include "tests/laws/scans/checker.h"

namespace ls::test::scans {

namespace {

/// One half of the axes of these names; empty where one has an odd extent.
std::optional<Tensor> half(const Tensor& t, const ArgSpec& arg,
                           const std::vector<std::string>& names, Index which) {
  Tensor out = t;
  for (std::size_t a = 0; a < arg.axes.size(); ++a) {
    if (std::find(names.begin(), names.end(), arg.axes[a].text) == names.end()) {
      continue;
    }
    const int axis = t.rank() - static_cast<int>(arg.axes.size() - a);
    const Index n = t.size(axis) / 2;
    if (2 * n != t.size(axis)) {
      return {};
    }
    out = out.slice(axis, which * n, (which + 1) * n);
  }
  return out;
}

}  // namespace

void Checker::traits() {
  independent("heads", family_.heads);
  independent("columns", family_.columns);
  if (!family_.merged_by.empty()) {
    merged();
  }
}

void Checker::independent(const std::string& trait, const std::vector<std::string>& axes) {
  if (axes.empty()) {
    return;
  }
  for (const Index which : {0, 1}) {
    Tensors in = whole_.in;
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (!in[i].defined()) {
        continue;
      }
      const std::optional<Tensor> part = half(in[i], op_.in[i], axes, which);
      if (!part) {
        return;
      }
      in[i] = *part;
    }
    const Tensors out = run_forward(op_, in, attrs());
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (!whole_.out[i].defined()) {
        continue;
      }
      const std::optional<Tensor> want = half(whole_.out[i], op_.out[i], axes, which);
      if (!want) {
        return;
      }
      same(fmt::format("{} (half {}) {}", trait, which, op_.out[i].name), out[i], *want);
    }
  }
}

/// The last tokens behind a cache of two parts: what they see is what they see behind either part,
/// less their own keys, which both have; sums are weighted by exp(log-sum).
void Checker::merged() {
  const auto given = [&](const char* name) {
    const int i = op_.input_index(name);
    return i >= 0 && x_[static_cast<std::size_t>(i)].defined();
  };
  if (tokens_ < 3 || given("slopes") || given("bias") ||
      (family_.reach && family_.reach(x_, attrs()) < tokens_)) {
    return;  // which keys count, and how much, depends on where they stand
  }
  const Index one = tokens_ / 3, two = 2 * one;
  const auto cache = [&](Index from, Index to) {
    return states_of(apply(piece(x_, from, to), zero_).out);
  };
  const Tensors later = piece(x_, two, tokens_);
  const Run whole = apply(later, cache(0, two)), first = apply(later, cache(0, one)),
            second = apply(later, cache(one, two)), own = apply(later, zero_);
  const auto at = static_cast<std::size_t>(op_.output_index(family_.merged_by));
  const auto logs = [&](const Run& r) { return r.out[at].to_vector<double>(); };
  const auto values = [&](const Run& r) { return r.out[0].to_vector<double>(); };
  const auto l = logs(whole), l1 = logs(first), l2 = logs(second), l0 = logs(own);
  const auto o1 = values(first), o2 = values(second), o0 = values(own);
  std::vector<double> sum, o;
  for (std::size_t i = 0; i < l.size(); ++i) {
    const double w1 = std::exp(l1[i] - l[i]), w2 = std::exp(l2[i] - l[i]),
                 w0 = std::exp(l0[i] - l[i]);
    sum.push_back(w1 + w2 - w0);
    const std::size_t d = o1.size() / l.size();
    for (std::size_t c = i * d; c < (i + 1) * d; ++c) {
      o.push_back(w1 * o1[c] + w2 * o2[c] - w0 * o0[c]);
    }
  }
  const auto tensor = [](const std::vector<double>& x, const Tensor& like) {
    return Tensor::from(x, like.shape()).to(like.dtype());
  };
  same("merged (log-sums)", tensor(sum, whole.out[at]),
       tensor(std::vector<double>(sum.size(), 1), whole.out[at]));
  same("merged", tensor(o, whole.out[0]), whole.out[0]);
}

}  // namespace ls::test::scans
