// A padded token changes nothing; packed documents are as separate ones.
#include "tests/laws/scans/checker.h"

#include <algorithm>
#include <set>

#include "autograd/tape.h"
#include "layers/seq_runner.h"

namespace ls::test::scans {

void Checker::mask(Index a, Index b) {
  const std::string law = fmt::format("mask (tokens {}..{})", a, b);
  Tensors padded;
  for (const Tensor& x : x_) {
    padded.push_back(x.defined() ? x.clone() : Tensor());
  }
  case_.mask(padded, a, b);
  const Tensors rest = joined(piece(x_, 0, a), piece(x_, b, tokens_));
  Tensors dout = cotangent_, drest = cotangent_;
  for (std::size_t i = 0; i < dout.size(); ++i) {
    if (dout[i].defined() && is_sequence(op_.out[i])) {
      drest[i] = concat({dout[i].slice(1, 0, a), dout[i].slice(1, b, tokens_)}, 1);
      dout[i] = dout[i].clone();
      dout[i].slice(1, a, b).zero_();
    }
  }
  Run got = apply(padded, start_), want = apply(rest, start_);
  derive(got, dout);
  derive(want, drest);
  const auto without = [&](const Tensors& all, const std::vector<ArgSpec>& args) {
    Tensors out = all;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (all[i].defined() && is_sequence(args[i])) {
        out[i] = concat({all[i].slice(1, 0, a), all[i].slice(1, b, tokens_)}, 1);
      }
    }
    return out;
  };
  same(law, without(got.out, op_.out), want.out);
  same_gradients(law, without(got.din, op_.in), want.din);
  if (family_.kind != layers::FamilyKind::kRelay) {
    same(law + " summary", summarize(piece(padded, a, b)), family_.identity(x_, attrs()));
  }
}

std::vector<Index> Checker::documents() {
  const Index t = tokens_;
  std::vector<Index> at{0, t / 5, t / 5, t / 5 + std::min<Index>(1, t), rng_.below(t + 1), t};
  std::sort(at.begin(), at.end());
  at.back() = t;
  return at;
}

Tensors Checker::first_row(const Tensors& x) const {
  Tensors out = x;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (x[i].defined() && is_sequence(op_.in[i])) {
      out[i] = x[i].slice(0, 0, 1);
    }
  }
  return out;
}

Tensors Checker::first_row_cotangents(Index a, Index b) const {
  Tensors d(op_.out.size());
  for (std::size_t i = 0; i < d.size(); ++i) {
    if (cotangent_[i].defined() && is_sequence(op_.out[i])) {
      d[i] = cotangent_[i].slice(0, 0, 1).slice(1, a, b);
    }
  }
  return d;
}

void Checker::packed() {
  std::vector<Index> at = documents();
  const std::vector<Index> offsets = at;
  at.erase(std::unique(at.begin(), at.end()), at.end());  // empty documents change nothing
  if (at.size() == 1) {
    at.push_back(at[0]);
  }
  const Tensors x = first_row(x_);
  Tensors zero;
  for (const Tensor& s : zero_) {
    zero.push_back(s.slice(0, 0, 1));
  }
  // States that arise: what the row starts from, and what documents inside it do.
  const auto arisen = [&] {
    return states_of(apply(piece(x, 0, rng_.below(tokens_ + 1)), zero).out);
  };
  const Tensors first = arisen(), fresh = arisen();
  Tensors last;
  for (const Tensor& s : first) {
    last.push_back(random(rng_, s.shape(), s.dtype()));
  }
  std::vector<Run> runs;
  for (std::size_t n = 0; n + 1 < at.size(); ++n) {
    runs.push_back(apply(piece(x, at[n], at[n + 1]), n == 0 ? first : fresh));
    Tensors dout = first_row_cotangents(at[n], at[n + 1]);
    for (std::size_t p = 0; n + 2 == at.size() && p < last.size(); ++p) {
      dout[port_out_[p]] = last[p];
    }
    derive(runs.back(), dout);
  }
  Tensors together = x, all, dout = first_row_cotangents(0, tokens_);
  together[static_cast<std::size_t>(op_.input_index("offsets"))] =
      Tensor::from(std::vector<std::int64_t>(offsets.begin(), offsets.end()));
  Tensors out = assemble_outputs(runs), din = assemble_gradients(runs);
  for (std::size_t p = 0; p < first.size(); ++p) {
    all.push_back(concat({first[p], fresh[p]}, 0));
    dout[port_out_[p]] = last[p];
    out[port_out_[p]] = runs.back().out[port_out_[p]];
    Tensor inside = Tensor::zeros(fresh[p].shape(), fresh[p].dtype());
    for (std::size_t n = 1; n < runs.size(); ++n) {
      if (runs[n].din[port_in_[p]].defined()) {
        inside.add_(runs[n].din[port_in_[p]]);
      }
    }
    din[port_in_[p]] = concat({runs[0].din[port_in_[p]], inside}, 0);
  }
  Run got = apply(together, all);
  derive(got, dout);
  same("reset (documents)", got.out, out);
  same_gradients("reset (documents)", got.din, din);

  // Absent states are zero for every document.
  const Run none = apply(together, Tensors(port_in_.size()));
  same("reset (absent states)", none.out, apply(together, zero).out);
}

