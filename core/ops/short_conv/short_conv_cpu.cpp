// y_t = act(bias + sum_j weight_j x_{t-(W-1)+j}). Every sequence is extended by its W-1 carried
// inputs; output t then reads the window of rows t .. t+W-1. A task is one sequence (forward) or a
// piece of the sequences (backward) and a block of 64 channels, w of them in the last block; sums
// over tokens have one owner and one order. Inputs of the acc type are read where they lie, others
// are converted first, once for all taps. Buffers of a thread:
//   f, bias    [W,w], [w]          taps and bias of the block
//   buffer     [past+L,w]          extended inputs of one sequence: all L where they are converted,
//                                  else as many as share a window with carried ones
//   pre        [w]                 one row before the activation
//   g          [past+L+past,w]     gradients before the activation, zeros around them
//   partial    [pieces,W+1,width]  gradients of taps and bias, of all tasks
// Forward moves x and y once; backward x, dy and dx once. Derivation: NOTES.md.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "core/backend/cpu/simd_math.h"
#include "core/op/declare.h"
#include "core/op/report.h"
#include "core/ops/common/sequences.h"
#include "core/ops/short_conv/short_conv.h"
#include "core/tensor/rows.h"
#include "core/tensor/view.h"

namespace ls::ops {
namespace {

using Op = ShortConv;
constexpr Index kChannels = 64;  // of a block
constexpr Index kAhead = 8;      // rows
template <Index n>
using Constant = std::integral_constant<Index, n>;

/// f(channels, taps), constants for whole blocks and the usual four taps: the loops over a row are
/// then a few vectors each, every row read once.
template <class F>
void with_sizes(Index channels, Index taps, F&& f) {
  if (channels == kChannels && taps == 4) {
    f(Constant<kChannels>(), Constant<4>());
  } else if (channels == kChannels) {
    f(Constant<kChannels>(), taps);
  } else {
    f(channels, taps);
  }
}

/// Sum over the taps j of f_j * row_j at channel c, the rows `step` apart.
template <class A>
A weigh4(const A* rows, Index step, const A* f, Index w, Index c) {
  return (f[c] * rows[c] + f[w + c] * rows[step + c]) +
         (f[2 * w + c] * rows[2 * step + c] + f[3 * w + c] * rows[3 * step + c]);
}
/// to = start + the same sum, for all channels.
template <class W, class Taps, class A>
inline void weigh(W w, Taps taps, const A* rows, Index step, const A* f, const A* start,
                  A* __restrict to) {
  if constexpr (std::is_same_v<Taps, Constant<4>>) {
    for (Index c = 0; c < w; ++c) {
      to[c] = start[c] + weigh4(rows, step, f, w, c);
    }
  } else {
    std::copy(start, start + w, to);
    for (Index j = 0; j < taps; ++j) {
      for (Index c = 0; c < w; ++c) {
        to[c] += f[j * w + c] * rows[j * step + c];
      }
    }
  }
}

template <class T>
struct Call {
  using A = acc_t<T>;
  Index channels, taps, past;
  std::vector<common::Sequence> seqs;
  Rows x;
  Index tokens;
  const A *weight, *bias;     ///< null: none
  common::FirstStates<A> s0;  ///< [N, D (W-1)]
  explicit Call(const Op::In<TensorView>& in)
      : channels(in.weight.size(0)),
        taps(in.weight.size(1)),
        past(taps - 1),
        seqs(common::sequences(in.x.size(0), in.x.size(1), in.offsets, "short_conv")),
        x(in.x),
        tokens(in.x.size(1)),
        weight(in.weight.template data<A>()),
        bias(common::elements<A>(in.bias)),
        s0(in.s0, 1, channels * past, seqs) {}
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  Index count() const { return std::ssize(seqs); }
  Index blocks() const { return common::pieces(channels, kChannels); }
  /// Row of [B*T] of token t of a sequence.
  Index flat(const common::Sequence& s, Index t) const { return s.row * tokens + s.begin + t; }
  /// Rows that a window needs in its buffer, at most.
  Index buffered() const { return past + (kDirect ? past : common::longest(seqs)); }
  /// Taps of the block, [taps, w], and its bias.
  template <class W>
  void load_weight(Index c0, W w, A* __restrict to, A* __restrict b) const {
    const A* from = weight + c0 * taps;
    for (Index c = 0; c < w; ++c) {
      for (Index j = 0; j < taps; ++j) {
        to[j * w + c] = from[c * taps + j];
      }
      b[c] = bias ? bias[c0 + c] : A(0);
    }
  }
  // Inputs of the acc type are read where they lie, but for those near the carried ones.
  static constexpr bool kDirect = std::is_same_v<T, A>;
};

/// Carried and own inputs of channels [c0, c0 + w) of sequence n, as rows of one array.
template <class T, class W>
class Window {
  using A = acc_t<T>;

