// Chunks of C tokens with a carried state S [Dk,Dv]; G is the running sum of log-decays in a chunk.
//   P = tril(Q K^T) * exp(G_i - G_j),   O = scale (exp(G) Q S + P V),
//   S' = exp(G_C) S + (exp(G_C - G) K)^T V
// Backward: a pass forward keeps the incoming state of each chunk, a pass backward carries dS;
// dG = q.dq - k.dk, + <S', dS'> at the last row. The query heads of a state head lie one after the
// other, so that one product serves them all. One task is one sequence and state head.
#include "core/backend/cpu/small_gemm.h"
#include "core/ops/decayed_linear/decayed_linear_kernels.h"

namespace ls::ops::decayed_linear {
namespace {

using Op = DecayedLinear;

template <class T>
Index flops_per_token(const Call<T>& call, Index chunk) {
  return 2 * (call.group + 1) * call.size + 2 * call.group * chunk * (call.dk + call.dv);
}

/// S' = exp(G_C) S + (exp(G_C - G) K)^T V, without the first term when S is `empty`; kg is scratch.
template <class A>
void advance(Index c, Index dk, Index dv, const common::Decays<A>& d, const A* k, const A* v, A* kg,
             bool empty, A* s) {
  if (!d.trivial) {
    common::scale_rows(c, dk, A(1), d.out, k, kg);
    k = kg;
  }
  small_gemm<true, false, A>(dk, dv, c, A(1), k, dk, v, dv, empty ? A(0) : d.all, s, dv);
}

template <class T>
void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& attrs) {
  using A = acc_t<T>;
  const Call<T> call(in, attrs);
  common::report_scan<Op>(attrs, call.longest);
  if (common::is_recurrent(attrs, call.longest)) {
    recurrent_forward(call, out);
    return;
  }
  const common::Result<T> o(out.o);
  A* const states = out.sT.data<A>();
  const Index dk = call.dk, dv = call.dv, group = call.group,
              most = common::chunk_of(attrs, call.longest);
  common::for_tasks(
      call.seqs, call.heads, flops_per_token(call, most), [&](Index first, Index last) {
        common::Workspace<A> ws;
        common::Decays<A> d;
        A *q, *k, *side, *v, *y, *p;
        ws.add(q, group * most * dk);
        ws.add(k, most * dk);
        ws.add(side, group * most * dk);
        ws.add(v, most * dv);
        ws.add(y, group * most * dv);
        ws.add(p, group * most * most);
        d.reserve(ws, most);
        ws.allocate();
        for (Index task = first; task < last; ++task) {
          const Index n = task / call.heads, h = task % call.heads;
          const common::Sequence& seq = call.seqs[static_cast<std::size_t>(n)];
          const Index b = seq.row, chunk = common::chunk_of(attrs, seq.length);
          A* s = states + task * call.size;
          call.copy_first_state(task, s);
          for (Index i = 0; i < seq.length; i += chunk) {
            const Index c = std::min(chunk, seq.length - i), t = seq.begin + i;
            const bool empty = i == 0 && !call.first_state(task);
            call.load_decays(b, t, h, c, d);
            call.k.load(b, t, h, c, dk, k);
            call.v.load(b, t, h, c, dv, v);
            for (Index j = 0; j < group; ++j) {
              call.q.load(b, t, h * group + j, c, dk, q + j * c * dk);
            }
            small_gemm<false, true, A>(group * c, c, dk, A(1), q, dk, k, dk, A(0), p, c);
            if (!empty) {
              for (Index j = 0; j < group; ++j) {
                common::scale_rows(c, dk, call.scale, d.in, q + j * c * dk, side + j * c * dk);
              }
              small_gemm<false, false, A>(group * c, dv, dk, A(1), side, dk, s, dv, A(0), y, dv);
            }
            for (Index j = 0; j < group; ++j) {
              common::mask(c, call.scale, p + j * c * c, d.between, p + j * c * c);
            }
            small_gemm<false, false, A>(group * c, dv, c, A(1), p, c, v, dv, empty ? A(0) : A(1), y,
                                        dv);
            for (Index j = 0; j < group; ++j) {
              o.store(b, t, h * group + j, c, dv, y + j * c * dv);
            }
            advance(c, dk, dv, d, k, v, side, empty, s);
          }
        }
      });
}

template <class T>
void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>&, const Op::Out<Tensor>& dout,
              Op::In<Tensor>& din, const Op::Attrs& attrs) {
  using A = acc_t<T>;
  const Call<T> call(in, attrs);
  if (common::is_recurrent(attrs, call.longest)) {
    recurrent_backward(call, dout, din);
    return;
  }
  const common::Operand<T> go(dout.o);
  const Gradients<T> grad(din);
  const Tensor dsT = dout.sT.defined() ? dout.sT.contiguous() : Tensor();
  const Index dk = call.dk, dv = call.dv, size = call.size, group = call.group;
  const Index most = common::chunk_of(attrs, call.longest),
              chunks_most = (call.longest + most - 1) / most;
  common::for_tasks(
      call.seqs, call.heads, 3 * flops_per_token(call, most), [&](Index first, Index last) {
        common::Workspace<A> ws;
        common::Decays<A> d;
        A *states, *ds, *q, *k, *side, *gq, *gk, *v, *gv, *y, *p, *dp, *dgate;
        ws.add(states, (chunks_most + 1) * size);
        ws.add(ds, size);
        for (A** rows : {&q, &side, &gq}) {
          ws.add(*rows, group * most * dk);
        }
        ws.add(k, most * dk);
        ws.add(gk, most * dk);
        ws.add(v, most * dv);
        ws.add(gv, most * dv);
        ws.add(y, group * most * dv);
        ws.add(p, group * most * most);
        ws.add(dp, group * most * most);
        ws.add(dgate, most);
        d.reserve(ws, most);
        ws.allocate();
        for (Index task = first; task < last; ++task) {
          const Index n = task / call.heads, h = task % call.heads;
          const common::Sequence& seq = call.seqs[static_cast<std::size_t>(n)];
          const Index b = seq.row, chunk = common::chunk_of(attrs, seq.length),
                      chunks = (seq.length + chunk - 1) / chunk;
          // Most sequences begin with a state of zeros and end with one that nothing reads.
          const bool starts_empty = !call.first_state(task), end_unused = !dsT.defined();
          call.copy_first_state(task, states);
          for (Index z = 0; z < (end_unused ? chunks - 1 : chunks); ++z) {
            const Index i = z * chunk, c = std::min(chunk, seq.length - i), t = seq.begin + i;
            A* const next = states + (z + 1) * size;
            const bool empty = z == 0 && starts_empty;
            if (!empty) {
              std::copy(next - size, next, next);
            }
            call.load_decays(b, t, h, c, d);
            call.k.load(b, t, h, c, dk, k);
            call.v.load(b, t, h, c, dv, v);
            advance(c, dk, dv, d, k, v, side, empty, next);
          }
          if (dsT.defined()) {
            const A* from = dsT.data<A>() + task * size;
            std::copy(from, from + size, ds);
          } else {
            std::fill(ds, ds + size, A(0));
          }
          for (Index z = chunks - 1; z >= 0; --z) {
            const Index i = z * chunk, c = std::min(chunk, seq.length - i), t = seq.begin + i,
                        rows = group * c;
            const A *s = states + z * size, *after = s + size;
            const bool empty = z == 0 && starts_empty, last = z == chunks - 1 && end_unused,
                       pass_on = z > 0 || grad.s0;
            call.load_decays(b, t, h, c, d);
            call.k.load(b, t, h, c, dk, k);
            call.v.load(b, t, h, c, dv, v);
            A through = 0;  // all of S' scales with exp(G_C)
            if (grad.g.defined() && !last) {
#pragma omp simd reduction(+ : through)
              for (Index e = 0; e < size; ++e) {
                through += after[e] * ds[e];
              }
            }
            // What the chunk writes into S'.
            if (!last) {
              small_gemm<false, true, A>(c, dk, dv, A(1), v, dv, ds, dv, A(0), gk, dk);
              common::scale_rows(c, dk, A(1), d.out, gk);
              common::scale_rows(c, dk, A(1), d.out, k, side);
              small_gemm<false, false, A>(c, dv, dk, A(1), side, dk, ds, dv, A(0), gv, dv);
            }
            std::fill(dgate, dgate + c, A(0));
            if (go.defined()) {
              for (Index j = 0; j < group; ++j) {
                call.q.load(b, t, h * group + j, c, dk, q + j * c * dk);
                go.load(b, t, h * group + j, c, dv, y + j * c * dv);
                if (pass_on) {
                  common::scale_rows(c, dk, call.scale, d.in, q + j * c * dk, side + j * c * dk);
                }
              }
              small_gemm<false, true, A>(rows, c, dk, A(1), q, dk, k, dk, A(0), p, c);
              small_gemm<false, true, A>(rows, c, dv, A(1), y, dv, v, dv, A(0), dp, c);
              if (!empty) {
                small_gemm<false, true, A>(rows, dk, dv, A(1), y, dv, s, dv, A(0), gq, dk);
              }
              for (Index j = 0; j < group; ++j) {
                common::mask(c, call.scale, p + j * c * c, d.between, p + j * c * c);
                common::mask(c, call.scale, dp + j * c * c, d.between, dp + j * c * c);
                if (!empty) {
                  common::scale_rows(c, dk, call.scale, d.in, gq + j * c * dk);
                }
              }
              const A keep_q = empty ? A(0) : A(1), keep_kv = last ? A(0) : A(1);
              small_gemm<false, false, A>(rows, dk, c, A(1), dp, c, k, dk, keep_q, gq, dk);
              small_gemm<true, false, A>(c, dk, rows, A(1), dp, c, q, dk, keep_kv, gk, dk);
              small_gemm<true, false, A>(c, dv, rows, A(1), p, c, y, dv, keep_kv, gv, dv);
              if (pass_on) {
                small_gemm<true, false, A>(dk, dv, rows, A(1), side, dk, y, dv, d.all, ds, dv);
              }
              for (Index e = 0; e < rows && grad.g.defined(); ++e) {
                dgate[e % c] += common::dot(dk, q + e * dk, gq + e * dk);
              }
            } else {
              std::fill(gq, gq + rows * dk, A(0));
              for (Index e = 0; e < size; ++e) {
                ds[e] *= d.all;
              }
            }
            for (Index j = 0; j < group && grad.q.defined(); ++j) {
              grad.q.store(b, t, h * group + j, c, dk, gq + j * c * dk);
            }
            if (grad.k.defined()) {
              grad.k.store(b, t, h, c, dk, gk);
            }
            if (grad.v.defined()) {
              grad.v.store(b, t, h, c, dv, gv);
            }
            if (grad.g.defined()) {
              A sum = through;
              for (Index e = c - 1; e >= 0; --e) {
                sum += dgate[e] - common::dot(dk, k + e * dk, gk + e * dk);
                *grad.g.at(b, t + e, h) = sum;
              }
            }
          }
          if (grad.s0) {
            std::copy(ds, ds + size, grad.s0 + task * size);
          }
        }
      });
}

LS_KERNEL(DecayedLinear).types<double, float, bf16>([]<class T>() {
  return std::pair(&forward<T>, &backward<T>);
});

}  // namespace
}  // namespace ls::ops::decayed_linear
