// The update of all parameters on a GPU: sums of squares of pieces, one block that decides (loss,
// norm, clip factor, whether there is an update), and the rule on all pieces in one launch. Tables
// of parameters travel as arguments, so that a graph holds them.
#include <algorithm>
#include <type_traits>
#include <utility>

#include "core/backend/cuda/device/reduce.cuh"
#include "core/backend/cuda/launch.h"
#include "core/base/error.h"
#include "core/tensor/devices.h"
#include "optim/device_step.h"
#include "optim/step.h"

namespace ls::optim {
namespace {

constexpr int kThreads = 256, kEntries = 384;
constexpr Index kPiece = 4096;  // elements of a parameter that one block takes

template <class T>
struct Entry {
  T *value, *grad, *first, *second;  ///< the states may be null
  Index count, first_piece;
  bool decay;
};
template <class T>
struct Table {
  Entry<T> entries[kEntries];
  int count = 0;
  Index pieces = 0;
  void add(const UpdateSlice& s) {
    const auto at = [](const TensorView& t) {
      return t.defined() ? const_cast<T*>(t.data<T>()) : nullptr;
    };
    entries[count++] = {at(s.value),     at(s.grad), at(s.states[0]), at(s.states[1]),
                        s.value.numel(), pieces,     s.decay};
    pieces += cuda::blocks_for(s.value.numel(), kPiece);
  }
  const __device__ Entry<T>& of(Index piece) const {
    int low = 0, high = count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (entries[middle].first_piece <= piece ? low : high) = middle;
    }
    return entries[low];
  }
};

/// What the update needs of the step, made by the block that decides.
struct Decision {
  double rate, step, scale;
  bool updates;
};

__device__ double& at(double* values, StepValue which) {
  return values[static_cast<int>(which)];
}

template <class T>
__global__ void __launch_bounds__(kThreads) squares_kernel(Table<T> table, double* sums) {
  const Index piece = blockIdx.x;
  const Entry<T>& e = table.of(piece);
  const Index begin = (piece - e.first_piece) * kPiece;
  const Index end = begin + kPiece < e.count ? begin + kPiece : e.count;
  double sum = 0;
  for (Index i = begin + threadIdx.x; i < end; i += kThreads) {
    const double g = static_cast<double>(e.grad[i]);
    sum += g * g;
  }
  sum = cuda::Team<kThreads>::sum(sum);
  if (threadIdx.x == 0) {
    sums[piece] = sum;
  }
}

__global__ void __launch_bounds__(1024)
    decide_kernel(double* values, const double* sums, Index pieces, double clip,
                  Decision* decision) {
  double square = 0;
  for (Index i = threadIdx.x; i < pieces; i += blockDim.x) {
    square += sums[i];
  }
  square = cuda::Team<1024>::sum(square);
  if (threadIdx.x != 0) {
    return;
  }
  *decision = {};
  if (at(values, StepValue::kStopped) != 0) {
    return;
  }
  at(values, StepValue::kSteps) += 1;
  const double labels = at(values, StepValue::kLabels), loss_sum = at(values, StepValue::kLossSum);
  at(values, StepValue::kLabels) = 0;
  at(values, StepValue::kCounted) = labels;
  at(values, StepValue::kLossSum) = 0;
  if (labels == 0) {
    if (!isfinite(loss_sum)) {  // a raised error: what is carried must not be kept
      at(values, StepValue::kLoss) = loss_sum;
      at(values, StepValue::kStopped) = at(values, StepValue::kSteps);
    }
    return;
  }
  const double loss = loss_sum / labels, norm = sqrt(square) / labels;
  at(values, StepValue::kLoss) = loss;
  at(values, StepValue::kNorm) = norm;
  if (!isfinite(loss) || !isfinite(norm)) {
    at(values, StepValue::kStopped) = at(values, StepValue::kSteps);
    return;
  }
  const double bound = clip / (norm + 1e-6);
  at(values, StepValue::kUpdates) += 1;
  *decision = {at(values, StepValue::kRate), at(values, StepValue::kUpdates),
               (clip > 0 && bound < 1 ? bound : 1) / labels, true};
}

/// p *= 1 - lr wd, then p -= lr (m / (1 - b1^n)) / (sqrt(v / (1 - b2^n)) + eps).
template <class T>
struct AdamW {
  AdamWNumbers c;
  T b1, b2, rest1, rest2, eps, rate, correct2, keep, scale;
  __device__ void begin(const Decision& d, bool decays) {
    b1 = static_cast<T>(c.beta1);
    b2 = static_cast<T>(c.beta2);
    rest1 = static_cast<T>(1 - c.beta1);
    rest2 = static_cast<T>(1 - c.beta2);
    eps = static_cast<T>(c.eps);
    rate = static_cast<T>(d.rate / (1 - pow(c.beta1, d.step)));
    correct2 = static_cast<T>(1 / (1 - pow(c.beta2, d.step)));
    keep = static_cast<T>(decays ? 1 - d.rate * c.weight_decay : 1);
    scale = static_cast<T>(d.scale);
  }
  __device__ void one(const Entry<T>& e, Index i) const {
    const T g = e.grad[i] * scale;
    const T m = b1 * e.first[i] + rest1 * g, v = b2 * e.second[i] + rest2 * g * g;
    e.first[i] = m;
    e.second[i] = v;
    e.value[i] = keep * e.value[i] - rate * m / (sqrt(v * correct2) + eps);
  }
};

/// g += wd p; b = momentum b + (1 - dampening) g (b = g in the first step); p -= lr b, or
/// p -= lr (g + momentum b) with Nesterov.
template <class T>
struct Sgd {
  SgdNumbers c;
  T decay, scale, momentum, rate, fresh;
  __device__ void begin(const Decision& d, bool decays) {
    decay = static_cast<T>(decays ? c.weight_decay : 0);
    scale = static_cast<T>(d.scale);
    momentum = static_cast<T>(c.momentum);
    rate = static_cast<T>(d.rate);
    fresh = static_cast<T>(d.step == 1 ? 1 : 1 - c.dampening);
  }
  __device__ void one(const Entry<T>& e, Index i) const {
    T g = e.grad[i] * scale + decay * e.value[i];
    if (e.first) {
      const T b = momentum * e.first[i] + fresh * g;
      e.first[i] = b;
      g = c.nesterov ? g + momentum * b : b;
    }
    e.value[i] -= rate * g;
  }
};

template <class T, class Rule>
__global__ void __launch_bounds__(kThreads)
    update_kernel(Table<T> table, Rule rule, const Decision* decision) {
  const Decision d = *decision;
  if (!d.updates) {
    return;
  }
  const Entry<T>& e = table.of(blockIdx.x);
  const Index begin = (Index{blockIdx.x} - e.first_piece) * kPiece;
  const Index end = begin + kPiece < e.count ? begin + kPiece : e.count;
  rule.begin(d, e.decay);
  for (Index i = begin + threadIdx.x; i < end; i += kThreads) {
    rule.one(e, i);
  }
}

__global__ void add_loss_kernel(double* values, const void* loss, bool wide, const double* labels,
                                const ErrorFlag* flag) {
  const double x = wide ? *static_cast<const double*>(loss) : *static_cast<const float*>(loss);
  at(values, StepValue::kLossSum) += flag->source == 0 ? x : NAN;
  at(values, StepValue::kLabels) += *labels;
}

void add_loss(const ExecutionContext& ctx, TensorView values, const TensorView& loss,
              const TensorView& labels) {
  const RunningOn running(ctx);
  LS_CHECK(loss.dtype() == DType::kF64 || loss.dtype() == DType::kF32, kDType,
           "a loss is f32 or f64, not {}", loss.describe());
  cuda::launch(&add_loss_kernel, dim3(1), dim3(1), 0, values.data<double>(), loss.raw(),
               loss.dtype() == DType::kF64, labels.data<double>(),
               static_cast<const ErrorFlag*>(ctx.error_flag));
}

/// The slices of one element type, in tables.
template <class T>
std::vector<Table<T>> tables_of(std::span<const UpdateSlice> slices) {
  std::vector<Table<T>> tables;
  for (const UpdateSlice& s : slices) {
    if (s.value.dtype() != dtype_of_v<T>) {
      continue;
    }
    if (tables.empty() || tables.back().count == kEntries) {
      tables.emplace_back();
    }
    tables.back().add(s);
  }
  return tables;
}

dim3 blocks(Index pieces) {
  return dim3(static_cast<unsigned>(pieces));
}

template <class T>
void sum_squares(const std::vector<Table<T>>& tables, double*& sums) {
  for (const Table<T>& t : tables) {
    cuda::launch(&squares_kernel<T>, blocks(t.pieces), dim3(kThreads), 0, t, sums);
    sums += t.pieces;
  }
}
template <class T>
void apply(const std::vector<Table<T>>& tables, const RuleNumbers& rule, const Decision* decision) {
  for (const Table<T>& t : tables) {
    if (const auto* adamw = std::get_if<AdamWNumbers>(&rule)) {
      cuda::launch(&update_kernel<T, AdamW<T>>, blocks(t.pieces), dim3(kThreads), 0, t,
                   AdamW<T>{*adamw}, decision);
    } else if (const auto* sgd = std::get_if<SgdNumbers>(&rule)) {
      cuda::launch(&update_kernel<T, Sgd<T>>, blocks(t.pieces), dim3(kThreads), 0, t, Sgd<T>{*sgd},
                   decision);
    } else {
      LS_FAIL(kUnsupported, "this update rule has no kernel for a GPU; adamw and sgd have");
    }
  }
}

void update_all(const ExecutionContext& ctx, const RuleNumbers& rule,
                std::span<const UpdateSlice> slices, TensorView values, double clip) {
  const RunningOn running(ctx);
  const auto narrow = tables_of<float>(slices);
  const auto wide = tables_of<double>(slices);
  Index pieces = 0;
  for (const auto& t : narrow) {
    pieces += t.pieces;
  }
  for (const auto& t : wide) {
    pieces += t.pieces;
  }
  const cuda::Scratch sums(pieces * Index{sizeof(double)}), decided(sizeof(Decision));
  double* next = sums.as<double>();
  sum_squares(narrow, next);
  sum_squares(wide, next);
  cuda::launch(&decide_kernel, dim3(1), dim3(1024), 0, values.data<double>(),
               static_cast<const double*>(sums.as<double>()), pieces, clip, decided.as<Decision>());
  apply(narrow, rule, decided.as<Decision>());
  apply(wide, rule, decided.as<Decision>());
}

template <class Word>
__global__ void __launch_bounds__(kThreads)
    copy_kernel(const double* values, const Word* from, Word* to, Index count) {
  if (values[static_cast<int>(StepValue::kStopped)] != 0) {
    return;
  }
  for (Index i = Index{blockIdx.x} * kThreads + threadIdx.x; i < count;
       i += Index{gridDim.x} * kThreads) {
    to[i] = from[i];
  }
}

template <class Word>
void copy_words(TensorView to, const TensorView& from, const TensorView& values) {
  constexpr Index kMostBlocks = 2048;
  const Index count = to.bytes() / Index{sizeof(Word)};
  if (count > 0) {
    cuda::launch(&copy_kernel<Word>,
                 blocks(std::min(cuda::blocks_for(count, kThreads), kMostBlocks)), dim3(kThreads),
                 0, values.data<double>(), static_cast<const Word*>(from.raw()),
                 static_cast<Word*>(to.raw()), count);
  }
}

void copy_unless_stopped(const ExecutionContext& ctx, const TensorView& to, const TensorView& from,
                         const TensorView& values) {
  const RunningOn running(ctx);
  const auto aligned = [](const TensorView& t) {
    return reinterpret_cast<std::uintptr_t>(t.raw()) % sizeof(uint4) == 0;
  };
  if (aligned(to) && aligned(from) && to.bytes() % Index{sizeof(uint4)} == 0) {
    copy_words<uint4>(to, from, values);
  } else {
    copy_words<std::uint16_t>(to, from, values);
  }
}

constexpr StepKernels kKernels = {add_loss, update_all, copy_unless_stopped};
const bool kernels_set = [] {
  set_step_kernels(DeviceType::kCuda, kKernels);
  return true;
}();

}  // namespace
}  // namespace ls::optim
