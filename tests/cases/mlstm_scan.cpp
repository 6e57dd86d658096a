#include <cmath>

#include "core/ops/mlstm/mlstm.h"
#include "tests/support/draw.h"
#include "tests/support/scan_laws.h"

namespace ls::test {
namespace {

using In = Mlstm::In<Tensor>;
using MlstmSigmoid = Mlstm;  // the same op under other attributes

/// Nothing decays or is written.
void pad(In& in, Index from, Index to) {
  in.f.slice(1, from, to).zero_();
  in.i.slice(1, from, to).fill_(-INFINITY);
}

/// Queries and keys of one sign, so that strong gates do not divide by what cancels.
In inputs(Draw& draw, Index b, Index t, Index h, Index dk, Index dv) {
  return {.q = draw.uniform({b, t, h, dk}, 0.1, 1),
          .k = draw.uniform({b, t, h, dk}, 0.1, 1),
          .v = draw.normal({b, t, h, dv}),
          .i = draw.normal({b, t, h}),
          .f = draw.uniform({b, t, h}, -0.5, 0)};
}
void carry(Draw& draw, In& in) {
  const Index b = in.v.size(0), h = in.v.size(2), dk = in.k.size(3), dv = in.v.size(3);
  in.c0 = draw.normal({b, h, dk, dv});
  in.n0 = draw.uniform({b, h, dk}, 0, 1);
}

LS_SCAN_CASES(Mlstm, "mlstm") {
  Draw draw("mlstm");
  Mlstm::Attrs attrs;
  attrs.scale = 0.4;
  cases.add("plain", inputs(draw, 2, 70, 2, 5, 3), attrs).mask(pad);

  In carried = inputs(draw, 1, 83, 2, 6, 7);
  carry(draw, carried);
  carried.m0 = draw.normal({1, 2});
  cases.add("carried", carried, attrs).mask(pad);

  Mlstm::Attrs eps = attrs;
  eps.eps = 0.05;
  cases.add("eps lets the maximum count", carried, eps).mask(pad);

  In weak = inputs(draw, 2, 61, 2, 5, 3);  // below and above 1
  weak.q = draw.normal({2, 61, 2, 5});
  weak.k = draw.normal({2, 61, 2, 5});
  weak.i = draw.uniform({2, 61, 2}, -4, -1);
  carry(draw, weak);
  weak.m0 = draw.uniform({2, 2}, -3, 0);
  cases.add("weak input gates, signs", weak, eps).mask(pad);

  In strong = inputs(draw, 1, 97, 1, 4, 6);
  strong.i = draw.normal({1, 97, 1}, 8);
  carry(draw, strong);
  strong.m0 = draw.normal({1, 1}, 5);
  cases.add("strong input gates", strong, attrs)
      .mask(pad)
      .slack(4, "exponents of tens carry their rounding");

  In extreme = inputs(draw, 1, 96, 1, 8, 8);
  extreme.f = draw.extreme_gates({1, 96, 1});
  cases.add("gates at 0, -1e-7 and down to -300", extreme, attrs).mask(pad);

  In one = inputs(draw, 3, 1, 2, 4, 4);
  carry(draw, one);
  one.m0 = draw.normal({3, 2});
  cases.add("one token", one, attrs).mask(pad);
  cases.add("short and wide", inputs(draw, 1, 5, 1, 33, 17), attrs).mask(pad);

  In lasting = inputs(draw, 1, 600, 1, 4, 2);
  lasting.f = draw.uniform({1, 600, 1}, -0.02, 0);
  cases.add("long", lasting, attrs).mask(pad);
}

LS_SCAN_CASES(MlstmSigmoid, "mlstm_sigmoid") {
  Draw draw("mlstm_sigmoid");
  Mlstm::Attrs attrs;
  attrs.scale = 0.4;
  attrs.eps = 1e-3;
  attrs.stabilize = false;
  const auto closed = [&](Index b, Index t, Index h, Index dk, Index dv) {
    In in = inputs(draw, b, t, h, dk, dv);
    in.q = draw.normal({b, t, h, dk});
    in.k = draw.normal({b, t, h, dk});
    in.i = draw.uniform({b, t, h}, -4, 0);
    return in;
  };
  cases.add("plain", closed(2, 70, 2, 5, 3), attrs).mask(pad);
  In carried = closed(1, 83, 2, 6, 7);
  carry(draw, carried);
  cases.add("carried", carried, attrs).mask(pad);
  attrs.normalize = false;
  cases.add("not normalised", carried, attrs).mask(pad);
  In one = closed(3, 1, 2, 4, 4);
  carry(draw, one);
  cases.add("one token", one, attrs).mask(pad);
}

}  // namespace
}  // namespace ls::test
