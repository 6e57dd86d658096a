// Chunk-parallel part of Kimi Delta Attention's backward: from the states S before each chunk,
// their gradients dS' after it, X and dV, the gradients of q, k, beta and g. A persistent CTA takes
// chunks of 64 tokens one after the other; tiles of the next one arrive as soon as those of this
// are read.
//   warpgroup 0  queries: Dq = 2^M dO S^T + sum over earlier blocks of dP k',
//                dq = scale 2^(G-M) Dq
//   warpgroup 1  readers: Dr = -2^M dV S^T + the same of dM k',                dk = 2^(G-M) Dr
//   warpgroup 2  writers: Dw = beta 2^(G_C-M) X dS'^T + later blocks' dP^T q' + dM^T k 2^(G-M),
//                dk += 2^(M-G) Dw
//   warpgroup 3  dbeta = dV . X / beta; <S, dS'>; the running sum of the gates' gradient
//   warpgroup 4  a warp each for values and states, for q, k, g, and for stores
// with dP = lower dO X^T diag(beta), dM = -strictly lower dV X^T diag(beta). Sums run over blocks
// of 16 tokens as in decayed_linear_channel_gradients.cu. All of 0 to 3 rewrite q, k and g.
// The gates' gradient is the suffix sum of q' Dq + k 2^(G-M) Dr - k' Dw: what a pair of tokens of
// the chunk brings cancels in f32, since both sides multiply the same rounded factors.
// Moves 2,818 bytes a token and head in and 1,026 out.
#include "core/ops/delta_rule/kda_kernels.cuh"

namespace ls::kernels::kda {
namespace {

struct alignas(1024) Shared {
  // Of this chunk until the first products are done, then of the next.
  unsigned char s[4 * kTile], ds[4 * kTile];  // by 64 values, then by 64 channels
  unsigned char go[2 * kTile], x[2 * kTile], dv[2 * kTile];
  unsigned char raw_q[2 * kTile], raw_k[2 * kTile];
  unsigned char g[4 * kTile];     // gates; G - M; then terms of their gradient
  unsigned char q[2 * kTile];     // q'; then dq
  unsigned char k[2 * kTile];     // k'; then dk
  unsigned char read[2 * kTile];  // k 2^(G - M); then the readers' dk
  BlockRoots roots;               // then sums of k dk over each warp's tokens
  alignas(16) float beta[64];
  int bounded;  // some gate was
  Mbarrier values_full, values_free, raw_full, raw_free, gates_full, gates_free, out, out_read;
  // The readers' dk; terms of writers, of readers as well, of all.
  Mbarrier reader_keys, writer_terms, reader_terms, terms;
};
// Named barriers.
constexpr int kAll = 1, kSweeps = 2, kGates = 3;
constexpr int kThreads = 640;

struct Arguments {
  Records states, gradients;
  const bf16* beta;
  const float* g;
  bf16* dbeta;
  float* dg;
  bf16 *dq, *dk;  // of every head
  Layout layout;
  int64_t count;  // chunks of all chains
  float scale;
};

/// Heads of the same tokens follow each other.
struct Place {
  int head, chunk, b, first, valid;
  int64_t record;
  __device__ Place(const Arguments& args, int64_t i) {
    const Layout& l = args.layout;
    head = static_cast<int>(i % l.heads);
    i /= l.heads;
    chunk = static_cast<int>(i % l.chunks);
    b = static_cast<int>(i / l.chunks);
    record = (static_cast<int64_t>(b) * l.heads + head) * l.chunks + chunk;
    if (l.places) {
      first = l.places[chunk].x;
      valid = l.places[chunk].y;
    } else {
      first = 64 * chunk;
      valid = min(64, l.tokens - first);
    }
  }
  __device__ int key(const Arguments& args) const { return head / args.layout.group; }
  /// Whether tokens of others follow: what lies behind its own is not zeros.
  __device__ bool cut(const Arguments& args) const { return args.layout.places && valid < 64; }
  /// Of [B,T,H]; and whether the chunk has it.
  __device__ int64_t token(const Arguments& args, int t) const {
    return (static_cast<int64_t>(b) * args.layout.tokens + first + t) * args.layout.heads + head;
  }
  __device__ bool has(int t) const { return t < valid; }
};
/// The chunks of this CTA, one after the other; kCuts: without unused records of documents.
template <bool kCuts>
struct Turns {
  const Arguments& args;
  int64_t i = blockIdx.x;
  __device__ explicit Turns(const Arguments& a) : args(a) { skip(); }
  __device__ bool more() const { return i < args.count; }
  __device__ void next() {
    i += gridDim.x;
    skip();
  }
  __device__ Place at() const { return Place(args, i); }
  /// Tokens of the chunk where others follow them, else 64.
  __device__ int tail() const { return kCuts ? used() : 64; }

