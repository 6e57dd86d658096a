// Outputs made in the memory of the inputs that they continue.
#include "tests/laws/ops/checker.h"

namespace ls::test::op_laws {

namespace {

/// A cache with room for `more` rows behind it on the second axis.
Tensor with_room(const Tensor& t, Index more) {
  Shape shape = t.shape();
  shape[1] += more;
  Tensor view = Tensor::full(shape, t.dtype(), 77, t.device()).slice(1, 0, t.size(1));
  view.copy_(t);
  return view;
}

}  // namespace

void Checker::continued(DType t) {
  if (!op_.continues() || !op_.kernel(device_->type(), t)) {
    return;
  }
  const Tensors in = inputs(t);
  const auto given = [&](const char* name) {
    const int i = op_.input_index(name);
    return i >= 0 && in[static_cast<std::size_t>(i)].defined();
  };
  const bool packed = given("offsets"), appended = given("used");
  const Tensors whole = run_forward(op_, in, attrs());
  for (const bool room : {true, false}) {
    Tensors spent = each(in, packed_copy);
    std::vector<bool> flags(in.size());
    for (const ArgSpec& c : op_.out) {
      const auto i = static_cast<std::size_t>(c.continues);
      if (c.continues < 0 || !in[i].defined()) {
        continue;
      }
      flags[i] = true;
      if (c.fresh >= 0 && room && !appended) {
        spent[i] = with_room(in[i], in[static_cast<std::size_t>(c.fresh)].size(1));
      }
    }
    const Tensors out = run_forward(op_, spent, attrs(), flags);
    const std::string what =
        fmt::format("continues: {}, {}", enum_name(t), room ? "with room" : "without room");
    for (std::size_t o = 0; o < out.size(); ++o) {
      if (out[o].defined() && !bit_difference(out[o].contiguous(), whole[o]).empty()) {
        fault("{}: {}: {}", what, op_.out[o].name, bit_difference(out[o].contiguous(), whole[o]));
      }
    }
    for (std::size_t o = 0; o < out.size(); ++o) {
      const auto i = static_cast<std::size_t>(op_.out[o].continues);
      if (op_.out[o].continues >= 0 && flags[i] && room && !packed && out[o].numel() > 0 &&
          !out[o].shares_storage(spent[i])) {
        fault("{}: {} is not in the memory of {}", what, op_.out[o].name, in_name(i));
      }
    }
  }
}

}  // namespace ls::test::op_laws
