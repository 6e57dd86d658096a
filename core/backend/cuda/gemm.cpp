#include "core/backend/cuda/gemm.h"

#include <cublasLt.h>

#include <algorithm>
#include <compare>
#include <map>
#include <mutex>
#include <optional>

#include "core/backend/cuda/launch.h"
#include "core/backend/cuda/switches.h"
#include "core/base/error.h"
#include "core/tensor/devices.h"

namespace ls::cuda {
namespace {

void check(cublasStatus_t status, const char* what) {
  LS_CHECK(status == CUBLAS_STATUS_SUCCESS, kDevice, "{}: cuBLASLt: {}: {}", innermost_context(),
           what, cublasLtGetStatusString(status));
}

cudaDataType_t data_type(DType t) {
  switch (t) {
    case DType::kF64:
      return CUDA_R_64F;
    case DType::kF32:
      return CUDA_R_32F;
    case DType::kBF16:
      return CUDA_R_16BF;
    default:
      LS_FAIL(kUnsupported, "a product of {}: a GPU multiplies f64, f32 and bf16", enum_name(t));
  }
}

/// All that the choice of an algorithm may depend on.
struct Key {
  DType in, out;
  Index m, n, k, count;
  Index lda, ldb, ldc, step_a, step_b, step_c;
  bool trans_a, trans_b, adds, tf32;
  int align_a, align_b, align_c;
  int device;
  auto operator<=>(const Key&) const = default;
};

/// Greatest power of two, up to 16, that divides the address.
int alignment(const void* p) {
  const auto at = reinterpret_cast<std::uintptr_t>(p);
  int align = 16;
  while (at % static_cast<unsigned>(align) != 0) {
    align /= 2;
  }
  return align;
}

/// What cuBLASLt is told of a product, and the algorithm; none where it has none.
struct Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  std::optional<cublasLtMatmulAlgo_t> algorithm;
};

cublasLtMatrixLayout_t layout(DType t, Index rows, Index cols, Index ld, Index count, Index step) {
  cublasLtMatrixLayout_t l = nullptr;
  check(cublasLtMatrixLayoutCreate(&l, data_type(t), static_cast<std::uint64_t>(rows),
                                   static_cast<std::uint64_t>(cols), ld),
        "describing a matrix");
  if (count > 1) {
    const auto n = static_cast<std::int32_t>(count);
    const std::int64_t apart = step;
    check(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &n, sizeof n),
          "describing a stack");
    check(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &apart,
                                           sizeof apart),
          "describing a stack");
  }
  return l;
}

std::optional<cublasLtMatmulAlgo_t> choose(cublasLtHandle_t handle, const Plan& plan,
                                           const Key& key, Index workspace) {
  cublasLtMatmulPreference_t wish = nullptr;
  check(cublasLtMatmulPreferenceCreate(&wish), "choosing an algorithm");
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t what, auto value) {
    check(cublasLtMatmulPreferenceSetAttribute(wish, what, &value, sizeof value),
          "choosing an algorithm");
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(workspace));
  // Parts of a sum are added in f32 or f64 by a kernel of their own, not by whoever comes first.
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  // Column-major, the operands change places.
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<std::uint32_t>(key.align_b));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<std::uint32_t>(key.align_a));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<std::uint32_t>(key.align_c));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<std::uint32_t>(key.align_c));
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle, plan.operation, plan.b, plan.a, plan.c, plan.c, wish, 1, &found, &count);
  cublasLtMatmulPreferenceDestroy(wish);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && count == 0)) {
    return std::nullopt;
  }
  check(status, "choosing an algorithm");
  return found.algo;
}