 private:
  __device__ int used() const {
    return args.layout.places[i / args.layout.heads % args.layout.chunks].y;
  }
  __device__ void skip() {
    while (kCuts && i < args.count && used() == 0) {
      i += gridDim.x;
    }
  }
};

/// sums = rows(a) rows(b)^T over 128 columns.
__device__ __forceinline__ void multiply_scores(float (&d)[32], const void* a, const void* b) {
  const uint64_t x = wgmma::rows(smem_addr(a)), y = wgmma::rows(smem_addr(b));
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    wgmma::multiply<64, Depth::kRows, Depth::kRows>(d, wgmma::step_rows(x, i),
                                                    wgmma::step_rows(y, i), i > 0);
  }
  wgmma::commit();
}
/// d = kSign * rows(a) state^T.
template <int kSign>
__device__ __forceinline__ void multiply_state(float (&d)[64], const void* a,
                                               const unsigned char* state) {
  const uint64_t x = wgmma::rows(smem_addr(a));
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint64_t y = wgmma::columns(smem_addr(state + i / 4 * (2 * kTile)), kTile);
    wgmma::multiply<128, Depth::kRows, Depth::kColumns, kSign>(
        d, wgmma::step_rows(x, i), wgmma::step_columns(y, i % 4), i > 0);
  }
  wgmma::commit();
}

/// Scores of this warp's rows as operands. Readers: times sign beta of the column, up to the
/// diagonal; kTransposed: times that of the row, from the diagonal on. kStrict: without it.
template <bool kTransposed, bool kStrict>
__device__ __forceinline__ void mask_scores(uint32_t (&p)[4][4], const float (&d)[32],
                                            const float* beta, float sign, int warp, int lane) {
  const int row = 16 * warp + (lane >> 2), pair = 2 * (lane & 3);
  const float row0 = sign * beta[row], row1 = sign * beta[row + 8];
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const int column = 8 * j + pair;
    const float2 b = *reinterpret_cast<const float2*>(beta + column);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = row + 8 * half;
      const auto value = [&](int c, float by, float x) {
        const bool keep = kTransposed ? (kStrict ? r < c : r <= c) : (kStrict ? c < r : c <= r);
        return keep ? (kTransposed ? (half ? row1 : row0) : sign * by) * x : 0.f;
      };
      p[j / 2][2 * (j % 2) + half] = pack_bf16(value(column, b.x, d[4 * j + 2 * half]),
                                               value(column + 1, b.y, d[4 * j + 2 * half + 1]));
    }
  }
}

