#pragma once
// The selective scan as code of blocks of threads. A block walks one sequence with 16 channels of a
// group and 16 elements of their states, a state element a thread, in chunks of 16 tokens: the
// recurrence within a thread, then the sums over elements (y, dx, ddt) and over channels (db, dc)
// from shared memory. Backward runs the states again, from those before each chunk, which a pass of
// its own leaves [tokens / 16,D,S]. Sums over blocks follow, in their order.
#include "core/op/report.h"
#include "core/ops/common/cell_blocks.h"
#include "core/ops/selective_scan/selective_scan.h"

namespace ls::ops::selective_scan {

inline constexpr int kTokens = 16, kChannels = 16, kElements = 16, kOwn = kChannels * kElements;

template <class T>
struct Call {
  using A = acc_t<T>;
  Index tokens = 0, all = 0, d = 0, s = 0, groups = 0;  ///< all: tokens of all rows
  common::StretchTable sequences;
  const T *x = nullptr, *b = nullptr, *c = nullptr, *gy = nullptr;
  const A *dt = nullptr, *a = nullptr, *s0 = nullptr, *gsT = nullptr;
  A *sT = nullptr, *states = nullptr;
  A *y = nullptr, *dx = nullptr, *ddt = nullptr;  ///< [element tiles,B*T,D]
  A *db = nullptr, *dc = nullptr;                 ///< [channel tiles,B*T,G,S]
  A *da = nullptr, *ds0 = nullptr;                ///< [sequences,D,S]
  LS_ON_DEVICE Index per_group() const { return d / groups; }
  LS_ON_DEVICE Index channel_tiles() const { return (per_group() + kChannels - 1) / kChannels; }
  LS_ON_DEVICE Index element_tiles() const { return (s + kElements - 1) / kElements; }
  std::array<Index, 3> grid() const {
    return {groups * channel_tiles(), element_tiles(), sequences.count};
  }
};

/// What every block knows of its place.
template <class T>
struct Place {
  using A = acc_t<T>;
  const Call<T>& call;
  common::Stretch at;
  Index n, group, tile, first_channel, channels, elements, first_element;
  LS_ON_DEVICE Place(const cuda::Block& block, const Call<T>& c)
      : call(c),
        at(c.sequences.at[block.z]),
        n(block.z),
        group(block.x / c.channel_tiles()),
        tile(block.x % c.channel_tiles()),
        first_channel(group * c.per_group() + tile * kChannels),
        channels(c.per_group() - tile * kChannels),
        elements(c.s - block.y * kElements),
        first_element(block.y * kElements) {}
  LS_ON_DEVICE bool has(int e) const {
    return e / kElements < channels && e % kElements < elements;
  }
  LS_ON_DEVICE Index channel(int e) const { return first_channel + e / kElements; }
  LS_ON_DEVICE Index element(int e) const { return first_element + e % kElements; }
  /// Of a state [D,S].
  LS_ON_DEVICE Index own(int e) const { return channel(e) * call.s + element(e); }
  LS_ON_DEVICE Index row(Index t) const { return at.row * call.tokens + at.token + t; }
  LS_ON_DEVICE Index in_group(Index row, Index element) const {
    return (row * call.groups + group) * call.s + element;
  }
  LS_ON_DEVICE int tokens_from(Index t) const {
    return static_cast<int>(at.length - t < kTokens ? at.length - t : kTokens);
  }
  LS_ON_DEVICE A first(int e) const {
    return call.s0 && at.start >= 0 ? call.s0[at.start * call.d * call.s + own(e)] : A(0);
  }
  /// Where the state before the chunk at t > 0 lies: no two chunks have the same place.
  LS_ON_DEVICE A* before(Index t, int e) const {
    return call.states + row(t) / kTokens * call.d * call.s + own(e);
  }
  /// The states after each token of the chunk at t; f(token, row, state, dt x, dt) for each.
  template <class F>
  LS_ON_DEVICE A run(Index t, int e, A h, F&& f) const {
    const int count = tokens_from(t);
    const A rate = call.a[own(e)];
    const T* const xs = call.x + row(t) * call.d + channel(e);
    const A* const steps = call.dt + row(t) * call.d + channel(e);
    const T* const bs = call.b + in_group(row(t), element(e));
    A step[kTokens], x[kTokens], b[kTokens];
    LS_UNROLL()
    for (int i = 0; i < kTokens; ++i) {  // the last token again behind the end
      const Index at_token = i < count ? i : count - 1;
      step[i] = steps[at_token * call.d];
      x[i] = convert<A>(xs[at_token * call.d]);
      b[i] = convert<A>(bs[at_token * call.groups * call.s]);
    }
    LS_UNROLL()
    for (int i = 0; i < kTokens; ++i) {
      if (i < count) {
        h = std::exp(step[i] * rate) * h + step[i] * x[i] * b[i];
        f(i, h);
      }
    }
    return h;
  }
};

/// Outputs, or where they are null the states before each chunk but the first.
template <class T>
struct Forward {
  using A = acc_t<T>;
  static constexpr int kBlockThreads = kOwn;
  struct Shared {
    A h[kOwn];
    A read[kTokens][kOwn];
  };
  LS_ON_DEVICE static void run(const cuda::Block& block, const Call<T>& call, Shared* m) {
    const Place<T> place(block, call);
    block.each(kOwn, [&](int e) { m->h[e] = place.has(e) ? place.first(e) : A(0); });
    for (Index t = 0; t < place.at.length; t += kTokens) {
      const int count = place.tokens_from(t);
      block.each(kOwn, [&](int e) {
        if (!place.has(e)) {
          return;
        }
        if (!call.y && t > 0) {
          *place.before(t, e) = m->h[e];
        }
        const T* const c = call.c + place.in_group(place.row(t), place.element(e));
        m->h[e] = place.run(t, e, m->h[e], [&](int i, A h) {
          if (call.y) {
            m->read[i][e] = h * convert<A>(c[i * call.groups * call.s]);
          }
        });
      });
      if (call.y) {
        block.sync();
        sum_elements(block, place, m->read, count, t, call.y + block.y * call.all * call.d);
        block.sync();
      }
    }
    block.each(kOwn, [&](int e) {
      if (call.sT && place.at.end >= 0 && place.has(e)) {
        call.sT[place.at.end * call.d * call.s + place.own(e)] = m->h[e];
      }
    });
  }
  /// to [B*T,D] = the sums over this block's elements.
  LS_ON_DEVICE static void sum_elements(const cuda::Block& block, const Place<T>& place,
                                        const A (&x)[kTokens][kOwn], int count, Index t, A* to) {
    const int elements = static_cast<int>(place.elements < kElements ? place.elements : kElements);
    block.each(count * kChannels, [&](int e) {
      const int i = e / kChannels, c = e % kChannels;
      if (c >= place.channels) {
        return;
      }
      A sum = 0;
      for (int k = 0; k < elements; ++k) {
        sum += x[i][c * kElements + k];
      }
      to[place.row(t + i) * place.call.d + place.first_channel + c] = sum;
    });
  }
};

template <class T>
struct Backward {
  using A = acc_t<T>;
  static constexpr int kBlockThreads = kOwn;
  struct Shared {
    A dh[kOwn], da[kOwn];
    A h[kTokens][kOwn];     ///< after each token
    A d[kTokens][kOwn];     ///< its gradient
    A step[kTokens][kOwn];  ///< an element's part of the gradient of dt; then of that of x
  };
  LS_ON_DEVICE static void run(const cuda::Block& block, const Call<T>& call, Shared* m) {
    const Place<T> place(block, call);
    block.each(kOwn, [&](int e) {
      const bool there = call.gsT && place.at.end >= 0 && place.has(e);
      m->dh[e] = there ? call.gsT[place.at.end * call.d * call.s + place.own(e)] : A(0);
      m->da[e] = 0;
    });
    const Index chunks = (place.at.length + kTokens - 1) / kTokens;
    for (Index t = (chunks - 1) * kTokens; t >= 0; t -= kTokens) {
      block.each(kOwn, [&](int e) {
        if (place.has(e)) {
          chunk(place, t, e, m);
        }
      });
      block.sync();
      sums(block, place, t, m);
      block.sync();
    }
    block.each(kOwn, [&](int e) {
      if (place.has(e)) {
        const Index at = place.n * call.d * call.s + place.own(e);
        call.da[at] = m->da[e];
        if (call.ds0) {
          call.ds0[at] = m->dh[e];
        }
      }
    });
  }

