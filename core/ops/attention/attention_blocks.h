#pragma once
// Softmax attention in blocks of threads, any sizes and operands. Sums of outputs and gradients lie
// behind the shared tiles (attention_pairs.h).
#include "core/op/report.h"
#include "core/ops/attention/attention_cache.h"
#include "core/ops/attention/attention_pairs.h"

namespace ls::ops::attention {

/// A block is a tile of queries, a head and a row.
template <class T>
class Forward : public Pairs<T> {
  using Base = Pairs<T>;
  using Base::block_, Base::call_, Base::m_, Base::b_, Base::t0_, Base::h_;

 public:
  using A = acc_t<T>;
  using Shared = PairsShared<T>;
  static constexpr int C = Call<T>::C;
  static Index state_elements(const Call<T>& call) { return call.value_tiles() * C * (kTile + 1); }
  LS_ON_DEVICE static void run(const Block& block, const Call<T>& call, Shared* m, A* state) {
    Forward(block, call, *m, state).all();
  }

 private:
  LS_ON_DEVICE Forward(const Block& block, const Call<T>& call, Shared& m, A* state)
      : Base(block, call, m, state) {}

  LS_ON_DEVICE void all() {
    this->clear_sums(call_.value_tiles(), C);
    this->set_queries(block_.z, block_.x * C, block_.y);
    block_.each(C, [&](int i) {
      m_.top[i] = call_.sink ? call_.sink[h_] : -std::numeric_limits<A>::infinity();
      m_.sum[i] = call_.sink ? A(1) : A(0);
    });
    for (Index j0 = 0; j0 < call_.keys(); j0 += kTile) {
      if (this->any_visible(j0)) {
        this->logits(j0);
        block_.each(C, [&](int i) { weights(i); });
        block_.sync();
        add(j0);
      }
    }
    block_.sync();
    store();
  }
  /// s = exp(s - top), the sums so far by the new top.
  LS_ON_DEVICE void weights(int i) {
    A top = m_.top[i], sum = 0;
    for (int j = 0; j < kTile; ++j) {
      top = m_.s(i, j) > top ? m_.s(i, j) : top;
    }
    const bool none = std::isinf(top);
    m_.factor[i] = none ? A(1) : std::exp(m_.top[i] - top);
    for (int j = 0; j < kTile; ++j) {
      const A p = none ? A(0) : std::exp(m_.s(i, j) - top);
      m_.s(i, j) = p;
      sum += p;
    }
    m_.sum[i] = m_.sum[i] * m_.factor[i] + sum;
    m_.top[i] = top;
  }
  LS_ON_DEVICE void add(Index j0) {
    for (Index n = 0; n < call_.value_tiles(); ++n) {
      block_.sync();
      this->load_keys(call_.v0, call_.v, j0, n * kTile, call_.dv);
      block_.sync();
      cuda::product<A, C, kTile, kTile>(
          block_, [&](int i, int j) { return m_.s(i, j); },
          [&](int j, int c) { return m_.y(j, c); },
          [&](int i, int c, A sum) {
            A& to = this->sums(n, C, i, c);
            to = to * m_.factor[i] + sum;
          });
    }
    block_.sync();
  }
  LS_ON_DEVICE void store() {
    block_.each(C, [&](int i) {
      if (t0_ + i < call_.queries) {
        const bool none = !(m_.sum[i] > 0);
        call_.lse[call_.row(b_, t0_ + i, h_)] =
            none ? -std::numeric_limits<A>::infinity() : m_.top[i] + std::log(m_.sum[i]);
      }
    });
    for (Index n = 0; n < call_.value_tiles(); ++n) {
      block_.each(C * kTile, [&](int e) {
        const int i = e / kTile, c = e % kTile;
        if (t0_ + i < call_.queries && n * kTile + c < call_.dv) {
          const A sum = m_.sum[i];
          call_.o.at(b_, t0_ + i, h_)[n * kTile + c] =
              convert<T>(sum > 0 ? this->sums(n, C, i, c) / sum : A(0));
        }
      });
    }
  }
};

/// Gradients of queries and of the bias. A block is a tile of queries, a head and a row; with a
/// bias, which rows share, it goes through all rows.
template <class T>
class QueryGradients : public Pairs<T> {
  using Base = Pairs<T>;
  using Base::block_, Base::call_, Base::m_, Base::b_, Base::t0_, Base::h_;

 public:
  using A = acc_t<T>;
  using Shared = PairsShared<T>;
  static constexpr int C = Call<T>::C;
  static Index state_elements(const Call<T>& call) { return call.key_tiles() * C * (kTile + 1); }
  LS_ON_DEVICE static void run(const Block& block, const Call<T>& call, Shared* m, A* state) {
    if (!call.dbias) {
      QueryGradients(block, call, *m, state).all(block.z);
      return;
    }
    for (Index b = 0; b < call.batch; ++b) {
      QueryGradients(block, call, *m, state).all(b);
    }
  }

