// One thread a pair of channels of a token, for all heads: the angle is computed once, in f64.
#include "core/ops/rope/rope.h"

#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"

namespace ls::ops {
namespace {

using Op = Rope;

/// Sizes of x [B,T,H,D], of which `pairs` are turned.
struct Turn {
  Index tokens, heads, channels, pairs;
  const std::int64_t* positions;
  const double* inv_freq;
  double factor, sign;
  bool interleaved;
};

/// Frequencies of the pairs, where the call gives none: once a call, as a power in f64 costs more
/// than all else that a pair needs.
__global__ void frequencies(Index pairs, double theta, double* to) {
  const Index p = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (p < pairs) {
    to[p] = pow(theta, -2.0 * static_cast<double>(p) / static_cast<double>(2 * pairs));
  }
}

template <class T>
__global__ void __launch_bounds__(256) turn_kernel(Turn t, cuda::PiecesIn<T> x, cuda::RowsTo<T> y) {
  using A = acc_t<T>;
  const Index rest = t.channels - 2 * t.pairs, per_token = t.pairs + rest;
  const Index i = Index{blockIdx.x} * 256 + threadIdx.x;
  if (i >= t.tokens * per_token) {
    return;
  }
  const Index token = i / per_token, p = i % per_token;
  if (p >= t.pairs) {  // a channel that is copied
    const Index c = p + t.pairs;
    for (Index h = 0; h < t.heads; ++h) {
      y.row(token * t.heads + h)[c] = x.row(token * t.heads + h)[c];
    }
    return;
  }
  double sine = 0, cosine = 0;
  sincos(static_cast<double>(t.positions[token]) * t.inv_freq[p], &sine, &cosine);
  const A c = static_cast<A>(t.factor * cosine), s = static_cast<A>(t.sign * t.factor * sine);
  const Index first = t.interleaved ? 2 * p : p, second = t.interleaved ? 2 * p + 1 : p + t.pairs;
  for (Index h = 0; h < t.heads; ++h) {
    const T* const from = x.row(token * t.heads + h);
    const A u = cuda::to_acc<A>(from[first]), v = cuda::to_acc<A>(from[second]);
    T* const to = y.row(token * t.heads + h);
    to[first] = cuda::from_acc<T>(c * u - s * v);
    to[second] = cuda::from_acc<T>(s * u + c * v);
  }
}

template <class T>
struct Kernel {
  static void turn(const Op::In<TensorView>& in, const TensorView& from, TensorView& to,
                   const Op::Attrs& a, double sign) {
    Turn t;
    t.tokens = from.size(0) * from.size(1);
    t.heads = from.size(2);
    t.channels = from.size(3);
    t.pairs = in.inv_freq.defined() ? in.inv_freq.numel()
                                    : (a.rotary_dim > 0 ? a.rotary_dim : t.channels) / 2;
    t.positions = in.positions.data<std::int64_t>();
    const cuda::Scratch made(in.inv_freq.defined() ? 1 : t.pairs * Index{sizeof(double)});
    t.inv_freq = in.inv_freq.defined() ? in.inv_freq.data<double>() : made.as<double>();
    if (!in.inv_freq.defined() && t.pairs > 0) {
      cuda::launch(&frequencies, dim3(static_cast<unsigned>(cuda::blocks_for(t.pairs, 128))),
                   dim3(128), 0, t.pairs, a.theta, made.as<double>());
    }
    t.factor = a.attention_factor;
    t.sign = sign;
    t.interleaved = a.interleaved;
    const Index threads = t.tokens * (t.channels - t.pairs);
    cuda::launch(&turn_kernel<T>, dim3(static_cast<unsigned>(cuda::blocks_for(threads, 256))),
                 dim3(256), 0, t, cuda::PiecesIn<T>(from), cuda::RowsTo<T>(to));
  }
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    turn(in, in.x, out.y, a, 1);
  }
  // The transpose of a rotation is the rotation back.
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    turn(in, dout.y, din.x, a, -1);
  }
};

LS_KERNEL(Rope)
    .on(DeviceType::kCuda)
    .reads("x y", &cuda::PiecesIn<bf16>::lies)
    .strided_grad("x")
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
