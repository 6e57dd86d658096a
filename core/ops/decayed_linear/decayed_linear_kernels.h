#pragma once
// What the kernels of decayed_linear share. A task is one sequence and state head, task = sequence
// * heads + head; what it starts from and ends in is a state [Dk,Dv] of s0 and sT.
#include <numeric>
#include <type_traits>

#include "core/ops/common/chunks.h"
#include "core/ops/decayed_linear/decayed_linear_heads.h"

namespace ls::ops::decayed_linear {

/// State heads that add up their gradients of what they share as they go: as many as leave some
/// work for every thread, whatever their number.
inline Index team_of(const Heads& map, Index sequences) {
  constexpr Index kTasks = 16;
  Index shared = map.key < map.state ? map.state / map.key : 0;
  if (map.query < map.state) {
    shared = std::gcd(shared, map.state / map.query);
  }
  Index team = std::max<Index>(1, shared);
  while (team > 1 && (shared % team != 0 || sequences * (map.state / team) < kTasks)) {
    --team;
  }
  return team;
}

/// One call: extents, operands, how sequences are cut.
template <class T>
struct Call {
  using A = acc_t<T>;
  Heads map;
  Index heads, group, dk, dv, size;
  A scale;
  ScanAttrs form;
  std::vector<common::Sequence> seqs;
  Index longest;
  common::Operand<T> q, k, v;
  common::Operand<A> g, gk, gv;
  std::vector<A> constant;  ///< log-decay of each head, or empty
  std::vector<A> bonus;     ///< [HU,Dk], or empty: the read comes after the write
  common::FirstStates<A> s0;
  Index team;  ///< consecutive state heads that one thread takes in turn in the pass backward

  Call(const DecayedLinear::In<TensorView>& in, const DecayedLinear::Attrs& a)
      : map(in),
        heads(map.state),
        group(map.group()),
        dk(in.k.size(3)),
        dv(in.v.size(3)),
        size(dk * dv),
        scale(A(a.scale)),
        form(a),
        seqs(common::sequences(in.q.size(0), in.q.size(1), in.offsets, "decayed_linear")),
        longest(common::longest(seqs)),
        q(in.q),
        k(in.k),
        v(in.v),
        g(in.g),
        gk(in.gk),
        gv(in.gv),
        s0(in.s0, heads, size, seqs),
        team(team_of(map, std::ssize(seqs))) {
    if (in.decay.defined()) {
      constant.assign(in.decay.template data<A>(), in.decay.template data<A>() + heads);
    }
    if (in.u.defined()) {
      bonus.assign(in.u.template data<A>(), in.u.template data<A>() + in.u.numel());
    }
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  /// Elements of a thread's buffer for states that nobody wants.
  Index spare() const { return common::spare_of(seqs, size); }
  bool exclusive() const { return !bonus.empty(); }
  const A* bonus_of(Index h) const { return bonus.data() + map.bonus_of(h) * dk; }
  /// Whether the chunk form needs decays per channel, or a read before the write.
  bool by_channel() const { return gk.defined() || gv.defined() || exclusive(); }
  bool decays_heads() const { return g.defined() || !constant.empty(); }

  A log_decay(Index b, Index t, Index h) const {
    if (g.defined()) {
      return *g.at(b, t, h);
    }
    return constant.empty() ? A(0) : constant[h];
  }
  void load_decays(Index b, Index t, Index h, Index c, common::Decays<A>& to) const {
    if (g.defined()) {
      to.load(c, [&](Index i) { return *g.at(b, t + i, h); });
    } else if (!constant.empty()) {
      to.load_constant(c, constant[h]);
    } else {
      to.load(c);
    }
  }
  // Of state head h, and of its j-th output.
  void load_keys(Index b, Index t, Index h, Index c, A* to) const {
    k.load(b, t, map.key_of(h), c, dk, to);
  }
  void load_queries(Index b, Index t, Index h, Index j, Index c, A* to) const {
    q.load(b, t, map.query_of(h, j), c, dk, to);
  }
};

/// Where the gradient of keys or queries goes. Where state heads share them, the heads of a team
/// (Call) add theirs up in one part [B,T,H/team,Dk], and `finish` adds the parts; both in the order
/// of heads.
template <class T>
class HeadResult {
  using A = acc_t<T>;