/// By 512 threads, eight tokens and two channels each: gates to G - M, q and k to q', k 2^(G - M)
/// and k', and the roots.
template <bool kCuts>
__device__ __forceinline__ void rewrite(Shared& s, float scale, int n, int tail, int thread) {
  const int half = thread / 64, channel = thread % 64 * 2, first = 8 * half;
  s.gates_full.wait(n & 1);
  float2 at[8];
  float2 sum = make_float2(0, 0);
#pragma unroll
  for (int r = 0; r < 8; ++r) {
    at[r] = *gate_pair(s.g, first + r, channel);
  }
  bool bounded = false;
#pragma unroll
  for (int r = 0; r < 8; ++r) {
    const bool none = kCuts && first + r >= tail;
    const float2 g = none ? make_float2(0, 0) : bounded_gates(at[r]);
    bounded = bounded || g.x == kLeastGate || g.y == kLeastGate;
    sum.x += g.x;
    sum.y += g.y;
    at[r] = sum;
  }
  if (bounded) {
    s.bounded = 1;
  }
  const auto root = [&](int b) { return reinterpret_cast<float2*>(&s.roots.root[b][channel]); };
  if (half % 2) {
    *root(half / 2 + 1) = sum;
  }
  const float2 middle = half % 2 ? make_float2(0, 0) : sum;
  s.raw_full.wait(n & 1);
  if (n > 0) {
    s.out_read.wait((n - 1) & 1);
  }
  // Loads of a few tokens before their stores: the compiler cannot tell them apart.
#pragma unroll
  for (int begin = 0; begin < 8; begin += 4) {
    uint32_t q[4], k[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const bool none = kCuts && first + begin + r >= tail;
      q[r] = none ? 0u : *value_pair(s.raw_q, first + begin + r, channel);
      k[r] = none ? 0u : *value_pair(s.raw_k, first + begin + r, channel);
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int token = first + begin + r;
      const float dx = at[begin + r].x - middle.x, dy = at[begin + r].y - middle.y;
      const float ex = exp2_fast(dx), ey = exp2_fast(dy);
      *gate_pair(s.g, token, channel) = make_float2(dx, dy);
      *value_pair(s.q, token, channel) =
          pack_bf16(scale * low_bf16(q[r]) * ex, scale * high_bf16(q[r]) * ey);
      *value_pair(s.read, token, channel) = pack_bf16(low_bf16(k[r]) * ex, high_bf16(k[r]) * ey);
      *value_pair(s.k, token, channel) =
          pack_bf16(low_bf16(k[r]) * exp2_fast(-dx), high_bf16(k[r]) * exp2_fast(-dy));
    }
  }
  arrive_warp(s.raw_free, thread % 32);
  named_sync(kAll, 512);
  const auto write = [&](int b, float2 step) {
    *root(b) = make_float2(exp2_fast(.5f * step.x), exp2_fast(.5f * step.y));
  };
  if (half % 2 == 0) {
    float2 step = sum;  // from the middle of the block before
    if (half > 0) {
      const float2 before = *root(half / 2);
      step.x += before.x;
      step.y += before.y;
    }
    write(half / 2, step);
  } else if (half == 7) {
    write(4, sum);
  }
  named_sync(kAll, 512);
}

/// Terms of the gates' gradient, added to those in the place of the gates.
__device__ __forceinline__ void add_terms(unsigned char* gates, const float (&d)[64], int warp,
                                          int lane) {
  const int row = 16 * warp + (lane >> 2), pair = 2 * (lane & 3);
#pragma unroll
  for (int first = 0; first < 16; first += 4) {
    float2 x[4], y[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      x[j] = *gate_pair(gates, row, 8 * (first + j) + pair);
      y[j] = *gate_pair(gates, row + 8, 8 * (first + j) + pair);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float* e = d + 4 * (first + j);
      *gate_pair(gates, row, 8 * (first + j) + pair) = make_float2(x[j].x + e[0], x[j].y + e[1]);
      *gate_pair(gates, row + 8, 8 * (first + j) + pair) =
          make_float2(y[j].x + e[2], y[j].y + e[3]);
    }
  }
}

/// Sums over blocks up to this warp's, of queries and of readers.
__device__ __forceinline__ void sweep_back(float (&d)[64], const uint32_t (&p)[4][4],
                                           const Shared& s, int warp, int lane) {
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    if (c <= warp) {
      carry_sums(d, s.roots.root[c], lane);
      add_block(d, p[c], s.k, c, lane);
    }
  }
}

/// Sums of queries (rows of dO) or readers (rows of dV, negative, without the diagonal) of chunk n.
template <int kSign, bool kCuts>
__device__ __forceinline__ void sweep_rows(float (&d)[64], Shared& s, const unsigned char* rows,
                                           float scale, int n, int tail, int thread, int warp,
                                           int lane) {
  uint32_t p[4][4];
  s.values_full.wait(n & 1);
  {
    float score[32];
    wgmma::fence_sums();
    multiply_scores(score, rows, s.x);
    wgmma::wait<0>();
    wgmma::hold(score);
    mask_scores<false, (kSign < 0)>(p, score, s.beta, kSign, warp, lane);
  }
  wgmma::fence_sums();
  multiply_state<kSign>(d, rows, s.s);
  wgmma::wait<0>();
  wgmma::hold(d);
  arrive_warp(s.values_free, lane);
  rewrite<kCuts>(s, scale, n, tail, thread);
  sweep_back(d, p, s, warp, lane);
}