 public:
  Window(const Call<T>& call, Index n, Index c0, W w, A* buffer)
      : call_(call),
        s_(call.seqs[n]),
        c0_(c0),
        w_(w),
        buffer_(buffer),
        buffered_(call.past + (Call<T>::kDirect ? std::min(call.past, s_.length) : s_.length)) {
    const A* carried = call.s0.at(n);
    for (Index p = 0; p < call.past; ++p) {
      for (Index c = 0; c < w; ++c) {
        buffer[p * w + c] = carried ? carried[(c0 + c) * call.past + p] : A(0);
      }
    }
    for (Index u = call.past; u < buffered_; ++u) {
      const T* __restrict from = own(u);
      A* __restrict row = buffer + u * w;
      for (Index c = 0; c < w; ++c) {
        row[c] = convert<A>(from[c]);
      }
    }
  }
  /// Row u, and the distance to the next ones of the same window (of the output t = u).
  const A* at(Index u, Index& step) const {
    if constexpr (Call<T>::kDirect) {
      if (u >= call_.past) {
        step = call_.x.stride;
        return own(u);
      }
    }
    step = w_;
    return buffer_ + u * w_;
  }
  const A* at(Index u) const {
    Index step;
    return at(u, step);
  }
  void prefetch(Index t) const {
    if (Call<T>::kDirect && t < s_.length) {
      ls::prefetch(own(t + call_.past), w_);
    }
  }

