// Times the kernels of a GPU, forward and backward, each as a graph of repeats; beside them what
// the bytes that must move would take at the rate of a copy.
// usage: gpu_bench [PART OF A NAME]
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>

#include "core/op/op.h"
#include "core/ops/activation/activation.h"
#include "core/ops/add_rms_norm/add_rms_norm.h"
#include "core/ops/cross_entropy/cross_entropy.h"
#include "core/ops/embedding/embedding.h"
#include "core/ops/glu/glu.h"
#include "core/ops/glu_linear/glu_linear.h"
#include "core/ops/l2_norm/l2_norm.h"
#include "core/ops/layer_norm/layer_norm.h"
#include "core/ops/linear/linear.h"
#include "core/ops/linear_cross_entropy/linear_cross_entropy.h"
#include "core/ops/mul/mul.h"
#include "core/ops/rms_norm/rms_norm.h"
#include "core/ops/rope/rope.h"
#include "core/ops/short_conv/short_conv.h"
#include "core/ops/softmax/softmax.h"
#include "core/ops/token_shift/token_shift.h"
#include "core/tensor/graph.h"
#include "tests/support/draw.h"
#include "tests/support/gpu.h"

using namespace ls;
using namespace ls::ops;

namespace {

constexpr int kRepeats = 20;

/// Milliseconds of one call of `body`, the least of five replays.
double time_of(Device& device, const std::function<void()>& body) {
  body();
  Stream& stream = device.default_stream();
  Graph graph(stream, graph_memory(device), [&] {
    for (int i = 0; i < kRepeats; ++i) {
      body();
    }
  });
  double least = 1e30;
  for (int i = 0; i < 6; ++i) {
    stream.synchronize();
    const auto begin = std::chrono::steady_clock::now();
    graph.replay(stream);
    stream.synchronize();
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
    least = i > 0 ? std::min(least, took.count() / kRepeats) : least;
  }
  return least;
}

class Bench {
 public:
  Bench(Device& device, std::string part) : device_(device), part_(std::move(part)) {
    const Index n = Index{1} << 28;
    const Tensor from = Tensor::zeros({n}, DType::kU8, device);
    Tensor to = Tensor::zeros({n}, DType::kU8, device);
    const double ms = time_of(device, [&] { to.copy_(from); });
    rate_ = 2.0 * static_cast<double>(n) / ms;
    std::printf("copy %.0f GB/s\n%-24s %10s %10s %10s %10s\n", rate_ * 1e-6, "op", "fwd ms",
                "floor", "bwd ms", "TFLOP/s");
  }
  Tensor draw(const Shape& shape, DType t = DType::kBF16) {
    const Index n = shape.numel(), length = std::min<Index>(n, 1009);
    const Tensor some = test::Draw("gpu bench").normal({length}).to(t).to(device_);
    const Index times = (n + length - 1) / length;
    return some.unsqueeze(0)
        .expand({times, length})
        .clone()
        .view({times * length})
        .slice(0, 0, n)
        .view(shape);
  }
  template <class Op>
  void op(const std::string& name, const typename Op::template In<Tensor>& in,
          const typename Op::Attrs& attrs = {}) {
    if (name.find(part_) == std::string::npos) {
      return;
    }
    const OpInfo& info = op_info<Op>();
    const std::vector<Tensor> inputs = ls::detail::spread_members<Tensor>(in);
    const std::vector<ShapeOf> shapes = shapes_of(inputs);
    std::vector<Tensor> out = run_forward(info, inputs, &attrs), dout;
    for (std::size_t i = 0; i < out.size(); ++i) {
      const bool given = i == 0 && out[i].defined() && info.out[i].differentiable;
      dout.push_back(given ? Tensor::full(out[i].shape(), out[i].dtype(), 0.01, device_)
                           : Tensor());
    }
    std::vector<bool> wanted;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      wanted.push_back(inputs[i].defined() && info.in[i].differentiable);
    }
    const Cost cost = info.cost(shapes, &attrs);
    const double forward = time_of(device_, [&] { run_forward(info, inputs, &attrs); });
    const double backward = time_of(device_, [&] {
      run_backward(info, inputs, out, dout, wanted, shapes, op_dtype(info, shapes), &attrs);
    });
    std::printf("%-24s %10.4f %10.4f %10.4f %10.1f\n", name.c_str(), forward, cost.bytes / rate_,
                backward, cost.flops / forward * 1e-9);
    std::fflush(stdout);
  }

 private:
  Device& device_;
  std::string part_;
  double rate_ = 1;  ///< bytes a millisecond
};

}  // namespace

int main(int argc, char** argv) {
  Device* const device = test::gpu();
  if (!device) {
    std::fprintf(stderr, "%s\n", list_devices().front().c_str());
    return 1;
  }
  const Index rows = 16384, d = 2048, classes = 50304, heads = 16;
  Bench b(*device, argc > 1 ? argv[1] : "");
  const auto f32 = [&](const Shape& s) { return b.draw(s, DType::kF32); };
  const auto ids = [&](const Shape& s, Index below) {
    return test::Draw("ids").integers(s, 0, below).to(*device);
  };
  const Tensor x = b.draw({rows, d}), y = b.draw({rows, d}), wide = b.draw({rows, 2 * d});
  b.op<Mul>("mul", {x, y});
  b.op<Activation>("activation", {x}, {Act::kGeluTanh});
  b.op<Glu>("glu", {.x = wide});
  b.op<RmsNorm>("rms_norm", {.x = x, .weight = f32({d})});
  b.op<AddRmsNorm>("add_rms_norm", {.x = x, .residual = y, .weight = f32({d})});
  b.op<LayerNorm>("layer_norm", {.x = x, .weight = f32({d}), .bias = f32({d})});
  b.op<L2Norm>("l2_norm", {b.draw({rows * heads, d / heads})});
  b.op<Softmax>("softmax", {x});
  b.op<Rope>("rope",
             {.x = b.draw({8, rows / 8, heads, d / heads}), .positions = ids({8, rows / 8}, 2048)});
  b.op<TokenShift>("token_shift", {.x = b.draw({8, rows / 8, d})});
  b.op<ShortConv>("short_conv", {.x = b.draw({8, rows / 8, d}), .weight = f32({d, 4})},
                  {.silu = true});
  b.op<Embedding>("embedding", {f32({classes, d}), ids({rows}, classes)});
  b.op<Embedding>("embedding of bytes", {f32({256, d}), ids({rows}, 256)});
  b.op<CrossEntropy>("cross_entropy",
                     {.logits = b.draw({4096, classes}), .targets = ids({4096}, classes)});
  b.op<Linear>("linear", {.x = x, .weight = b.draw({d, d})});
  b.op<Linear>("linear f32", {.x = f32({rows, d}), .weight = f32({d, d})});
  b.op<GluLinear>("glu_linear", {.x = wide, .weight = b.draw({d, d})});
  b.op<LinearCrossEntropy>(
      "linear_cross_entropy",
      {.x = x, .weight = b.draw({classes, d}), .targets = ids({rows}, classes)});
  return 0;
}