template <bool kCuts>
__device__ __forceinline__ void run_queries(Shared& s, const Arguments& args, int thread, int warp,
                                            int lane_of) {
  int n = 0;
  for (Turns<kCuts> turn(args); turn.more(); turn.next(), ++n) {
    const int lane = opaque(lane_of);
    float d[64];
    sweep_rows<1, kCuts>(d, s, s.go, args.scale, n, turn.tail(), thread, warp, lane);
    uint32_t dq[8][4];
    finish_rows<1>(dq, d, s.q, s.g, args.scale, warp, lane);
    named_sync(kSweeps, 512);
    store_operands(s.q, dq, warp, lane);
    fence_proxy_async();
    arrive_warp(s.out, lane);
    s.reader_terms.wait(n & 1);
    add_terms(s.g, d, warp, lane);
    s.terms.arrive();
  }
}

template <bool kCuts>
__device__ __forceinline__ void run_readers(Shared& s, const Arguments& args, int thread, int warp,
                                            int lane_of) {
  int n = 0;
  for (Turns<kCuts> turn(args); turn.more(); turn.next(), ++n) {
    const int lane = opaque(lane_of);
    float d[64];
    sweep_rows<-1, kCuts>(d, s, s.dv, args.scale, n, turn.tail(), thread, warp, lane);
    uint32_t dk[8][4];
    finish_rows<1>(dk, d, s.read, s.g, 1, warp, lane);
    named_sync(kSweeps, 512);
    store_operands(s.read, dk, warp, lane);
    s.reader_keys.arrive();
    s.writer_terms.wait(n & 1);
    add_terms(s.g, d, warp, lane);
    s.reader_terms.arrive();
  }
}

template <bool kCuts>
__device__ __forceinline__ void run_writers(Shared& s, const Arguments& args, int thread, int warp,
                                            int lane_of) {
  int n = 0;
  for (Turns<kCuts> turn(args); turn.more(); turn.next(), ++n) {
    const int lane = opaque(lane_of), row = 16 * warp + (lane >> 2), pair = 2 * (lane & 3);
    float d[64], written[4];
    uint32_t p[4][4], m[4][4];
    s.values_full.wait(n & 1);
    {
      float score[32];
      wgmma::fence_sums();
      multiply_scores(score, s.x, s.go);
      wgmma::wait<0>();
      wgmma::hold(score);
      mask_scores<true, false>(p, score, s.beta, 1, warp, lane);
      wgmma::hold(score);
      wgmma::fence_sums();
      multiply_scores(score, s.x, s.dv);
      wgmma::wait<0>();
      wgmma::hold(score);
      mask_scores<true, true>(m, score, s.beta, -1, warp, lane);
    }
    wgmma::fence_sums();
    multiply_state<1>(d, s.x, s.ds);
    wgmma::wait<0>();
    wgmma::hold(d);
    const float b0 = s.beta[row], b1 = s.beta[row + 8];
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      d[4 * j] *= b0;
      d[4 * j + 1] *= b0;
      d[4 * j + 2] *= b1;
      d[4 * j + 3] *= b1;
    }
    arrive_warp(s.values_free, lane);
    rewrite<kCuts>(s, args.scale, n, turn.tail(), thread);
    {
      // k dk from the state, summed over tokens: a channel's factor to the chunk's end comes last.
      float x[32];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        uint32_t e[4];
        load_matrices(e,
                      block_address(smem_addr(s.k) + j / 4 * kTile, 16 * warp, 16 * (j % 4), lane));
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          x[4 * j + 2 * h] =
              d[8 * j + 4 * h] * low_bf16(e[2 * h]) + d[8 * j + 4 * h + 2] * low_bf16(e[2 * h + 1]);
          x[4 * j + 2 * h + 1] = d[8 * j + 4 * h + 1] * high_bf16(e[2 * h]) +
                                 d[8 * j + 4 * h + 3] * high_bf16(e[2 * h + 1]);
        }
      }
      reduce_rows(written, x, lane);
    }
    // This lane has values 4 (lane / 4): column pairs of j = 2 (lane / 4) and the next.
    const int channel = 16 * (lane >> 2) + pair;
