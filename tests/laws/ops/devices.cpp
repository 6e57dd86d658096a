// The same bits on another device, and from a graph; a call looks at no element.
#include "core/tensor/graph.h"
#include "tests/laws/ops/checker.h"
#include "tests/support/stand_in.h"

namespace ls::test::op_laws {

void Checker::devices(DType t) {
  const std::string type(enum_name(t));
  const Tensors in = inputs(t), dout = cotangents(t);
  const Call here = call(in, dout);
  StandIn device(static_cast<std::uint64_t>(t) + 1);
  const auto there = [&](const Tensors& ts) {
    Tensors moved;
    for (const Tensor& x : ts) {
      moved.push_back(x.defined() ? x.to(device) : x);
    }
    return moved;
  };
  const auto back = [](const Call& c) {
    const auto moved = [](const Tensor& x) { return x.to(cpu()); };
    return Call{{}, each(c.out, moved), {}, each(c.din, moved)};
  };
  const Tensors in_there = there(in), dout_there = there(dout);
  const Index waits = device.counts().host_waits;
  const Call eager = call(in_there, dout_there);
  Call captured;
  Stream& stream = device.default_stream();
  Graph graph(stream, graph_memory(device), [&] { captured = call(in_there, dout_there); });
  graph.replay(stream);
  if (device.counts().host_waits != waits) {
    fault("devices: {}: the host waits for the device during a call", type);
  }
  same("devices: " + type, back(eager), here, 0);
  same("devices: " + type + ", replayed", back(captured), here, 0);
}

void Checker::values_there(DType t) {
  const std::string type(enum_name(t));
  const Tensors in = inputs(t), dout = cotangents(t);
  const Index waits = device_->counts().host_waits;
  const Call eager = call(in, dout);
  Call captured;
  Stream& stream = device_->default_stream();
  Graph graph(stream, graph_memory(*device_), [&] { captured = call(in, dout); });
  graph.replay(stream);
  if (device_->counts().host_waits != waits) {
    fault("devices: {}: the host waits for the device during a call", type);
  }
  check_error_flag(stream);
  Call want;
  {
    const UseReference reference;
    const auto here = [](const Tensor& x) { return x.to(cpu()); };
    want = call(widened(each(in, here)), widened(each(dout, here)));
  }
  same("value: " + type + " on " + device_->describe(), eager, want, allowed(t));
  same("repeat: " + type + ", replayed", captured, eager, 0);
  same("repeat: " + type, call(in, dout), eager, 0);
}

}  // namespace ls::test::op_laws