 private:
  const T* own(Index u) const {
    return call_.x.template row<T>(call_.flat(s_, u - call_.past)) + c0_;
  }
  const Call<T>& call_;
  const common::Sequence& s_;
  Index c0_;
  W w_;
  A* buffer_;
  Index buffered_;
};

/// One token of the channels [c0, c0 + w) of sequence n, before the activation, and the inputs that
/// go on, which may lie over the carried ones. Weights and states are read in their own order: for
/// a single token rows of channels would cost more to make than they save.
template <class Taps, class T, class A>
void single_token(const Call<T>& call, Taps taps, Index n, Index c0, Index w, A* __restrict pre,
                  A* to) {
  const A* const f = call.weight + c0 * taps;
  const A* const carried = call.s0.at(n);
  const T* __restrict x = call.x.template row<T>(call.flat(call.seqs[n], 0)) + c0;
  const Index past = taps - 1;
  for (Index c = 0; c < w; ++c) {
    const A* const before = carried ? carried + (c0 + c) * past : nullptr;
    const auto input = [&](Index j) {
      return j == past ? convert<A>(x[c]) : before ? before[j] : A(0);
    };
    const A bias = call.bias ? call.bias[c0 + c] : A(0);
    const A* const fc = f + c * taps;
    if constexpr (std::is_same_v<Taps, Constant<4>>) {
      const A e0 = input(0), e1 = input(1), e2 = input(2), e3 = input(3);
      pre[c] = bias + ((fc[0] * e0 + fc[1] * e1) + (fc[2] * e2 + fc[3] * e3));
      to[c * 3] = e1;
      to[c * 3 + 1] = e2;
      to[c * 3 + 2] = e3;
    } else {
      A sum = bias;
      for (Index j = 0; j < taps; ++j) {
        sum += fc[j] * input(j);
      }
      pre[c] = sum;
      for (Index p = 0; p < past; ++p) {
        to[c * past + p] = input(p + 1);
      }
    }
  }
}

template <class T>
void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
  report_form<Op>("recurrent");
  using A = acc_t<T>;
  const Call<T> call(in);
  const Index blocks = call.blocks();
  T* y = out.y.data<T>();
  const common::LastStates<A> states(out.sT, 1, call.channels * call.past, call.seqs);
  // A block of a few tokens is no work for a thread of its own.
  const Index grain = row_grain(kChannels * std::max<Index>(1, common::longest(call.seqs)), 2048);
  parallel_for(blocks * call.count(), grain, [&](Index first, Index last) {
    common::Scratch<A> scratch((call.buffered() + call.taps + 2) * kChannels);
    A *const f = scratch.take(call.taps * kChannels), *const bias = scratch.take(kChannels);
    A* __restrict const pre = scratch.take(kChannels);
    A* const buffer = scratch.take(call.buffered() * kChannels);
    for (Index task = first; task < last; ++task) {
      const Index n = task / blocks, c0 = task % blocks * kChannels;
      const common::Sequence& s = call.seqs[n];
      with_sizes(std::min(kChannels, call.channels - c0), call.taps, [&](auto w, auto taps) {
        const auto activate = [&](Index t) {
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
        };
        A* const sT = states.at(n);
        if (s.length == 1) {
          single_token(call, taps, n, c0, w, pre, sT ? sT + c0 * call.past : buffer);
          activate(0);
          return;
        }
        call.load_weight(c0, w, f, bias);
        const Window<T, decltype(w)> x(call, n, c0, w, buffer);
        for (Index t = 0; t < s.length; ++t) {
          Index step;
          const A* const rows = x.at(t, step);
          x.prefetch(t + kAhead);
          weigh(w, taps, rows, step, f, bias, pre);
          activate(t);
        }
        for (Index p = 0; sT && p < call.past; ++p) {
          const A* const row = x.at(s.length + p);
          for (Index c = 0; c < w; ++c) {
            sT[(c0 + c) * call.past + p] = row[c];
          }
        }
      });
    }
  });
}

template <class T>
void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
              const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs& a) {
  using A = acc_t<T>;
  const Call<T> call(in);
  const Index blocks = call.blocks(), count = call.count(), past = call.past;
  const common::LastGradients<A> dsT(dout.sT, 1, call.channels * past, call.seqs);
  const Rows dy(dout.y.defined() ? dout.y : in.x);
  // Gradients of taps and bias are summed over fixed pieces of the sequences, then over pieces: the
  // same for any number of threads. [pieces, taps + bias, channels]
  const Index pieces = std::min<Index>(count, 4), width = blocks * kChannels;
  Buffer<A, 3> partial(pieces, call.taps + 1, width);
  const RowsOut<T> dx(din.x);
  const common::FirstGradients<A> starts(din.s0, 1, call.channels * past, call.seqs);
  parallel_for(blocks * pieces, 1, [&](Index first, Index last) {
    const Index most = 2 * past + common::longest(call.seqs);
    common::Scratch<A> scratch((most + call.buffered() + call.taps + 3) * kChannels);
    A *const f = scratch.take(call.taps * kChannels), *const bias = scratch.take(kChannels);
    A *const zeros = scratch.take(kChannels), *const pre = scratch.take(kChannels);
    A* const buffer = scratch.take(call.buffered() * kChannels);
    A* const g = scratch.take(most * kChannels);
    std::fill(zeros, zeros + kChannels, A(0));
    for (Index task = first; task < last; ++task) {
      const Index piece = task / blocks, c0 = task % blocks * kChannels;
      A* const dtaps = &partial(piece, 0, c0);
      with_sizes(std::min(kChannels, call.channels - c0), call.taps, [&](auto w, auto taps) {
        A* __restrict const dbias = dtaps + taps * width;
        call.load_weight(c0, w, f, bias);
        for (Index n = count * piece / pieces; n < count * (piece + 1) / pieces; ++n) {
          const common::Sequence& s = call.seqs[n];
          const Window<T, decltype(w)> x(call, n, c0, w, buffer);
          // Gradients before the activation, with zeros around them.
          std::fill(g, g + past * w, A(0));
          std::fill(g + (past + s.length) * w, g + (2 * past + s.length) * w, A(0));
          for (Index t = 0; t < s.length; ++t) {
            A* __restrict const gt = g + (past + t) * w;
            if (!dout.y.defined()) {
              std::fill(gt, gt + w, A(0));
              continue;
            }
            const T* __restrict const from = dy.row<T>(call.flat(s, t)) + c0;
            Index step;
            const A* const rows = x.at(t, step);
            x.prefetch(t + kAhead);
            if (t + kAhead < s.length) {
              prefetch(dy.row<T>(call.flat(s, t + kAhead)) + c0, w);
            }
            if (a.silu) {
              weigh(w, taps, rows, step, f, bias, pre);
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
              const A* __restrict row = rows + j * step;
              A* __restrict const dt = dtaps + j * width;
              for (Index c = 0; c < w; ++c) {
                dt[c] += gt[c] * row[c];
              }
            }
          }
          // Input u, carried ones first, was read by the outputs u - past .. u with the taps
          // past .. 0.
          const A* const d_last = dsT.at(n);
          const auto gradient = [&](Index u, A* to) {
            weigh(w, taps, g + (past + u) * w, -Index{w}, f, zeros, to);
            if (d_last && u >= s.length) {
              for (Index c = 0; c < w; ++c) {
                to[c] += d_last[(c0 + c) * past + u - s.length];
              }
            }
          };
          if (dx.defined()) {
            for (Index t = 0; t < s.length; ++t) {
              T* const to = dx.row(call.flat(s, t)) + c0;
              if constexpr (std::is_same_v<T, A>) {
                gradient(past + t, to);
              } else {
                gradient(past + t, pre);
                for (Index c = 0; c < w; ++c) {
                  to[c] = convert<T>(pre[c]);
                }
              }
            }
          }
          if (A* const ds0 = starts.at(n)) {
            for (Index p = 0; p < past; ++p) {
              gradient(p, pre);
              for (Index c = 0; c < w; ++c) {
                ds0[(c0 + c) * past + p] = pre[c];
              }
            }
          }
        }
      });
    }
  });
  starts.finish();
  for (Index channel = 0; channel < call.channels; ++channel) {
    for (Index j = 0; j <= call.taps; ++j) {
      A sum = 0;
      for (Index piece = 0; piece < pieces; ++piece) {
        sum += partial(piece, j, channel);
      }
      if (j == call.taps && din.bias.defined()) {
        din.bias.data<A>()[channel] = sum;
      } else if (j < call.taps && din.weight.defined()) {
        din.weight.data<A>()[channel * call.taps + j] = sum;
      }
    }
  }
}

LS_KERNEL(ShortConv)
    .reads("x y", lies::rows)
    .strided_grad("x")
    .types<double, float, bf16>([]<class T>() { return std::pair(&forward<T>, &backward<T>); });

}  // namespace
}  // namespace ls::ops