#pragma unroll
    for (int h = 0; h < 4; h += 2) {
      const float2 u = root_between(s.roots, warp, 4, channel + 4 * h);
      written[h] *= u.x * u.x;
      written[h + 1] *= u.y * u.y;
    }
#pragma unroll
    for (int c = 3; c >= 0; --c) {
      if (c >= warp) {
        carry_sums(d, s.roots.root[c + 1], lane);
        add_block(d, p[c], s.q, c, lane);
        add_block(d, m[c], s.read, c, lane);
      }
    }
    named_sync(kSweeps, 512);
#pragma unroll
    for (int h = 0; h < 4; ++h) {
      s.roots.root[warp][channel + h / 2 * 8 + h % 2] = written[h];
    }
    s.reader_keys.wait(n & 1);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const uint32_t offset =
          block_address(j / 4 * kTile, 16 * warp, 16 * (j % 4), lane);  // the same of k and read
      uint32_t e[4], reader[4], to[4];
      load_matrices(e, smem_addr(s.k) + offset);
      load_matrices(reader, smem_addr(s.read) + offset);
#pragma unroll
      for (int h = 0; h < 4; ++h) {
        float2* const gate = gate_pair(s.g, row + h % 2 * 8, 16 * j + h / 2 * 8 + pair);
        const float2 g = *gate;
        const float u = d[8 * j + 2 * h], v = d[8 * j + 2 * h + 1];
        to[h] = pack_bf16(exp2_fast(-g.x) * u + low_bf16(reader[h]),
                          exp2_fast(-g.y) * v + high_bf16(reader[h]));
        *gate = make_float2(-u * low_bf16(e[h]), -v * high_bf16(e[h]));
      }
      store_matrices(smem_addr(s.k) + offset, to[0], to[1], to[2], to[3]);
    }
    fence_proxy_async();
    arrive_warp(s.out, lane);
    s.writer_terms.arrive();
  }
}

/// dbeta of a chunk; returns <S, dS'> of this thread's channel.
__device__ __forceinline__ float read_values(Shared& s, const Arguments& args, const Place& at,
                                             int n, int thread, int lane) {
  s.values_full.wait(n & 1);
  {
    // Two threads a row, in different banks.
    const int row = thread / 2, half = thread % 2;
    float sum = 0;
#pragma unroll 4
    for (int j = 0; j < 8; ++j) {
      const uint32_t offset = half * kTile + tile_offset(row, 8 * (j ^ (4 * half)));
      sum += dot8(*reinterpret_cast<const uint4*>(s.dv + offset),
                  *reinterpret_cast<const uint4*>(s.x + offset));
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    if (half == 0 && at.has(row)) {
      args.dbeta[at.token(args, row)] = __float2bfloat16(sum / s.beta[row]);
    }
  }
  // Eight channels and every eighth value a lane; then a channel.
  float inner[8] = {};
  const int piece = thread / 8, first = thread % 8;
  const uint32_t at_piece = piece / 8 * kTile;
#pragma unroll 4
  for (int v = first; v < kDv; v += 8) {
    const uint32_t offset = v / 64 * (2 * kTile) + at_piece + tile_offset(v % 64, 8 * (piece % 8));
    const uint4 x = *reinterpret_cast<const uint4*>(s.s + offset);
    const uint4 y = *reinterpret_cast<const uint4*>(s.ds + offset);
    const uint32_t xs[] = {x.x, x.y, x.z, x.w}, ys[] = {y.x, y.y, y.z, y.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      inner[2 * j] += low_bf16(xs[j]) * low_bf16(ys[j]);
      inner[2 * j + 1] += high_bf16(xs[j]) * high_bf16(ys[j]);
    }
  }
  fold<4, 4>(inner, lane);
  fold<2, 2>(inner, lane);
  fold<1, 1>(inner, lane);
  arrive_warp(s.values_free, lane);
  return inner[0];
}

/// The last tokens of the chunk first: sums of the terms, to device memory. kPlain: 64 tokens, no
/// gate bounded.
template <bool kPlain>
__device__ __forceinline__ void sum_terms(Shared& s, float sum, float* dg, int64_t stride,
                                          int tokens, const uint32_t (&bounded)[2], int channel,
                                          int lane) {
  const unsigned char* const terms = s.g + channel / 32 * kTile;
  const uint32_t column = channel % 32 * 4;
#pragma unroll 1
  for (int t = 48; t >= 0; t -= 16) {
    float x[16];
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      x[j] = *reinterpret_cast<const float*>(terms + (t + j) * 128 + (column ^ ((j & 7) << 4)));
    }
    const uint32_t none = (t < 32 ? bounded[0] : bounded[1]) >> (t % 32);
    float* to = dg + (t + 15) * stride;
#pragma unroll
    for (int j = 15; j >= 0; --j, to -= stride) {
      sum += x[j];
      if (kPlain) {
        *to = sum;
      } else if (t + j < tokens) {
        *to = none >> j & 1 ? 0.f : sum;  // beyond the bound a gate has next to no effect
      }
    }
  }
  // Not before the last term is used: asked for, it could still wait when the next gates arrive.
  fence_proxy_async();
  arrive_warp(s.gates_free, lane);
}