/// c^T = b^T a^T: what is row-major to us is the column-major transpose.
Plan make_plan(cublasLtHandle_t handle, const Key& key, Index workspace) {
  Plan plan;
  const bool f64 = key.in == DType::kF64;
  const cublasComputeType_t precision = f64        ? CUBLAS_COMPUTE_64F
                                        : key.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                   : CUBLAS_COMPUTE_32F;
  check(cublasLtMatmulDescCreate(&plan.operation, precision, f64 ? CUDA_R_64F : CUDA_R_32F),
        "describing a product");
  const auto transpose = [&](cublasLtMatmulDescAttributes_t which, bool on) {
    const cublasOperation_t op = on ? CUBLAS_OP_T : CUBLAS_OP_N;
    check(cublasLtMatmulDescSetAttribute(plan.operation, which, &op, sizeof op),
          "describing a product");
  };
  transpose(CUBLASLT_MATMUL_DESC_TRANSA, key.trans_b);
  transpose(CUBLASLT_MATMUL_DESC_TRANSB, key.trans_a);
  plan.a = key.trans_a ? layout(key.in, key.m, key.k, key.lda, key.count, key.step_a)
                       : layout(key.in, key.k, key.m, key.lda, key.count, key.step_a);
  plan.b = key.trans_b ? layout(key.in, key.k, key.n, key.ldb, key.count, key.step_b)
                       : layout(key.in, key.n, key.k, key.ldb, key.count, key.step_b);
  plan.c = layout(key.out, key.n, key.m, key.ldc, key.count, key.step_c);
  plan.algorithm = choose(handle, plan, key, workspace);
  return plan;
}

/// One library handle a device; plans are made once and kept.
class Library {
 public:
  static Library& get() {
    static auto* const instance = new Library;
    return *instance;
  }
  cublasLtHandle_t handle(int device) {
    const std::lock_guard lock(mutex_);
    cublasLtHandle_t& h = handles_[device];
    if (!h) {
      check(cublasLtCreate(&h), "starting");
    }
    return h;
  }
  const Plan& plan(cublasLtHandle_t handle, const Key& key, Index workspace) {
    const std::lock_guard lock(mutex_);
    const auto at = plans_.find(key);
    return at != plans_.end()
               ? at->second
               : plans_.emplace(key, make_plan(handle, key, workspace)).first->second;
  }

 private:
  std::mutex mutex_;
  std::map<int, cublasLtHandle_t> handles_;
  std::map<Key, Plan> plans_;
};

}  // namespace

void gemm(const Product& p, const Matrix& a, const Matrix& b, void* c, Index ldc, Index step_c) {
  if (p.m == 0 || p.n == 0 || p.count == 0) {
    return;
  }
  constexpr Index kMost = (Index{1} << 31) - 1;  // cuBLASLt counts rows in 32 bits
  const Index longest = std::max({p.m, p.n, p.k});
  if (p.k == 0 || longest > kMost) {
    LS_CHECK(longest <= kMost, kUnsupported, "{}: a product of {} by {} by {}", innermost_context(),
             p.m, p.k, p.n);
    return detail::plain_gemm(p, a, b, c, ldc, step_c);
  }
  const ExecutionContext& ctx = RunningOn::context();
  const Key key{p.in,
                p.out,
                p.m,
                p.n,
                p.k,
                p.count,
                a.ld,
                b.ld,
                ldc,
                a.step,
                b.step,
                step_c,
                a.transposed,
                b.transposed,
                p.beta != 0,
                p.in == DType::kF32 && tf32_products,
                alignment(a.data),
                alignment(b.data),
                alignment(c),
                ctx.device.index()};
  const Queue q = queue();
  Library& library = Library::get();
  const cublasLtHandle_t handle = library.handle(ctx.device.index());
  const Plan& plan = library.plan(handle, key, ctx.workspace_bytes);
  if (!plan.algorithm) {
    return detail::plain_gemm(p, a, b, c, ldc, step_c);
  }
  const double alpha = p.alpha, beta = p.beta;
  const auto alpha32 = static_cast<float>(alpha), beta32 = static_cast<float>(beta);
  const bool f64 = p.in == DType::kF64;
  check(cublasLtMatmul(handle, plan.operation, f64 ? static_cast<const void*>(&alpha) : &alpha32,
                       b.data, plan.b, a.data, plan.a,
                       f64 ? static_cast<const void*>(&beta) : &beta32, c, plan.c, c, plan.c,
                       &*plan.algorithm, ctx.workspace,
                       static_cast<std::size_t>(ctx.workspace_bytes), q.stream),
        "a product");
  launched();
}

}  // namespace ls::cuda
