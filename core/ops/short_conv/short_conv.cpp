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

/// f(w), with w a constant for whole blocks: loops over channels are then a few vectors each.
template <class F>
void with_width(Index w, F&& f) {
  w == kChannels ? f(std::integral_constant<Index, kChannels>()) : f(w);
}

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
  template <class W>
  void load(Index n, Index c0, W w, A* to) const {
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
  template <class W>
  void load_weight(Index c0, W w, A* to) const {
    for (Index j = 0; j < taps; ++j) {
      for (Index c = 0; c < w; ++c) {
        to[j * w + c] = std::as_const(weight).template data<A>()[(c0 + c) * taps + j];
      }
    }
  }
  /// Output of token t before the activation.
  template <class W>
  void pre_activation(const A* in, const A* w_block, Index c0, W w, Index t,
                      A* __restrict to) const {
    const A* b = bias.defined() ? std::as_const(bias).template data<A>() + c0 : nullptr;
    for (Index c = 0; c < w; ++c) {
      to[c] = b ? b[c] : A(0);
    }
    weigh(taps, in + t * w, w, w_block, w, to);
  }
  /// to += sum over the taps j of f_j * row_j, the rows `step` apart.
  template <class W>
  static void weigh(Index taps, const A* rows, Index step, const A* f, W w, A* __restrict to) {
    Index j = 0;
    for (; j + 4 <= taps; j += 4) {
      const A *r0 = rows + j * step, *r1 = r0 + step, *r2 = r1 + step, *r3 = r2 + step;
      const A *f0 = f + j * w, *f1 = f0 + w, *f2 = f1 + w, *f3 = f2 + w;
      for (Index c = 0; c < w; ++c) {
        to[c] += (f0[c] * r0[c] + f1[c] * r1[c]) + (f2[c] * r2[c] + f3[c] * r3[c]);
      }
    }
    for (; j < taps; ++j) {
      for (Index c = 0; c < w; ++c) {
        to[c] += f[j * w + c] * rows[j * step + c];
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
      const Index n = task / blocks, c0 = task % blocks * kChannels;
      with_width(std::min(kChannels, call.channels - c0), [&](auto w) {
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
      });
    }
  });
}

template <class T>
void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>&, const Op::Out<Tensor>& dout,
              Op::In<Tensor>& din, const Op::Attrs& a) {
  using A = acc_t<T>;
  const Call<T> call(in);
  const Index blocks = (call.channels + kChannels - 1) / kChannels,
              count = static_cast<Index>(call.seqs.size()), taps = call.taps, past = call.past;
  const Tensor dsT = dout.sT.defined() ? dout.sT.contiguous() : Tensor();
  const Rows dy(dout.y.defined() ? dout.y : in.x);
  // Gradients of taps and bias are summed over fixed pieces of the sequences, then over pieces: the
  // same for any number of threads.
  const Index pieces = std::min<Index>(count, 4), sums = (taps + 1) * kChannels;
  std::vector<A> partial(static_cast<std::size_t>(blocks * pieces * sums));
  parallel_for(blocks * pieces, 1, [&](Index first, Index last) {
    const Index most = past + call.longest();
    scan::Scratch<A> scratch((2 * most + past + taps + 1) * kChannels);
    A *const weights = scratch.take(taps * kChannels), *const pre = scratch.take(kChannels);
    A *const x = scratch.take(most * kChannels), *const g = scratch.take((most + past) * kChannels);
    for (Index task = first; task < last; ++task) {
      const Index block = task / pieces, piece = task % pieces, c0 = block * kChannels;
      with_width(std::min(kChannels, call.channels - c0), [&](auto w) {
        A* const dtaps = partial.data() + task * sums;
        A* __restrict const dbias = dtaps + taps * kChannels;
        call.load_weight(c0, w, weights);
        for (Index n = count * piece / pieces; n < count * (piece + 1) / pieces; ++n) {
          const scan::Sequence& s = call.seqs[static_cast<std::size_t>(n)];
          call.load(n, c0, w, x);
          // Gradients before the activation, with zeros around them.
          std::fill(g, g + past * w, A(0));
          std::fill(g + (past + s.length) * w, g + (2 * past + s.length) * w, A(0));
          for (Index t = 0; t < s.length; ++t) {
            A* __restrict gt = g + (past + t) * w;
            if (!dout.y.defined()) {
              std::fill(gt, gt + w, A(0));
              continue;
            }
            const T* __restrict from = dy.row<T>(call.flat(s, t)) + c0;
            if (a.silu) {
              call.pre_activation(x, weights, c0, w, t, pre);
              for (Index c = 0; c < w; ++c) {
                gt[c] = convert<A>(from[c]) * simd::silu_grad(pre[c]);
              }
            } else {
              for (Index c = 0; c < w; ++c) {
                gt[c] = convert<A>(from[c]);
              }
            }
            for (Index c = 0; c < w; ++c) {
              dbias[c] += gt[c];
            }
            for (Index j = 0; j < taps; ++j) {
              const A* __restrict row = x + (t + j) * w;
              A* __restrict dt = dtaps + j * kChannels;
              for (Index c = 0; c < w; ++c) {
                dt[c] += gt[c] * row[c];
              }
            }
          }
          // Input `u`, carried ones first, was read by the outputs u - past .. u with taps past ..
          // 0.
          const auto gradient = [&](Index u, A* __restrict to) {
            std::fill(to, to + w, A(0));
            call.weigh(taps, g + (past + u) * w, -w, weights, w, to);
            if (dsT.defined() && u >= s.length) {
              for (Index c = 0; c < w; ++c) {
                to[c] += dsT.data<A>()[(n * call.channels + c0 + c) * past + u - s.length];
              }
            }
          };
          for (Index t = 0; t < s.length && din.x.defined(); ++t) {
            gradient(past + t, pre);
            T* __restrict to = din.x.data<T>() + call.flat(s, t) * call.channels + c0;
            for (Index c = 0; c < w; ++c) {
              to[c] = convert<T>(pre[c]);
            }
          }
          for (Index p = 0; p < past && din.s0.defined(); ++p) {
            gradient(p, pre);
            for (Index c = 0; c < w; ++c) {
              din.s0.data<A>()[(n * call.channels + c0 + c) * past + p] = pre[c];
            }
          }
        }
      });
    }
  });
  for (Index channel = 0; channel < call.channels; ++channel) {
    const A* from = partial.data() + channel / kChannels * pieces * sums + channel % kChannels;
    for (Index j = 0; j <= taps; ++j) {
      A sum = 0;
      for (Index piece = 0; piece < pieces; ++piece) {
        sum += from[piece * sums + j * kChannels];
      }
      if (j == taps && din.bias.defined()) {
        din.bias.data<A>()[channel] = sum;
      } else if (j < taps && din.weight.defined()) {
        din.weight.data<A>()[channel * taps + j] = sum;
      }
    }
  }
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