template <bool kCuts>
__device__ __forceinline__ void run_gates(Shared& s, const Arguments& args, int thread, int lane) {
  int n = 0;
  const int channel = thread;  // of 128
  const int64_t stride = static_cast<int64_t>(args.layout.heads) * kDk;
  float inner = 0;
  for (Turns<kCuts> turn(args); turn.more(); turn.next(), ++n) {
    const Place at = turn.at();
    if (n == 0) {
      inner = read_values(s, args, at, 0, thread, lane);
    }
    rewrite<kCuts>(s, args.scale, n, turn.tail(), 384 + thread);
    float sum = inner;
#pragma unroll
    for (int b = 0; b < 5; ++b) {
      const float root = s.roots.root[b][channel];
      sum *= root * root;
    }
    const bool some = s.bounded != 0;
    named_arrive(kSweeps, 512);
    const int tokens = at.valid;
    uint32_t bounded[2] = {0, 0};  // a bit a token: its gate was
    if (some) {
      const float* const g = args.g + at.token(args, 0) * kDk + channel;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll 16
        for (int t = 0; t < 32; ++t) {
          const float gate = 32 * half + t < tokens ? g[(32 * half + t) * stride] : 0.f;
          bounded[half] |= (gate * kLog2e < kLeastGate ? 1u : 0u) << t;
        }
      }
    }
    // While the others sum: the next chunk's.
    Turns<kCuts> after = turn;
    after.next();
    if (after.more()) {
      inner = read_values(s, args, after.at(), n + 1, thread, lane);
    }
    s.terms.wait(n & 1);
    named_sync(kGates, 128);  // all of them have read `bounded`
#pragma unroll
    for (int warp = 0; warp < 4; ++warp) {
      sum += s.roots.root[warp][channel];
    }
    if (thread == 0) {
      s.bounded = 0;
    }
    float* const dg = args.dg + at.token(args, 0) * kDk + channel;
    if (tokens == 64 && !some) {
      sum_terms<true>(s, sum, dg, stride, tokens, bounded, channel, lane);
    } else {
      sum_terms<false>(s, sum, dg, stride, tokens, bounded, channel, lane);
    }
  }
}