 private:
  LS_ON_DEVICE QueryGradients(const Block& block, const Call<T>& call, Shared& m, A* state)
      : Base(block, call, m, state) {}

  LS_ON_DEVICE void all(Index b) {
    block_.sync();
    this->clear_sums(call_.key_tiles(), C);
    this->set_queries(b, block_.x * C, block_.y);
    this->load_statistics();
    for (Index j0 = 0; j0 < call_.keys(); j0 += kTile) {
      const bool any = this->any_visible(j0);
      if (any) {
        this->gradients(j0);
      }
      if (call_.dbias) {
        store_bias(j0, any);
      }
      if (any) {
        add(j0);
      }
    }
    block_.sync();
    store();
  }
  LS_ON_DEVICE void store_bias(Index j0, bool any) {
    block_.each(C * kTile, [&](int e) {
      const int i = e / kTile, n = e % kTile;
      if (t0_ + i < call_.queries && j0 + n < call_.keys()) {
        A& to = call_.dbias[(h_ * call_.queries + t0_ + i) * call_.keys() + j0 + n];
        to = (b_ > 0 ? to : A(0)) + (any ? m_.gs(i, n) : A(0));
      }
    });
  }
  LS_ON_DEVICE void add(Index j0) {
    for (Index n = 0; n < call_.key_tiles(); ++n) {
      block_.sync();
      this->load_keys(call_.k0, call_.k, j0, n * kTile, call_.dk);
      block_.sync();
      cuda::product<A, C, kTile, kTile>(
          block_, [&](int i, int j) { return m_.gs(i, j) * m_.slope(i, j); },
          [&](int j, int c) { return m_.y(j, c); },
          [&](int i, int c, A sum) { this->sums(n, C, i, c) += sum; });
    }
    block_.sync();
  }
  LS_ON_DEVICE void store() {
    for (Index n = 0; call_.dq && n < call_.key_tiles(); ++n) {
      block_.each(C * kTile, [&](int e) {
        const int i = e / kTile, c = e % kTile;
        if (t0_ + i < call_.queries && n * kTile + c < call_.dk) {
          call_.dq.at(b_, t0_ + i, h_)[n * kTile + c] = convert<T>(this->sums(n, C, i, c));
        }
      });
    }
  }
};

/// Gradients of keys and values. A block is a tile of keys, a key head and a row.
template <class T>
class KeyGradients : public Pairs<T> {
  using Base = Pairs<T>;
  using Base::block_, Base::call_, Base::m_;

 public:
  using A = acc_t<T>;
  using Shared = PairsShared<T>;
  static constexpr int C = Call<T>::C;
  static Index state_elements(const Call<T>& call) {
    return (call.key_tiles() + call.value_tiles()) * kTile * (kTile + 1);
  }
  LS_ON_DEVICE static void run(const Block& block, const Call<T>& call, Shared* m, A* state) {
    KeyGradients(block, call, *m, state).all();
  }

 private:
  LS_ON_DEVICE KeyGradients(const Block& block, const Call<T>& call, Shared& m, A* state)
      : Base(block, call, m, state), j0_(block.x * kTile) {}