 private:
  LS_ON_DEVICE static void chunk(const Place<T>& place, Index t, int e, Shared* m) {
    const Call<T>& call = place.call;
    const A before = t > 0 ? *place.before(t, e) : place.first(e), rate = call.a[place.own(e)];
    place.run(t, e, before, [&](int i, A h) { m->h[i][e] = h; });
    A dh = m->dh[e], da = m->da[e];
    for (int i = place.tokens_from(t) - 1; i >= 0; --i) {
      const Index r = place.row(t + i), at = r * call.d + place.channel(e);
      const Index in_group = place.in_group(r, place.element(e));
      const A dt = call.dt[at], written = convert<A>(call.x[at]) * convert<A>(call.b[in_group]);
      dh += call.gy ? convert<A>(call.gy[at]) * convert<A>(call.c[in_group]) : A(0);
      const A decay = std::exp(dt * rate);
      const A through = dh * decay * (i > 0 ? m->h[i - 1][e] : before);
      m->d[i][e] = dh;
      m->step[i][e] = rate * through + dh * written;
      da += dt * through;
      dh *= decay;
    }
    m->dh[e] = dh;
    m->da[e] = da;
  }
  LS_ON_DEVICE static void sums(const cuda::Block& block, const Place<T>& place, Index t,
                                Shared* m) {
    const Call<T>& call = place.call;
    const int count = place.tokens_from(t);
    const int channels = static_cast<int>(place.channels < kChannels ? place.channels : kChannels);
    const Index part = block.y * call.all * call.d;
    Forward<T>::sum_elements(block, place, m->step, count, t, call.ddt + part);
    block.each(count * kElements, [&](int e) {
      const int i = e / kElements, k = e % kElements;
      if (k >= place.elements) {
        return;
      }
      const Index r = place.row(t + i);
      A db = 0, dc = 0;
      for (int c = 0; c < channels; ++c) {
        const Index at = r * call.d + place.first_channel + c;
        db += m->d[i][c * kElements + k] * call.dt[at] * convert<A>(call.x[at]);
        dc += call.gy ? convert<A>(call.gy[at]) * m->h[i][c * kElements + k] : A(0);
      }
      const Index to =
          place.tile * call.all * call.groups * call.s + place.in_group(r, place.first_element + k);
      call.db[to] = db;
      call.dc[to] = dc;
    });
    block.sync();
    block.each(kOwn, [&](int e) {
      if (!place.has(e)) {
        return;
      }
      for (int i = 0; i < count; ++i) {
        const Index r = place.row(t + i);
        m->step[i][e] = m->d[i][e] * call.dt[r * call.d + place.channel(e)] *
                        convert<A>(call.b[place.in_group(r, place.element(e))]);
      }
    });
    block.sync();
    Forward<T>::sum_elements(block, place, m->step, count, t, call.dx + part);
  }
};

/// to [size] = the sum of `parts` of that size.
template <class A, class T>
struct PartsCall {
  const A* from = nullptr;
  T* to = nullptr;
  Index parts = 0, size = 0;
};
template <class A, class T>
struct SumParts {
  struct Shared {};
  LS_ON_DEVICE static void run(const cuda::Block& block, const PartsCall<A, T>& c, Shared*) {
    common::each_of(block, c.size, [&](Index i) {
      A sum = 0;
      for (Index n = 0; n < c.parts; ++n) {
        sum += c.from[n * c.size + i];
      }
      c.to[i] = convert<T>(sum);
    });
  }
};

template <class Machine, class T>
struct Blocks {
  using A = acc_t<T>;
  using Op = SelectiveScan;

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
    report_form<Op>("recurrent");
    Machine machine;
    Call<T> call = call_of(machine, in);
    const Index parts = call.element_tiles();
    common::take(machine, parts * call.all * call.d, call.y);
    call.sT = out.sT.template data<A>();
    machine.template launch<Forward<T>>(call.grid(), call);
    put(machine, call.y, parts, out.y.template data<T>(), out.y.numel());
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    Machine machine;
    Call<T> call = call_of(machine, in);
    common::take(machine, (call.all / kTokens + 1) * call.d * call.s, call.states);
    machine.template launch<Forward<T>>(call.grid(), call);
    const Index parts = call.element_tiles(), tiles = call.channel_tiles();
    call.gy = common::elements<T>(dout.y);
    call.gsT = common::elements<A>(dout.sT);
    common::take(machine, parts * call.all * call.d, call.dx, call.ddt);
    common::take(machine, tiles * call.all * call.groups * call.s, call.db, call.dc);
    common::take(machine, call.sequences.count * call.d * call.s, call.da, call.ds0);
    machine.template launch<Backward<T>>(call.grid(), call);
    put(machine, call.dx, parts, common::elements<T>(din.x), call.all * call.d);
    put(machine, call.ddt, parts, common::elements<A>(din.dt), call.all * call.d);
    put(machine, call.db, tiles, common::elements<T>(din.b), call.all * call.groups * call.s);
    put(machine, call.dc, tiles, common::elements<T>(din.c), call.all * call.groups * call.s);
    put(machine, call.da, call.sequences.count, common::elements<A>(din.a), call.d * call.s);
    if (din.s0.defined()) {
      common::sum_starts(machine, call.sequences, static_cast<const A*>(call.ds0), din.s0.size(0),
                         call.d * call.s, din.s0.template data<A>());
    }
  }

 private:
  static Call<T> call_of(Machine& machine, const Op::In<TensorView>& in) {
    Call<T> call;
    call.tokens = in.x.size(1);
    call.all = in.x.size(0) * call.tokens;
    call.d = in.x.size(2);
    call.s = in.a.size(1);
    call.groups = in.b.size(2);
    call.sequences = common::StretchTable("selective_scan", in.x.size(0), call.tokens, in.offsets,
                                          in.s0.defined() ? in.s0.size(0) : 0);
    common::make_stretches(machine, call.sequences);
    call.x = in.x.data<T>();
    call.b = in.b.data<T>();
    call.c = in.c.data<T>();
    call.dt = in.dt.data<A>();
    call.a = in.a.data<A>();
    call.s0 = common::elements<A>(in.s0);
    return call;
  }
  template <class To>
  static void put(Machine& machine, const A* from, Index parts, To* to, Index size) {
    if (to) {
      const PartsCall<A, To> c{from, to, parts, size};
      machine.template launch<SumParts<A, To>>({common::blocks_of(size, common::kThreads), 1, 1},
                                               c);
    }
  }
};

}  // namespace ls::ops::selective_scan