template <bool kCuts>
__global__ void __launch_bounds__(kThreads, 1) kda_gradients_kernel(
    const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
    const __grid_constant__ CUtensorMap g, const __grid_constant__ CUtensorMap go,
    const __grid_constant__ CUtensorMap dv, const __grid_constant__ CUtensorMap dq,
    const __grid_constant__ CUtensorMap dk, const __grid_constant__ Arguments args) {
#if LS_HOPPER_CODE
  extern __shared__ __align__(1024) unsigned char raw[];
  Shared& s = *reinterpret_cast<Shared*>(raw);
  const int warpgroup = warp_index() / 4, warp = warp_index() % 4, lane = lane_index();
  if (threadIdx.x == 0) {
    s.values_full.init(33);
    s.values_free.init(16 * kWarpArrivals);
    s.raw_full.init(1);
    s.raw_free.init(16 * kWarpArrivals);
    s.gates_full.init(1);
    s.gates_free.init(4 * kWarpArrivals);
    s.out.init(8 * kWarpArrivals);
    s.out_read.init(1);
    s.reader_keys.init(128);
    s.writer_terms.init(128);
    s.reader_terms.init(128);
    s.terms.init(128);
    s.bounded = 0;
    fence_barrier_init();
  }
  __syncthreads();
  const int thread = static_cast<int>(threadIdx.x) % 128;
  if (warpgroup == 4) {  // 480 registers in all: what the launch has for five warpgroups
    fewer_registers<24>();
    int n = 0;
    if (warp == 0) {
      for (Turns<kCuts> turn(args); turn.more(); turn.next(), ++n) {
        const Place at = turn.at();
        float beta[2];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int t = lane + 32 * j;
          beta[j] = safe_beta(at.has(t) ? __bfloat162float(args.beta[at.token(args, t)]) : 0.f);
        }
        if (n >= 1) {
          s.values_free.wait((n - 1) & 1);
        }
        if (lane == 0) {
          s.values_full.arrive_expect(14 * kTile);
          for (int j = 0; j < 2; ++j) {
            load_box(s.go + j * kTile, &go, s.values_full, 64 * j, at.head, at.first, at.b);
            load_box(s.dv + j * kTile, &dv, s.values_full, 64 * j, at.head, at.first, at.b);
          }
          load_bytes(s.x, args.states.value(at.record, 0), 2 * kTile, s.values_full);
          load_bytes(s.s, args.states.state(at.record, 0), 4 * kTile, s.values_full);
          load_bytes(s.ds, args.gradients.state(at.record, 0), 4 * kTile, s.values_full);
        }
        s.beta[lane] = beta[0];
        s.beta[lane + 32] = beta[1];
        s.values_full.arrive();
      }
    } else if (warp == 1 && lane == 0) {
      for (Turns<kCuts> turn(args); turn.more(); turn.next(), ++n) {
        const Place at = turn.at();
        if (n >= 1) {
          s.raw_free.wait((n - 1) & 1);
        }
        s.raw_full.arrive_expect(4 * kTile);
        for (int j = 0; j < 2; ++j) {
          load_box(s.raw_q + j * kTile, &q, s.raw_full, 64 * j, at.key(args), at.first, at.b);
          load_box(s.raw_k + j * kTile, &k, s.raw_full, 64 * j, at.key(args), at.first, at.b);
        }
        if (n >= 1) {
          s.gates_free.wait((n - 1) & 1);
        }
        s.gates_full.arrive_expect(4 * kTile);
        for (int j = 0; j < 4; ++j) {
          load_box(s.g + j * kTile, &g, s.gates_full, 32 * j, at.head, at.first, at.b);
        }
      }
    } else if (warp == 2 && (kCuts || lane == 0)) {
      for (Turns<kCuts> turn(args); turn.more(); turn.next(), ++n) {
        const Place at = turn.at();
        const RowSteps rows = dense_rows(args.layout);
        s.out.wait(n & 1);
        for (int j = 0; j < 2; ++j) {
          store_chunk<kCuts>(dq, args.dq, rows, s.q + j * kTile, 64 * j, at.head, at.first, at.b,
                             at.valid, at.cut(args), lane);
          store_chunk<kCuts>(dk, args.dk, rows, s.k + j * kTile, 64 * j, at.head, at.first, at.b,
                             at.valid, at.cut(args), lane);
        }
        if constexpr (kCuts) {
          __syncwarp();
        }
        if (!kCuts || lane == 0) {
          commit_stores();
          wait_stores_read<0>();
          s.out_read.arrive();
        }
      }
      if (!kCuts || lane == 0) {
        wait_stores<0>();
      }
    }
  } else if (warpgroup == 0) {
    more_registers<128>();
    run_queries<kCuts>(s, args, thread, warp, lane);
  } else if (warpgroup == 1) {
    more_registers<128>();
    run_readers<kCuts>(s, args, 128 + thread, warp, lane);
  } else if (warpgroup == 2) {
    more_registers<136>();
    run_writers<kCuts>(s, args, 256 + thread, warp, lane);
  } else {
    fewer_registers<64>();
    run_gates<kCuts>(s, args, thread, lane);
  }
