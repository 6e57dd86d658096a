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
#include "core/ops/attention/attention.h"
#include "core/ops/cross_entropy/cross_entropy.h"
#include "core/ops/decayed_linear/decayed_linear.h"
#include "core/ops/delta_rule/delta_rule.h"
#include "core/ops/embedding/embedding.h"
#include "core/ops/gated_scan/gated_scan.h"
#include "core/ops/glu/glu.h"
#include "core/ops/glu_linear/glu_linear.h"
#include "core/ops/gru/gru.h"
#include "core/ops/l2_norm/l2_norm.h"
#include "core/ops/layer_norm/layer_norm.h"
#include "core/ops/linear/linear.h"
#include "core/ops/linear_cross_entropy/linear_cross_entropy.h"
#include "core/ops/lstm/lstm.h"
#include "core/ops/mlstm/mlstm.h"
#include "core/ops/mul/mul.h"
#include "core/ops/rms_norm/rms_norm.h"
#include "core/ops/rope/rope.h"
#include "core/ops/selective_scan/selective_scan.h"
#include "core/ops/short_conv/short_conv.h"
#include "core/ops/softmax/softmax.h"
#include "core/ops/token_shift/token_shift.h"
#include "core/tensor/graph.h"
#include "tests/bench/compare_bits.h"
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
  /// repeats: instead of times, whether as many calls give the same bits.
  Bench(Device& device, std::string part, int repeats)
      : device_(device), part_(std::move(part)), repeats_(repeats) {
    if (repeats > 0) {
      return;
    }
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
  bool wants(const std::string& name) const { return name.find(part_) != std::string::npos; }
  void print(const std::string& name, double ms, double bytes) const {
    std::printf("%-24s %10.4f %10.4f\n", name.c_str(), ms, bytes / rate_);
    std::fflush(stdout);
  }
  template <class Op>
  void op(const std::string& name, const typename Op::template In<Tensor>& in,
          const typename Op::Attrs& attrs = {}) {
    if (!wants(name)) {
      return;
    }
    const OpInfo& info = op_info<Op>();
    const std::vector<Tensor> inputs = ls::detail::spread_members<Tensor>(in);
    const std::vector<ShapeOf> shapes = shapes_of(inputs);
    Kept kept;
    std::vector<Tensor> out = run_forward(info, inputs, &attrs, {}, &kept), dout;
    for (std::size_t i = 0; i < out.size(); ++i) {
      const bool given = i == 0 && out[i].defined() && info.out[i].differentiable;
      dout.push_back(given ? Tensor::full(out[i].shape(), out[i].dtype(), 0.01, device_)
                           : Tensor());
    }
    std::vector<bool> wanted;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      wanted.push_back(inputs[i].defined() && info.in[i].differentiable);
    }
    if (repeats_ > 0) {
      repeat(name, [&] {
        std::vector<Tensor> all = run_forward(info, inputs, &attrs, {}, &kept);
        for (Tensor& d : run_backward(info, inputs, all, dout, wanted, shapes,
                                      op_dtype(info, shapes), &attrs, {}, kept)) {
          all.push_back(std::move(d));
        }
        return all;
      });
      return;
    }
    const Cost cost = info.cost(shapes, &attrs);
    const double forward = time_of(device_, [&] { run_forward(info, inputs, &attrs); });
    const double backward = time_of(device_, [&] {
      run_backward(info, inputs, out, dout, wanted, shapes, op_dtype(info, shapes), &attrs, {},
                   kept);
    });
    std::printf("%-24s %10.4f %10.4f %10.4f %10.1f\n", name.c_str(), forward, cost.bytes / rate_,
                backward, cost.flops / forward * 1e-9);
    std::fflush(stdout);
  }

 private:
  void repeat(const std::string& name, const std::function<std::vector<Tensor>()>& call) {
    const std::vector<Tensor> first = call();
    Tensor differ = Tensor::zeros({1}, DType::kI32, device_);
    for (int i = 1; i < repeats_; ++i) {
      const std::vector<Tensor> again = call();
      for (std::size_t n = 0; n < first.size(); ++n) {
        if (first[n].defined()) {
          LS_CHECK(test::compare_bits(first[n], again[n], differ), kDevice,
                   "{}: results cannot be compared", name);
        }
      }
    }
    const bool same = differ.to(cpu()).data<std::int32_t>()[0] == 0;
    std::printf("%-40s %s\n", name.c_str(), same ? "the same bits" : "OTHER BITS");
    std::fflush(stdout);
  }

  Device& device_;
  std::string part_;
  int repeats_;
  double rate_ = 1;  ///< bytes a millisecond
};

