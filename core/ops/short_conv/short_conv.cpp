// Every sequence is extended by its W-1 carried inputs; taps then read a window of rows. Work is
// shared out by blocks of channels, so that sums over tokens have one owner and one order.
#include "core/ops/short_conv/short_conv.h"

#include <vector>

#include "core/backend/cpu/rows.h"
#include "core/backend/cpu/simd_math.h"
#include "core/ops/scan/sequences.h"

namespace ls {
namespace {

using Op = ShortConv;
constexpr Index kChannels = 64;  // of a block

void bind(const Op::In<Tensor>& in, const Op::Attrs&, Bindings& b) {
  LS_CHECK(in.weight.size(1) >= 1, kShape, "short_conv: no taps");
  const Index n = scan::sequence_count(in.x.size(0), in.offsets);
  LS_CHECK(!in.s0.defined() || in.s0.size(0) == n, kShape,
           "short_conv: s0 has {} rows for {} sequences", in.s0.defined() ? in.s0.size(0) : 0, n);
  if (!b.has("N")) {
    b.set("N", n);
  }
}

template <class T>
struct Call {
  using A = acc_t<T>;
  Index channels, taps, past;
  std::vector<scan::Sequence> seqs;
  Rows x;
  Index tokens;
  Tensor weight, bias, s0;
  explicit Call(const Op::In<Tensor>& in)
      : channels(in.weight.size(0)),
        taps(in.weight.size(1)),
        past(taps - 1),
        seqs(scan::sequences(in.x.size(0), in.x.size(1), in.offsets, "short_conv")),
        x(in.x),
        tokens(in.x.size(1)),
        weight(in.weight.contiguous()),
        bias(in.bias.defined() ? in.bias.contiguous() : Tensor()),
        s0(in.s0.defined() ? in.s0.contiguous() : Tensor()) {}

