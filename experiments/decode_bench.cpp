#include "experiments/decode_bench.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <optional>

#include "autograd/call.h"
#include "autograd/tape.h"
#include "core/base/parallel_for.h"
#include "core/base/rng.h"
#include "core/ops/top_k/top_k.h"
#include "core/tensor/queue_clock.h"
#include "experiments/decoder.h"

namespace ls::experiments {
namespace {

using Clock = std::chrono::steady_clock;

double median(std::vector<double> x) {
  const auto middle = x.begin() + std::ssize(x) / 2;
  std::nth_element(x.begin(), middle, x.end());
  return *middle;
}

/// A copy on a device that reads and writes as many bytes as a token must.
class DeviceFloor {
 public:
  DeviceFloor(Index read_bytes, Index state_bytes, Device& device)
      : from_(Tensor::zeros({read_bytes / 2 + state_bytes}, DType::kU8, device)),
        to_(Tensor::zeros(from_.shape(), DType::kU8, device)) {}
  void run() { to_.copy_(from_); }

 private:
  Tensor from_, to_;
};

/// Buffers of the sizes of what is read, and of what is read and written.
class Floor {
 public:
  Floor(Index read_bytes, Index state_bytes)
      : read_(Tensor::full({read_bytes / 4 + kLanes}, DType::kF32, 1)),
        state_(Tensor::full({state_bytes / 4 + 1}, DType::kF32, 1)),
        sums_(Tensor::zeros({kPieces * kLanes}, DType::kF32)) {}
  void run() {
    const Index vectors = read_.numel() / kLanes, state = state_.numel();
    const float* const r = std::as_const(read_).data<float>();
    float* const s = state_.data<float>();
    float* const sums = sums_.data<float>();
    parallel_for(kPieces, row_grain((vectors * kLanes + state) / kPieces, 1 << 15),
                 [&](Index first, Index last) {
                   for (Index p = first; p < last; ++p) {
                     float sum[kLanes] = {};
                     for (Index i = vectors * p / kPieces; i < vectors * (p + 1) / kPieces; ++i) {
                       for (Index l = 0; l < kLanes; ++l) {
                         sum[l] += r[i * kLanes + l];
                       }
                     }
                     std::copy_n(sum, kLanes, sums + p * kLanes);
                     const Index end = state * (p + 1) / kPieces;
                     for (Index i = state * p / kPieces; i < end; ++i) {
                       s[i] = 0.5f * s[i] + 0.5f;
                     }
                   }
                 });
  }

 private:
  static constexpr Index kPieces = 64, kLanes = 64;
  Tensor read_, state_, sums_;
};

Index bytes_of_weights(const layers::Model& model) {
  Index bytes = 0;
  for (const ag::Parameter& p : model.parameters().items()) {
    const bool looked_up = p.name == "embedding.weight" && !model.config().tie_embeddings;
    // Kernels read what was converted to the model's type.
    const Index size = std::min(dtype_size(p.var.dtype()), dtype_size(model.dtype()));
    bytes += looked_up ? 0 : p.var.value().numel() * size;
  }
  return bytes;
}

/// Most likely class of each row, i64 [rows,1], where the model is.
Tensor greedy(const Tensor& logits) {
  if (!logits.device().host_accessible()) {
    const ag::NoGrad no_grad;
    return ag::call<ops::TopK>({.x = ag::Var(logits)}, {.k = 1}).index.value();
  }
  const std::vector<float> score = logits.to_vector<float>();
  const Index rows = logits.size(0), classes = logits.size(1);
  std::vector<std::int64_t> token;
  for (Index r = 0; r < rows; ++r) {
    const auto begin = score.begin() + r * classes;
    token.push_back(std::max_element(begin, begin + classes) - begin);
  }
  return Tensor::from(token, {rows, 1});
}

}  // namespace

DecodeTiming time_decoding(layers::Model& model, Index rows, Index context, Index steps, bool by_op,
                           bool graphs) {
  const Index vocab = model.interface().vocab_in;
  LS_CHECK(vocab > 0 && model.interface().classes == vocab, kUnsupported,
           "bench --decode feeds a model what it wrote; {} reads {} and writes {} classes",
           model.label(), vocab > 0 ? std::to_string(vocab) + " tokens" : "vectors",
           model.interface().classes);
  Rng rng(0, "bench.decode");
  Decoder decoder(model, rows, graphs);
  Tensor next;
  for (Index at = 0; at < context; at += kPrefill) {
    const Index n = std::min(kPrefill, context - at);
    std::vector<std::int64_t> tokens(static_cast<std::size_t>(rows * n));
    for (std::int64_t& t : tokens) {
      t = rng.below(vocab);
    }
    next = greedy(decoder.feed(Tensor::from(tokens, {rows, n})));
  }
  DecodeTiming out{.weight_bytes = bytes_of_weights(model), .state = decoder.state().bytes()};
  const Index read = out.weight_bytes + out.state.kv, states = out.state.total() - out.state.kv;
  Device& device = model.parameters().device();
  std::optional<DeviceFloor> device_floor;
  std::optional<Floor> host_floor;
  if (device.host_accessible()) {
    host_floor.emplace(read, states);
  } else {
    device_floor.emplace(read, states, device);
  }
  constexpr Index kTurn = 8;  // tokens, then as many floors
  std::vector<double> tokens, floors;
  // Of a device all of a turn together: the host waits once.
  const Index at_once = device.host_accessible() ? 1 : kTurn;
  const auto timed = [&](std::vector<double>& into, Index turn, auto&& f) {
    for (Index i = 0; i < turn; i += at_once) {
      const Index n = std::min(at_once, turn - i);
      const auto begin = Clock::now();
      for (Index j = 0; j < n; ++j) {
        f();
      }
      current_stream(device).synchronize();
      const std::chrono::duration<double> took = Clock::now() - begin;
      into.insert(into.end(), static_cast<std::size_t>(n), took.count() / static_cast<double>(n));
      if (by_op) {
        profile::collect();
      }
    }
  };
  if (by_op) {
    profile::start(queue_clock(device));
  }
  for (Index done = 0; done < steps; done += kTurn) {
    const Index turn = std::min(kTurn, steps - done);
    timed(tokens, turn, [&] { next = greedy(decoder.feed(next)); });
    timed(floors, turn, [&] { host_floor ? host_floor->run() : device_floor->run(); });
  }
  out.entries = profile::stop();
  out.seconds = std::accumulate(tokens.begin(), tokens.end(), 0.0);
  out.token_seconds = median(std::move(tokens));
  out.floor_seconds = median(std::move(floors));
  return out;
}

}  // namespace ls::experiments