/// Scans at [B,T,H,D] in type t.
void scans(Bench& b, Device& device, const std::string& shape, Index rows, Index tokens,
           Index heads, Index d, DType t) {
  const Tensor x = b.draw({rows, tokens, heads, d}, t);
  const auto gate = [&](const Shape& s) { return Tensor::full(s, DType::kF32, -0.1, device); };
  const Tensor g = gate({rows, tokens, heads}), gk = gate({rows, tokens, heads, d});
  const Tensor beta = Tensor::full({rows, tokens, heads}, t, 0.5, device);
  const DeltaRule::Attrs unit{{}, 0.1, true};
  b.op<DeltaRule>("scan delta " + shape, {.q = x, .k = x, .v = x, .beta = beta}, unit);
  b.op<DeltaRule>("scan gated delta " + shape, {.q = x, .k = x, .v = x, .beta = beta, .g = g},
                  unit);
  b.op<DeltaRule>("scan kda " + shape, {.q = x, .k = x, .v = x, .beta = beta, .gk = gk}, unit);
  b.op<DecayedLinear>("scan scalar " + shape, {.q = x, .k = x, .v = x, .g = g}, {{}, 0.1});
  b.op<DecayedLinear>("scan channels " + shape, {.q = x, .k = x, .v = x, .gk = gk}, {{}, 0.1});
  b.op<Mlstm>("scan mlstm " + shape, {.q = x, .k = x, .v = x, .i = g, .f = g}, {{}, 0.1});
  b.op<Attention>("scan attention " + shape, {.q = x, .k = x, .v = x}, {{}, 0.1});
}

/// A token behind `keys` of them, as in writing: the cache is a buffer with room for one more.
void writing(Bench& b, Device& device, Index keys) {
  const std::string name = "write attention " + std::to_string(keys) + " keys";
  if (!b.wants(name)) {
    return;
  }
  const Tensor x = b.draw({1, 1, 16, 128});
  const Tensor k = b.draw({1, keys + 1, 16, 128}), v = b.draw({1, keys + 1, 16, 128});
  const Tensor used = Tensor::full({}, DType::kI64, static_cast<double>(keys), device);
  const OpInfo& info = op_info<Attention>();
  const Attention::In<Tensor> in{.q = x, .k = x, .v = x, .k0 = k, .v0 = v, .used = used};
  const std::vector<Tensor> inputs = ls::detail::spread_members<Tensor>(in);
  std::vector<bool> spent(inputs.size());
  for (const char* cache : {"k0", "v0"}) {
    spent[static_cast<std::size_t>(info.input_index(cache))] = true;
  }
  const Attention::Attrs attrs{{}, 0.1};
  b.print(name, time_of(device, [&] { run_forward(info, inputs, &attrs, spent); }),
          static_cast<double>(k.bytes() + v.bytes()));
}