  Index longest() const {
    Index n = 0;
    for (const scan::Sequence& s : seqs) {
      n = std::max(n, s.length);
    }
    return n;
  }
  Index flat(const scan::Sequence& s, Index t) const { return s.row * tokens + s.begin + t; }
  /// Carried and own inputs of channels [c0, c0 + w), [past + length, w].
  void load(Index n, Index c0, Index w, A* to) const {
    const scan::Sequence& s = seqs[static_cast<std::size_t>(n)];
    for (Index p = 0; p < past; ++p) {
      for (Index c = 0; c < w; ++c) {
        to[p * w + c] =
            s0.defined() ? std::as_const(s0).template data<A>()[(n * channels + c0 + c) * past + p]
                         : A(0);
      }
    }
    for (Index t = 0; t < s.length; ++t) {
      const T* __restrict from = x.row<T>(flat(s, t)) + c0;
      A* __restrict row = to + (past + t) * w;
      for (Index c = 0; c < w; ++c) {
        row[c] = convert<A>(from[c]);
      }
    }
  }
  /// Taps of the block, [taps, w].
  void load_weight(Index c0, Index w, A* to) const {
    for (Index j = 0; j < taps; ++j) {
      for (Index c = 0; c < w; ++c) {
        to[j * w + c] = std::as_const(weight).template data<A>()[(c0 + c) * taps + j];
      }
    }
  }
  void pre_activation(const A* in, const A* w_block, Index c0, Index w, Index t,
                      A* __restrict to) const {
    for (Index c = 0; c < w; ++c) {
      to[c] = bias.defined() ? std::as_const(bias).template data<A>()[c0 + c] : A(0);
    }
    for (Index j = 0; j < taps; ++j) {
      const A* __restrict row = in + (t + j) * w;
      const A* __restrict f = w_block + j * w;
      for (Index c = 0; c < w; ++c) {
        to[c] += f[c] * row[c];
      }
    }
  }
};

template <class T>
void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
  using A = acc_t<T>;
  const Call<T> call(in);
  const Index blocks = (call.channels + kChannels - 1) / kChannels;
  T* y = out.y.data<T>();
  A* sT = out.sT.data<A>();
  // Blocks of channels and sequences are independent here.
  parallel_for(blocks * static_cast<Index>(call.seqs.size()), 1, [&](Index first, Index last) {
    std::vector<A> memory(
        static_cast<std::size_t>((call.past + call.longest() + call.taps + 1) * kChannels));
    A *taps = memory.data(), *pre = taps + call.taps * kChannels, *x = pre + kChannels;
    for (Index task = first; task < last; ++task) {
      const Index n = task / blocks, c0 = task % blocks * kChannels,
                  w = std::min(kChannels, call.channels - c0);
      const scan::Sequence& s = call.seqs[static_cast<std::size_t>(n)];
      call.load_weight(c0, w, taps);
      call.load(n, c0, w, x);
      for (Index t = 0; t < s.length; ++t) {
        call.pre_activation(x, taps, c0, w, t, pre);
        T* __restrict to = y + call.flat(s, t) * call.channels + c0;
        if (a.silu) {
          for (Index c = 0; c < w; ++c) {
            to[c] = convert<T>(simd::silu(pre[c]));
          }
        } else {
          for (Index c = 0; c < w; ++c) {
            to[c] = convert<T>(pre[c]);
          }
        }
      }
      for (Index p = 0; p < call.past; ++p) {
        for (Index c = 0; c < w; ++c) {
          sT[(n * call.channels + c0 + c) * call.past + p] = x[(s.length + p) * w + c];
        }
      }
    }
  });
}

template <class T>
void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>&, const Op::Out<Tensor>& dout,
              Op::In<Tensor>& din, const Op::Attrs& a) {
  using A = acc_t<T>;
  const Call<T> call(in);
  const Index blocks = (call.channels + kChannels - 1) / kChannels,
              count = static_cast<Index>(call.seqs.size());
  const Tensor dsT = dout.sT.defined() ? dout.sT.contiguous() : Tensor();
  const Rows dy(dout.y.defined() ? dout.y : in.x);
  parallel_for(blocks, 1, [&](Index first, Index last) {
    const Index most = call.past + call.longest();
    std::vector<A> memory(static_cast<std::size_t>((2 * most + 2 * call.taps + 3) * kChannels));
    A *taps = memory.data(), *dtaps = taps + call.taps * kChannels,
      *pre = dtaps + call.taps * kChannels;
    A *dbias = pre + kChannels, *g = dbias + kChannels, *x = g + kChannels,
      *dx = x + most * kChannels;
    for (Index block = first; block < last; ++block) {
      const Index c0 = block * kChannels, w = std::min(kChannels, call.channels - c0);
      call.load_weight(c0, w, taps);
      std::fill(dtaps, dtaps + call.taps * w, A(0));
      std::fill(dbias, dbias + w, A(0));
      for (Index n = 0; n < count; ++n) {
        const scan::Sequence& s = call.seqs[static_cast<std::size_t>(n)];
        call.load(n, c0, w, x);
        std::fill(dx, dx + (call.past + s.length) * w, A(0));
        for (Index t = 0; t < s.length && dout.y.defined(); ++t) {
          const T* __restrict from = dy.row<T>(call.flat(s, t)) + c0;
          if (a.silu) {
            call.pre_activation(x, taps, c0, w, t, pre);
            for (Index c = 0; c < w; ++c) {
              g[c] = convert<A>(from[c]) * simd::silu_grad(pre[c]);
            }
          } else {
            for (Index c = 0; c < w; ++c) {
              g[c] = convert<A>(from[c]);
            }
          }
          for (Index c = 0; c < w; ++c) {
            dbias[c] += g[c];
          }
          for (Index j = 0; j < call.taps; ++j) {
            const A* __restrict row = x + (t + j) * w;
            A* __restrict drow = dx + (t + j) * w;
            A* __restrict dt = dtaps + j * w;
            const A* __restrict f = taps + j * w;
            for (Index c = 0; c < w; ++c) {
              dt[c] += g[c] * row[c];
              drow[c] += g[c] * f[c];
            }
          }
        }
        for (Index p = 0; p < call.past && dsT.defined(); ++p) {
          for (Index c = 0; c < w; ++c) {
            dx[(s.length + p) * w + c] +=
                dsT.data<A>()[(n * call.channels + c0 + c) * call.past + p];
          }
        }
        for (Index t = 0; t < s.length && din.x.defined(); ++t) {
          T* __restrict to = din.x.data<T>() + call.flat(s, t) * call.channels + c0;
          for (Index c = 0; c < w; ++c) {
            to[c] = convert<T>(dx[(call.past + t) * w + c]);
          }
        }
        for (Index p = 0; p < call.past && din.s0.defined(); ++p) {
          for (Index c = 0; c < w; ++c) {
            din.s0.data<A>()[(n * call.channels + c0 + c) * call.past + p] = dx[p * w + c];
          }
        }
      }
      for (Index c = 0; c < w; ++c) {
        for (Index j = 0; j < call.taps && din.weight.defined(); ++j) {
          din.weight.data<A>()[(c0 + c) * call.taps + j] = dtaps[j * w + c];
        }
        if (din.bias.defined()) {
          din.bias.data<A>()[c0 + c] = dbias[c];
        }
      }
    }
  });
}

template <class Real>
struct Reference {
  static void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
    ls::forward<Real>(in, out, a);
  }
  static void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>& out,
                       const Op::Out<Tensor>& dout, Op::In<Tensor>& din, const Op::Attrs& a) {
    ls::backward<Real>(in, out, dout, din, a);
  }
};

Cost cost(const Op::In<Tensor>& in, const Op::Attrs&) {
  return {.bytes = 2.0 * static_cast<double>(in.x.bytes()),
          .flops = 2.0 * static_cast<double>(in.x.numel() * in.weight.size(1))};
}

LS_OP(ShortConv, "short_conv")
    .in("x[B,T,D] weight[D,W]:acc bias[D]:acc? s0[N,D,W-1]:acc? offsets[N1]:i64?")
    .out("y[B,T,D] sT[N,D,W-1]:acc")
    .saves("x weight bias s0 offsets")
    .bind(bind)
    .summary("depthwise causal convolution")
    .reference<Reference>()
    .cost(cost);

LS_KERNEL(ShortConv).forward<bf16>(&forward<bf16>).backward<bf16>(&backward<bf16>);

}  // namespace
}  // namespace ls
