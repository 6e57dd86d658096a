// Packed documents are as each alone; rows of a state may change places.
#include "tests/laws/mixers/checker.h"

#include "autograd/tape.h"

namespace ls::test::mixers {

namespace {

// Row 0 continues, then documents at 4, 5 and 19; row 1 begins anew and has one more at 12.
const DocumentStarts kStarts = {{4, 5, 19}, {0, 12}};
const std::vector<std::vector<Index>> kEdges = {{0, 4, 5, 19, kTokens}, {0, 12, kTokens}};

/// Of as many tokens behind the batch.
Tensor cotangent_of(const Model& m, Index later) {
  return normal({kRows, kTokens + later, kVocab}, m.dtype(), "packed and what follows");
}

/// All documents in one batch, and what follows it.
Run together(Model& m, const ModelState& history, Index later) {
  m.parameters().clear_grads();
  ModelState incoming = leaves_of(history);
  ag::Tape tape;
  SeqContext seq(kRows, kTokens,
                 {.documents = &kStarts, .incoming = &incoming, .keep_states = true});
  std::vector<ag::Var> parts = {m.logits(m.hidden({main_ids(), {}}, seq))};
  if (later > 0) {
    SeqContext next(kRows, later, {.incoming = &seq.outgoing()});
    parts.push_back(m.logits(m.hidden({later_ids(), {}}, next)));
  }
  const ag::Var all = ag::concat(parts, 1);
  tape.backward(all, cotangent_of(m, later));
  Run r{all.value()};
  for (const ag::Parameter& p : m.parameters().items()) {
    r.gradients.push_back(p.var.grad());
  }
  for (const auto& [name, slot] : incoming.slots) {
    r.into[name] = slot.value.grad();
  }
  return r;
}

/// Each document alone, the last of each row with what follows.
Run one_by_one(Model& m, const ModelState& history, Index behind) {
  m.parameters().clear_grads();
  const Tensor tokens = main_ids(), later = later_ids(), cotangent = cotangent_of(m, behind);
  Run r{Tensor::empty(cotangent.shape(), cotangent.dtype())};
  r.again = [behind](Model& other, const ModelState& h) { return one_by_one(other, h, behind); };
  ModelState carried = history.position.empty() ? ModelState{} : leaves_of(history.rows({0}));
  for (Index row = 0; row < kRows; ++row) {
    const auto& e = kEdges[static_cast<std::size_t>(row)];
    for (std::size_t d = 0; d + 1 < e.size(); ++d) {
      const bool last = d + 2 == e.size();
      const Index n = e[d + 1] - e[d] + (last ? behind : 0);
      Tensor document = Tensor::empty({1, n}, DType::kI64);
      document.slice(1, 0, e[d + 1] - e[d])
          .copy_(tokens.slice(0, row, row + 1).slice(1, e[d], e[d + 1]));
      if (last && behind > 0) {
        document.slice(1, n - behind, n).copy_(later.slice(0, row, row + 1));
      }
      ag::Tape tape;
      SeqContext seq(1, n, {.incoming = row == 0 && d == 0 ? &carried : nullptr});
      const ag::Var o = m.logits(m.hidden({document, {}}, seq));
      tape.backward(o, cotangent.slice(0, row, row + 1).slice(1, e[d], e[d] + n).contiguous());
      r.out.slice(0, row, row + 1).slice(1, e[d], e[d] + n).copy_(o.value());
    }
  }
  for (const ag::Parameter& p : m.parameters().items()) {
    r.gradients.push_back(p.var.grad());
  }
  for (const auto& [name, slot] : carried.slots) {  // row 1 forgot its state
    const Tensor& d = slot.value.grad();
    if (d.defined()) {
      Shape shape = d.shape();
      shape[0] = kRows;
      r.into[name] = Tensor::zeros(shape, d.dtype());
      r.into[name].slice(0, 0, 1).copy_(d);
    }
  }
  return r;
}

}  // namespace

void Checker::packed() {
  // Where nothing can be carried, nothing follows.
  const Index later = history_.position.empty() ? 0 : kLater;
  const Run got = together(*model_, history_, later), want = one_by_one(*model_, history_, later);
  same("packed", "output", got.out, want.out, tolerance_);
  same_gradients("packed", got, want, tolerance_);
}

void Checker::rows() {
  const ag::NoGrad no_grad;
  const ModelState swapped = history_.rows({1, 0});
  Tensor tokens = main_ids();
  tokens.slice(0, 0, 1).copy_(main_ids().slice(0, 1, 2));
  tokens.slice(0, 1, 2).copy_(main_ids().slice(0, 0, 1));
  SeqContext seq(kRows, kTokens, {.incoming = &swapped});
  const Tensor out = model_->logits(model_->hidden({tokens, {}}, seq)).value();
  for (Index row = 0; row < kRows; ++row) {
    same("rows", "output", out.slice(0, row, row + 1), whole_.out.slice(0, 1 - row, 2 - row), 0);
  }
  // Rows without history, alone and beside one that has some, are as from zero.
  const auto after = [&](const std::vector<Index>& rows) {
    const ModelState state = history_.rows(rows);
    SeqContext mixed(kRows, kTokens, {.incoming = &state});
    return model_->logits(model_->hidden({main_ids(), {}}, mixed)).value();
  };
  same("rows", "output from no history", after({-1, -1}), from_zero_.out, tolerance_);
  const Tensor one = after({-1, 1});
  same("rows", "output beside one with history", one.slice(0, 0, 1), from_zero_.out.slice(0, 0, 1),
       tolerance_);
  same("rows", "output with history", one.slice(0, 1, 2), whole_.out.slice(0, 1, 2), tolerance_);
}

}  // namespace ls::test::mixers