 public:
  HeadResult(TensorView& to, Index states, Index team) : to_(to), result_(to), team_(team) {
    shared_ = to.defined() && to.size(2) < states;
    if (!shared_) {
      return;
    }
    parts_of_one_ = states / team / to.size(2);
    if constexpr (std::is_same_v<T, A>) {
      if (parts_of_one_ == 1) {
        part_ = result_;
        return;
      }
    }
    parts_ = Tensor::empty({to.size(0), to.size(1), states / team, to.size(3)}, dtype_of<A>::value);
    part_ = common::Result<A>(parts_);
  }
  /// Rows of head `own` of `to`, which state head h gives, or a share of.
  void store(Index b, Index t, Index own, Index h, Index n, Index d, const A* from) const {
    if (!shared_) {
      result_.store(b, t, own, n, d, from);
    } else if (h % team_ == 0) {
      part_.store(b, t, h / team_, n, d, from);
    } else {
      for (Index i = 0; i < n; ++i) {
        A* __restrict row = part_.at(b, t + i, h / team_);
        for (Index x = 0; x < d; ++x) {
          row[x] += from[i * d + x];
        }
      }
    }
  }
  void finish() const {
    if (!parts_.defined()) {
      return;
    }
    const Index tokens = to_.size(1), heads = to_.size(2), d = to_.size(3), parts = parts_of_one_;
    parallel_for(to_.size(0) * tokens * heads, row_grain(parts * d), [&](Index first, Index last) {
      std::vector<A> sum(static_cast<std::size_t>(d));
      for (Index i = first; i < last; ++i) {
        const Index b = i / heads / tokens, t = i / heads % tokens, h = i % heads;
        std::fill(sum.begin(), sum.end(), A(0));
        for (Index j = 0; j < parts; ++j) {
          const A* const row = part_.at(b, t, h * parts + j);
          for (Index x = 0; x < d; ++x) {
            sum[static_cast<std::size_t>(x)] += row[x];
          }
        }
        result_.store(b, t, h, 1, d, sum.data());
      }
    });
  }

 private:
  TensorView to_;
  Tensor parts_;
  common::Result<T> result_;
  common::Result<A> part_;
  Index team_, parts_of_one_ = 1;
  bool shared_ = false;
};

/// Where the gradients go; undefined ones are not wanted. A caller makes all calls of `finish`.
template <class T>
struct Gradients {
  using A = acc_t<T>;
  HeadResult<T> q, k;
  common::Result<T> v;
  common::Result<A> g, gk, gv;
  common::FirstGradients<A> s0;
  Gradients(DecayedLinear::In<TensorView>& din, const Call<T>& call)
      : q(din.q, call.heads, call.team),
        k(din.k, call.heads, call.team),
        v(din.v),
        g(din.g),
        gk(din.gk),
        gv(din.gv),
        s0(din.s0, call.heads, call.size, call.seqs),
        u_(din.u),
        heads_(call.heads) {
    if (din.u.defined()) {
      bonus_ = Tensor::zeros({std::ssize(call.seqs), call.heads, call.dk}, dtype_of<A>::value);
      bonus_rows_ = bonus_.data<A>();
    }
  }
  /// Part [Dk] of the gradient of u, zero at first; null where it is not wanted.
  A* bonus(Index task) const { return bonus_rows_ ? bonus_rows_ + task * bonus_.size(2) : nullptr; }
  void store_q(Index b, Index t, Index h, Index j, Index c, const Call<T>& call,
               const A* from) const {
    q.store(b, t, call.map.query_of(h, j), h, c, call.dk, from);
  }
  void store_k(Index b, Index t, Index h, Index c, const Call<T>& call, const A* from) const {
    k.store(b, t, call.map.key_of(h), h, c, call.dk, from);
  }
  void finish() {
    q.finish();
    k.finish();
    s0.finish();
    if (!bonus_.defined()) {
      return;
    }
    const Index d = bonus_.size(2), share = heads_ / u_.size(0);
    A* const to = common::zeroed(u_).template data<A>();
    for (Index task = 0; task < bonus_.size(0) * heads_; ++task) {
      A* const row = to + task % heads_ / share * d;
      for (Index x = 0; x < d; ++x) {
        row[x] += bonus_rows_[task * d + x];
      }
    }
  }

 private:
  TensorView u_;  // of the call
  Tensor bonus_;  // of each task
  A* bonus_rows_ = nullptr;
  Index heads_;
};

/// Runs the tasks of a pass backward, those of a team one after the other.
template <class Pass, class T, class... Args>
void run_backward(const Call<T>& call, Index flops_per_token, Index most, const Args&... args) {
  const Index team = call.team;
  common::for_tasks(call.seqs, call.heads / team, flops_per_token * team,
                    [&](Index first, Index last) {
                      Pass pass(call, most, args...);
                      for (Index task = first * team; task < last * team; ++task) {
                        pass.run(task);
                      }
                    });
}

/// Token by token (decayed_linear_recurrent_cpu.cpp); float, double, bf16.
template <class T>
struct Recurrent {
  static void forward(const Call<T>& call, DecayedLinear::Out<TensorView>& out);
  static void backward(const Call<T>& call, const DecayedLinear::Out<TensorView>& dout,
                       DecayedLinear::In<TensorView>& din);
};

/// In chunks with decays per channel, or with a bonus (decayed_linear_channels_cpu.cpp).
template <class T>
struct ByChannel {
  static void forward(const Call<T>& call, DecayedLinear::Out<TensorView>& out);
  static void backward(const Call<T>& call, const DecayedLinear::Out<TensorView>& dout,
                       DecayedLinear::In<TensorView>& din);
};

}  // namespace ls::ops::decayed_linear