/// Sizes of mixers beside 128 by 128: shared keys, wide and narrow values, documents.
void other_scans(Bench& b, Device& device) {
  const auto gate = [&](const Shape& s) { return Tensor::full(s, DType::kF32, -0.1, device); };
  const DecayedLinear::Attrs attrs{{}, 0.1};
  const Tensor keys = b.draw({8, 2048, 1, 128});
  b.op<DecayedLinear>(
      "scan mamba2 B8 T2048 H24 Dk128 Dv64",
      {.q = keys, .k = keys, .v = b.draw({8, 2048, 24, 64}), .g = gate({8, 2048, 24})}, attrs);
  const Tensor narrow = b.draw({4, 2048, 16, 64});
  b.op<DecayedLinear>("scan channels B4 T2048 H16 D64",
                      {.q = narrow, .k = narrow, .v = narrow, .gk = gate({4, 2048, 16, 64})},
                      attrs);
  b.op<DecayedLinear>("scan bonus B4 T2048 H16 D64",
                      {.q = narrow,
                       .k = narrow,
                       .v = narrow,
                       .gk = gate({4, 2048, 16, 64}),
                       .u = b.draw({16, 64}, DType::kF32)},
                      attrs);
  const Tensor few = b.draw({4, 2048, 8, 128});
  b.op<DecayedLinear>("scan constant B4 T2048 H8 Dk128 Dv256",
                      {.q = few,
                       .k = few,
                       .v = b.draw({4, 2048, 8, 256}),
                       .decay = Tensor::full({8}, DType::kF32, -0.1, device)},
                      attrs);
  const Tensor row = b.draw({1, 8192, 16, 128});
  const Tensor offsets =
      Tensor::from(std::vector<std::int64_t>{0, 1900, 2048, 5000, 8192}).to(device);
  b.op<DecayedLinear>("scan scalar, documents",
                      {.q = row, .k = row, .v = row, .g = gate({1, 8192, 16}), .offsets = offsets},
                      attrs);
  b.op<DecayedLinear>(
      "scan channels, documents",
      {.q = row, .k = row, .v = row, .gk = gate({1, 8192, 16, 128}), .offsets = offsets}, attrs);
  const Tensor beta = Tensor::full({1, 8192, 16}, DType::kBF16, 0.5, device);
  b.op<DeltaRule>(
      "scan gated delta, documents",
      {.q = row, .k = row, .v = row, .beta = beta, .g = gate({1, 8192, 16}), .offsets = offsets},
      {{}, 0.1, true});
  b.op<DeltaRule>("scan kda, documents",
                  {.q = row,
                   .k = row,
                   .v = row,
                   .beta = beta,
                   .gk = gate({1, 8192, 16, 128}),
                   .offsets = offsets},
                  {{}, 0.1, true});
  b.op<GatedScan>("scan gated B8 T2048 D2048",
                  {.u = b.draw({8, 2048, 2048}), .g = gate({8, 2048, 2048})});
  b.op<SelectiveScan>("scan selective B8 T2048 D1536 S16",
                      {.x = b.draw({8, 2048, 1536}),
                       .dt = Tensor::full({8, 2048, 1536}, DType::kF32, 0.1, device),
                       .a = Tensor::full({1536, 16}, DType::kF32, -1, device),
                       .b = b.draw({8, 2048, 1, 16}),
                       .c = b.draw({8, 2048, 1, 16})});
}

}  // namespace

