// Products that cuBLASLt has no algorithm for: one thread an element of c, tiles through shared
// memory.
#include "core/backend/cuda/device/convert.cuh"
#include "core/backend/cuda/gemm.h"
#include "core/backend/cuda/launch.h"
#include "core/base/error.h"

namespace ls::cuda {
namespace {

constexpr int kTile = 16;

template <class T>
struct Read {
  const T* data;
  Index down, along, step;  ///< of rows, columns and matrices
  explicit Read(const Matrix& m)
      : data(static_cast<const T*>(m.data)),
        down(m.transposed ? 1 : m.ld),
        along(m.transposed ? m.ld : 1),
        step(m.step) {}
};

template <class T, class U>
__global__ void __launch_bounds__(kTile* kTile)
    plain_kernel(Read<T> a, Read<T> b, U* c, Index m, Index n, Index k, Index ldc, Index step_c,
                 acc_t<T> alpha, acc_t<T> beta) {
  using A = acc_t<T>;
  __shared__ A of_a[kTile][kTile + 1], of_b[kTile][kTile + 1];
  const Index i = Index{blockIdx.y} * kTile + threadIdx.y;
  const Index j = Index{blockIdx.x} * kTile + threadIdx.x;
  const Index z = blockIdx.z;
  A sum = 0;
  for (Index from = 0; from < k; from += kTile) {
    const Index ka = from + threadIdx.x, kb = from + threadIdx.y;
    of_a[threadIdx.y][threadIdx.x] =
        i < m && ka < k ? to_acc<A>(a.data[z * a.step + i * a.down + ka * a.along]) : A(0);
    of_b[threadIdx.y][threadIdx.x] =
        j < n && kb < k ? to_acc<A>(b.data[z * b.step + kb * b.down + j * b.along]) : A(0);
    __syncthreads();
    for (int p = 0; p < kTile; ++p) {
      sum += of_a[threadIdx.y][p] * of_b[p][threadIdx.x];
    }
    __syncthreads();
  }
  if (i < m && j < n) {
    U& to = c[z * step_c + i * ldc + j];
    const A old = beta != A(0) ? beta * to_acc<A>(to) : A(0);
    to = from_acc<U>(alpha * sum + old);
  }
}

template <class T, class U>
void run(const Product& p, const Matrix& a, const Matrix& b, void* c, Index ldc, Index step_c) {
  using A = acc_t<T>;
  launch(&plain_kernel<T, U>,
         dim3(static_cast<unsigned>(blocks_for(p.n, kTile)),
              static_cast<unsigned>(blocks_for(p.m, kTile)), static_cast<unsigned>(p.count)),
         dim3(kTile, kTile), 0, Read<T>(a), Read<T>(b), static_cast<U*>(c), p.m, p.n, p.k, ldc,
         step_c, static_cast<A>(p.alpha), static_cast<A>(p.beta));
}

}  // namespace

void detail::plain_gemm(const Product& p, const Matrix& a, const Matrix& b, void* c, Index ldc,
                        Index step_c) {
  if (p.in == DType::kF64 && p.out == DType::kF64) {
    run<double, double>(p, a, b, c, ldc, step_c);
  } else if (p.in == DType::kF32 && p.out == DType::kF32) {
    run<float, float>(p, a, b, c, ldc, step_c);
  } else if (p.in == DType::kBF16 && p.out == DType::kBF16) {
    run<bf16, bf16>(p, a, b, c, ldc, step_c);
  } else if (p.in == DType::kBF16 && p.out == DType::kF32) {
    run<bf16, float>(p, a, b, c, ldc, step_c);
  } else {
    LS_FAIL(kUnsupported, "a product of {} into {}: a GPU multiplies f64, f32 and bf16",
            enum_name(p.in), enum_name(p.out));
  }
}

}  // namespace ls::cuda