#endif
}

}  // namespace

cudaError_t kda_gradients(const KdaSizes& z, const KdaInputs& in, const bf16* go, const void* kept,
                          const void* states, const void* gradients, const KdaGradients& out,
                          cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared);
  static_assert(kBytes <= 227 * 1024);
  const auto kernel = in.offsets ? &kda_gradients_kernel<true> : &kda_gradients_kernel<false>;
  if (const cudaError_t e = allow_shared(kernel, kBytes)) return e;
  auto* const beside =
      static_cast<unsigned char*>(const_cast<void*>(gradients)) + z.records() * KdaSizes::kState;
  const bool shared = z.group() > 1;
  bf16* const dq = shared ? reinterpret_cast<bf16*>(beside) : out.q;
  bf16* const dk = shared ? reinterpret_cast<bf16*>(beside + z.head_bytes()) : out.k;
  CUtensorMap maps[6], gates;
  const void* const tensors[] = {in.q, in.k, go, out.v, dq, dk};
  for (int i = 0; i < 6; ++i) {
    const int heads = i < 2 ? z.keys() : z.heads;
    const RowSteps steps = i == 3 ? out.v_steps : RowSteps();
    if (const cudaError_t e =
            encode_rows(&maps[i], tensors[i], z.batch, z.tokens, heads, kDk, steps)) {
      return e;
    }
  }
  if (const cudaError_t e = encode_gates(&gates, in.g, z.batch, z.tokens, z.heads, kDk)) return e;
  int processors = 0;
  if (const cudaError_t e = processor_count(&processors)) return e;
  const auto count = static_cast<int64_t>(z.records());
  const Arguments args{records_in(z, const_cast<void*>(states)),
                       {static_cast<unsigned char*>(const_cast<void*>(gradients)), nullptr},
                       in.beta,
                       in.g,
                       out.beta,
                       out.g,
                       dq,
                       dk,
                       layout_in(z, in, kept),
                       count,
                       z.scale};
  const int64_t blocks = count < processors ? count : processors;
  kernel<<<static_cast<unsigned>(blocks), kThreads, kBytes, stream>>>(
      maps[0], maps[1], gates, maps[2], maps[3], maps[4], maps[5], args);
  if (const cudaError_t e = cudaGetLastError()) return e;
  if (!shared) return cudaSuccess;
  const int64_t rows = int64_t{1} * z.batch * z.tokens * z.keys();
  if (const cudaError_t e = sum_groups(dq, out.q, rows, z.group(), kDk, stream)) return e;
  return sum_groups(dk, out.k, rows, z.group(), kDk, stream);
}

cudaError_t kda_backward(const KdaSizes& z, const KdaInputs& in, const bf16* go,
                         const float* gs_end, void* kept, bool kept_ready, void* states,
                         void* gradients, const KdaGradients& out, cudaStream_t stream) {
  if (!z.valid()) return cudaErrorInvalidValue;
  if (z.records() == 0) return pass_state(z.state_elements(), gs_end, out.s0, stream);
  if (!kept_ready) {
    if (const cudaError_t e = kda_prepare(z, in, kept, stream)) return e;
  }
  if (const cudaError_t e = kda_reverse(z, in, go, gs_end, kept, states, gradients, out.v, out.s0,
                                        stream, out.v_steps)) {
    return e;
  }
  return kda_gradients(z, in, go, kept, states, gradients, out, stream);
}

}  // namespace ls::kernels::kda