  LS_ON_DEVICE void all() {
    this->clear_sums(call_.key_tiles() + call_.value_tiles(), kTile);
    for (Index r = 0; r < call_.group; ++r) {
      for (Index t0 = 0; t0 < call_.queries; t0 += C) {
        this->set_queries(block_.z, t0, block_.y * call_.group + r);
        if (this->any_visible(j0_)) {
          this->load_statistics();
          this->gradients(j0_);
          add(call_.q, call_.key_tiles(), 0, call_.dk, true);
          add(call_.go, call_.value_tiles(), call_.key_tiles(), call_.dv, false);
        }
      }
    }
    block_.sync();
    store(call_.key_tiles(), 0, call_.dk, call_.gkT, call_.dk0, call_.dk_);
    store(call_.value_tiles(), call_.key_tiles(), call_.dv, call_.gvT, call_.dv0, call_.dv_);
  }
  /// Sums over queries of the gradients of scores, or of probabilities, times rows of x.
  LS_ON_DEVICE void add(const Rows<const T>& x, Index tiles, Index first, Index d, bool scores) {
    for (Index n = 0; n < tiles; ++n) {
      block_.sync();
      this->load_queries(x, n * kTile, d);
      block_.sync();
      cuda::product<A, kTile, kTile, C>(
          block_, [&](int j, int i) { return scores ? m_.gs(i, j) * m_.slope(i, j) : m_.s(i, j); },
          [&](int i, int c) { return m_.x(i, c); },
          [&](int j, int c, A sum) { this->sums(first + n, kTile, j, c) += sum; });
    }
    block_.sync();
  }
  /// With what comes through the outgoing cache.
  LS_ON_DEVICE void store(Index tiles, Index first, Index d, const Rows<const T>& kept,
                          const Rows<T>& cache, const Rows<T>& rows) {
    const Index b = block_.z, h = block_.y, dropped = call_.dropped();
    block_.each(static_cast<int>(tiles) * kTile * kTile, [&](int e) {
      const Index n = e / (kTile * kTile), j = j0_ + e / kTile % kTile;
      const int c = e % kTile;
      if (n * kTile + c >= d) {
        return;
      }
      if (cache && call_.used && call_.cached() <= j && j < call_.cache_rows) {  // its room
        const bool through = kept && j >= call_.keys();
        cache.at(b, j, h)[n * kTile + c] = through ? kept.at(b, j, h)[n * kTile + c] : T(0.0f);
      }
      if (j >= call_.keys()) {
        return;
      }
      A sum = this->sums(first + n, kTile, e / kTile % kTile, c);
      if (kept && j >= dropped) {
        sum += convert<A>(kept.at(b, j - dropped, h)[n * kTile + c]);
      }
      const bool own = j >= call_.cached();
      const Rows<T>& to = own ? rows : cache;
      if (to) {
        to.at(b, own ? j - call_.cached() : j, h)[n * kTile + c] = convert<T>(sum);
      }
    });
  }
  const Index j0_;
};

/// delta = dO . O of every query; a thread each.
template <class T>
struct Deltas {
  struct Shared {};
  LS_ON_DEVICE static void run(const Block& block, const Call<T>& call, Shared*) {
    using A = acc_t<T>;
    common::each_of(block, call.batch * call.queries * call.q_heads, [&](Index at) {
      const Index h = at % call.q_heads, row = at / call.q_heads;
      const Index b = row / call.queries, t = row % call.queries;
      A sum = 0;
      for (Index c = 0; call.go && c < call.dv; ++c) {
        sum += convert<A>(call.go.at(b, t, h)[c]) * convert<A>(call.saved_o.at(b, t, h)[c]);
      }
      call.delta[at] = sum;
    });
  }
};
/// The gradient of a head's sink, over all queries in their order. A block is a head.
template <class T>
struct SinkGradient {
  using A = acc_t<T>;
  struct Shared {
    A part[kThreads];
  };
  LS_ON_DEVICE static void run(const Block& block, const Call<T>& call, Shared* m) {
    const Index h = block.x, all = call.batch * call.queries;
    block.each(kThreads, [&](int e) {
      A sum = 0;
      for (Index row = e; row < all; row += kThreads) {
        const Index at = row * call.q_heads + h;
        const A through = (call.glse ? call.glse[at] : A(0)) - call.delta[at];
        sum += std::exp(call.sink[h] - call.lse_in[at]) * through;
      }
      m->part[e] = sum;
    });
    block.sync();
    block.each(1, [&](int) {
      A sum = 0;
      for (int e = 0; e < kThreads; ++e) {
        sum += m->part[e];
      }
      call.dsink[h] = sum;
    });
  }
};
/// Outgoing caches: the last rows of the incoming ones and of what comes to them; with `used` all
/// rows of the buffers, or in place those alone that come. A block is a row of one, with all its
/// heads.
template <class T>
struct Keep {
  struct Shared {};
  template <class Machine>
  static void launch(Machine& machine, const Call<T>& call) {
    machine.template launch<Keep>({call.in_place() ? call.own : call.out_rows, call.batch, 1},
                                  call);
  }
  LS_ON_DEVICE static void run(const Block& block, const Call<T>& call, Shared*) {
    const Index i = block.x + (call.in_place() ? call.cached() : 0), b = block.y;
    const Index j = call.dropped() + i;
    const Index heads = call.q_heads / call.group;
    if (block.x == 0 && b == 0 && call.bad_used() && call.flag) {
      block.each(1, [&](int) { raise_error(call.flag, call.bad_use, 0, *call.used); });
    }
    if (call.in_place() && call.bad_used()) {
      return;  // the cache stays as it is
    }
    const auto copy = [&](const Rows<const T>& cache, const Rows<const T>& rows, const Rows<T>& to,
                          Index d) {
      block.each(static_cast<int>(heads * d), [&](int e) {
        to.at(b, i, e / d)[e % d] = call.at(cache, rows, b, j, e / d)[e % d];
      });
    };
    copy(call.k0, call.k, call.kT, call.dk);
    copy(call.v0, call.v, call.vT, call.dv);
  }
};

template <class Machine, class T>
struct Blocks {
  using A = acc_t<T>;
  using Op = Attention;
  static constexpr int C = Call<T>::C;

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out,
                      const Op::Attrs& attrs) {
    Machine machine;
    Call<T> c = call_of(machine, in, attrs);
    report_form<Op>("blocks of {} x {}", C, kTile);
    c.o = common::rows_to<T>(out.o);
    c.lse = common::elements<A>(out.lse);
    c.kT = common::rows_to<T>(out.kT);
    c.vT = common::rows_to<T>(out.vT);
    c.out_rows = out.kT.size(1);
    machine.template launch_states<Forward<T>>({blocks_of(c.queries, C), c.q_heads, c.batch}, c);
    Keep<T>::launch(machine, c);
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& attrs) {
    Machine machine;
    Call<T> c = call_of(machine, in, attrs);
    take_gradients(c, out, dout, din, attrs);
    const Index rows = c.batch * c.queries * c.q_heads;
    common::take(machine, rows, c.delta);
    machine.template launch<Deltas<T>>({blocks_of(rows, kThreads), 1, 1}, c);
    if (c.dsink) {
      machine.template launch<SinkGradient<T>>({c.q_heads, 1, 1}, c);
    }
    if (c.dq || c.dbias) {
      machine.template launch_states<QueryGradients<T>>(
          {blocks_of(c.queries, C), c.q_heads, c.dbias ? 1 : c.batch}, c);
    }
    if (c.dk_ || c.dv_ || c.dk0 || c.dv0) {
      machine.template launch_states<KeyGradients<T>>(
          {blocks_of(c.cache_rows + c.own, kTile), c.q_heads / c.group, c.batch}, c);
    }
  }