void Checker::forget() {
  if (!family_.forget) {
    return;
  }
  Tensors fresh, everywhere;
  for (const Tensor& s : start_) {
    fresh.push_back(random(rng_, s.slice(0, 0, 1).shape(), s.dtype()));
    everywhere.push_back(fresh.back().expand(s.shape()).clone());
  }
  same("forget", family_.act(family_.forget(x_, fresh, attrs()), start_, attrs()), everywhere);

  layers::StretchPlace place;
  for (Index r = 0; r < batch_; ++r) {
    std::set<Index> starts;
    for (Index i = rng_.below(4); i > 0 && tokens_ > 0; --i) {
      starts.insert(rng_.below(tokens_));
    }
    place.documents.emplace_back(starts.begin(), starts.end());
    place.seen.push_back(1);
  }
  const layers::Stretch whole(batch_, tokens_, place);
  std::vector<ag::Var> in(x_.begin(), x_.end());
  layers::ScanCall call{.slot = "scan", .fresh = {}};
  for (std::size_t p = 0; p < port_in_.size(); ++p) {
    in[port_in_[p]] = ag::Var(start_[p]);
    call.fresh.emplace_back(fresh[p]);
  }
  layers::LocalRunner local;
  const auto last_states = [&](const layers::ScanCall& how) {
    Tensors out;
    for (const ag::Var& v : local.run(family_, in, case_.attrs, whole, how)) {
      out.push_back(v.defined() ? v.value() : Tensor());
    }
    return states_of(out);
  };
  const Tensors left = last_states(call);
  // A port without a fresh state starts from zeros, whether another has one or not.
  for (std::size_t p = 1; p < port_in_.size(); ++p) {
    layers::ScanCall some = call, zeros = call;
    some.fresh[p] = ag::Var();
    zeros.fresh[p] = ag::Var(Tensor::zeros(fresh[p].shape(), fresh[p].dtype()));
    same("forget (one port of several)", last_states(some), last_states(zeros));
  }
  const auto summary = [&](Index a, Index b) {
    const layers::Stretch part = whole.piece(a, b);
    layers::DocumentStarts starts;
    for (Index r = 0; r < batch_; ++r) {
      starts.emplace_back(part.starts(r).begin(), part.starts(r).end());
    }
    return layers::summarize(family_, piece(x_, a, b), attrs(), starts, fresh);
  };
  for (const Index cut : {Index{0}, tokens_ / 3, rng_.below(tokens_ + 1), tokens_}) {
    const Tensors m = compose(summary(0, cut), summary(cut, tokens_));
    same(fmt::format("forget (rows with boundaries, cut {})", cut), family_.act(m, start_, attrs()),
         left);
  }
}

void Checker::started() {
  const std::vector<Index> at = documents();
  const Tensors x = first_row(x_);
  Tensors zero;
  for (const Tensor& s : zero_) {
    zero.push_back(s.slice(0, 0, 1));
  }
  std::vector<Run> runs;
  std::vector<std::int64_t> start;
  for (std::size_t n = 0; n + 1 < at.size(); ++n) {
    runs.push_back(apply(piece(x, at[n], at[n + 1]), zero));
    derive(runs.back(), first_row_cotangents(at[n], at[n + 1]));
    start.resize(static_cast<std::size_t>(at[n + 1]), at[n]);
  }
  const auto boundary = static_cast<std::size_t>(op_.input_index("start"));
  Tensors together = x;
  together[boundary] = Tensor::from(start, {1, tokens_});
  Run got = apply(together, zero);
  derive(got, first_row_cotangents(0, tokens_));
  const Tensors out = assemble_outputs(runs), din = assemble_gradients(runs);
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (is_sequence(op_.out[i])) {
      same("reset (documents)", got.out[i], out[i]);
    }
  }
  for (std::size_t i = 0; i < din.size(); ++i) {
    if (std::find(port_in_.begin(), port_in_.end(), i) == port_in_.end()) {
      same("reset (documents) d" + op_.in[i].name, got.din[i], din[i]);
    }
  }
  // The same documents cut anywhere, the cache carried.
  const Index cut = rng_.below(tokens_ + 1);
  std::vector<Run> pieces;
  Tensors states = zero;
  for (const auto& [a, b] : {std::pair<Index, Index>{0, cut}, {cut, tokens_}}) {
    Tensors p = piece(together, a, b);
    std::vector<std::int64_t> local(start.begin() + a, start.begin() + b);
    for (std::int64_t& s : local) {
      s -= a;
    }
    p[boundary] = Tensor::from(local, {1, b - a});
    pieces.push_back(apply(p, states));
    states = states_of(pieces.back().out);
  }
  same("reset (cut)", assemble_outputs(pieces), got.out);
}

}  // namespace ls::test::scans