int main(int argc, char** argv) {
  Device* const device = test::gpu();
  if (!device) {
    std::fprintf(stderr, "%s\n", list_devices().front().c_str());
    return 1;
  }
  const Index rows = 16384, d = 2048, classes = 50304, heads = 16;
  const std::string part = argc > 1 ? argv[1] : "";
  Bench b(*device, part, argc > 2 ? std::atoi(argv[2]) : 0);
  const auto f32 = [&](const Shape& s) { return b.draw(s, DType::kF32); };
  const auto ids = [&](const Shape& s, Index below) {
    return test::Draw("ids").integers(s, 0, below).to(*device);
  };
  const Tensor x = b.draw({rows, d}), y = b.draw({rows, d}), wide = b.draw({rows, 2 * d});
  b.op<Mul>("mul", {x, y});
  b.op<Activation>("activation", {x}, {Act::kGeluTanh});
  b.op<Glu>("glu", {.x = wide});
  b.op<RmsNorm>("rms_norm", {.x = x, .weight = f32({d})});
  b.op<RmsNorm>(
      "rms_norm of heads, gated",
      {.x = b.draw({2 * rows * 6, 512}), .weight = f32({512}), .z = b.draw({2 * rows * 6, 512})});
  b.op<AddRmsNorm>("add_rms_norm", {.x = x, .residual = y, .weight = f32({d})});
  b.op<LayerNorm>("layer_norm", {.x = x, .weight = f32({d}), .bias = f32({d})});
  b.op<L2Norm>("l2_norm", {b.draw({rows * heads, d / heads})});
  b.op<Softmax>("softmax", {x});
  b.op<Rope>("rope",
             {.x = b.draw({8, rows / 8, heads, d / heads}), .positions = ids({8, rows / 8}, 2048)});
  b.op<TokenShift>("token_shift", {.x = b.draw({8, rows / 8, d})});
  b.op<ShortConv>("short_conv", {.x = b.draw({8, rows / 8, d}), .weight = f32({d, 4})},
                  {.silu = true});
  b.op<ShortConv>("short_conv of 6144", {.x = b.draw({8, 4096, 6144}), .weight = f32({6144, 4})},
                  {.silu = true});
  b.op<Embedding>("embedding", {f32({classes, d}), ids({rows}, classes)});
  b.op<Embedding>("embedding of bytes", {f32({256, d}), ids({rows}, 256)});
  b.op<CrossEntropy>("cross_entropy",
                     {.logits = b.draw({4096, classes}), .targets = ids({4096}, classes)});
  b.op<Linear>("linear", {.x = x, .weight = b.draw({d, d})});
  b.op<Linear>("linear 1024 to 6", {.x = b.draw({2 * rows, 1024}), .weight = b.draw({6, 1024})});
  b.op<Linear>("linear f32", {.x = f32({rows, d}), .weight = f32({d, d})});
  b.op<GluLinear>("glu_linear", {.x = wide, .weight = b.draw({d, d})});
  b.op<LinearCrossEntropy>(
      "linear_cross_entropy",
      {.x = x, .weight = b.draw({classes, d}), .targets = ids({rows}, classes)});
  scans(b, *device, "B4 T2048 H16 D128", 4, 2048, 16, 128, DType::kBF16);
  scans(b, *device, "B2 T16384 H16 D128", 2, 16384, 16, 128, DType::kBF16);
  scans(b, *device, "B1 T8192 H16 D128", 1, 8192, 16, 128, DType::kBF16);  // packed rows' peer
  scans(b, *device, "f32 B8 T1024 H8 D64", 8, 1024, 8, 64, DType::kF32);
  if (part.find("tiny") != std::string::npos) {  // for compute-sanitizer
    scans(b, *device, "tiny", 1, 130, 2, 128, DType::kBF16);
  }
  other_scans(b, *device);
  for (const Index keys : {Index{1} << 10, Index{1} << 16, Index{1} << 20}) {
    writing(b, *device, keys);
  }
  b.op<DeltaRule>("scan gated delta Dk256",
                  {.q = b.draw({8, 4096, 6, 256}),
                   .k = b.draw({8, 4096, 6, 256}),
                   .v = b.draw({8, 4096, 6, 512}),
                   .beta = Tensor::full({8, 4096, 6}, DType::kBF16, 0.5, *device),
                   .g = Tensor::full({8, 4096, 6}, DType::kF32, -0.1, *device)},
                  {{}, 0.1, true});
  for (const Index width : {Index{64}, Index{512}}) {
    const std::string name = " B16 T256 D" + std::to_string(width);
    b.op<Lstm>("scan lstm" + name,
               {.gx = f32({16, 256, 4 * width}),
                .r = Tensor::full({1, 4 * width, width}, DType::kF32, 0.01, *device)});
    b.op<Gru>("scan gru" + name,
              {.gx = f32({16, 256, 3 * width}),
               .r = Tensor::full({1, 3 * width, width}, DType::kF32, 0.01, *device)});
  }
  return 0;
}