 protected:
  static void take_gradients(Call<T>& c, const Op::Out<TensorView>& out,
                             const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                             const Op::Attrs& attrs) {
    using common::rows_in, common::rows_to;
    c.saved_o = rows_in<T>(out.o);
    c.lse_in = common::elements<A>(out.lse);
    c.go = rows_in<T>(dout.o);
    c.glse = common::elements<A>(dout.lse);
    c.gkT = rows_in<T>(dout.kT);
    c.gvT = rows_in<T>(dout.vT);
    c.out_rows = c.used ? c.cache_rows : attrs.kept(c.cache_rows + c.own);
    c.dq = rows_to<T>(din.q);
    c.dk_ = rows_to<T>(din.k);
    c.dv_ = rows_to<T>(din.v);
    c.dk0 = rows_to<T>(din.k0);
    c.dv0 = rows_to<T>(din.v0);
    c.dbias = common::elements<A>(din.bias);
    c.dsink = common::elements<A>(din.sink);
  }
  static Call<T> call_of(Machine& machine, const Op::In<TensorView>& in, const Op::Attrs& attrs) {
    using common::rows_in;
    Call<T> c;
    c.batch = in.q.size(0);
    c.queries = in.q.size(1);
    c.own = in.k.size(1);
    c.cache_rows = in.k0.defined() ? in.k0.size(1) : 0;
    c.q_heads = in.q.size(2);
    c.group = c.q_heads / in.k.size(2);
    c.dk = in.q.size(3);
    c.dv = in.v.size(3);
    c.window = attrs.window;
    c.prefix = attrs.prefix;
    c.q_offset = attrs.q_offset;
    c.scale = A(attrs.scale);
    c.softcap = A(attrs.softcap);
    c.causal = attrs.causal;
    c.q = rows_in<T>(in.q);
    c.k = rows_in<T>(in.k);
    c.v = rows_in<T>(in.v);
    c.k0 = rows_in<T>(in.k0);
    c.v0 = rows_in<T>(in.v0);
    c.start = common::elements<std::int64_t>(in.start);
    c.used = common::elements<std::int64_t>(in.used);
    c.flag = machine.error_flag();
    if (c.used) {
      c.bad_use = error_source(common::wrong_use(c.cache_rows, c.own));
    }
    if (c.start) {
      c.bad_start = error_source(wrong_start("attention", c.own));
    }
    common::StretchTable documents("attention", c.batch, c.queries, in.offsets, 0);
    common::check_offsets(machine, documents);
    c.offsets = documents.checked;
    c.offset_count = documents.count + 1;
    c.sink = common::elements<A>(in.sink);
    c.slopes = common::elements<A>(in.slopes);
    c.bias = common::elements<A>(in.bias);
    return c;
  }
};

}  // namespace ls::ops::attention
