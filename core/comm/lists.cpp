#include "core/comm/lists.h"

#include <memory>

#include "core/base/error.h"
#include "core/comm/host_message.h"
#include "core/tensor/context.h"
#include "core/tensor/host_code.h"

namespace ls {
namespace {

/// The one type of what is reduced.
DType type_of(const char* what, const TensorList& list) {
  const DType type = list.empty() ? DType::kF32 : list[0].dtype();
  for (const Tensor& t : list) {
    LS_CHECK(t.dtype() == type, kDType, "{} of a list with {} and {}: expected one type", what,
             enum_name(type), enum_name(t.dtype()));
  }
  return type;
}

/// Blocks of all tensors, those of rank 0 first.
TensorList blocks(const char* what, const TensorList& list, int ranks) {
  TensorList out;
  for (int r = 0; r < ranks; ++r) {
    for (const Tensor& t : list) {
      LS_CHECK(t.rank() > 0 && t.size(0) % ranks == 0, kShape,
               "{}: {} is not {} blocks of rows, one a rank", what, t.describe(), ranks);
      const Index n = t.size(0) / ranks;
      out.push_back(t.slice(0, r * n, (r + 1) * n));
    }
  }
  return out;
}

using Operation = std::function<void(Communicator& comm, HostMessage& in, HostMessage& out)>;

/// The device on which all of them lie, where its streams run code of the host; else null.
Device* device_of_streams(const TensorList& in, const TensorList& out) {
  Device* device = nullptr;
  for (const TensorList* const list : {&in, &out}) {
    for (const Tensor& t : *list) {
      if (!t.defined() || (device && device != &t.device()) || t.device().host_accessible() ||
          !t.device().properties().runs_host_code) {
        return nullptr;
      }
      device = &t.device();
    }
  }
  return device;
}

/// Sends `in` and receives `out`; with `in` empty sends what lies in `out`.
Pending begin(Communicator& comm, const char* what, TensorList in, TensorList out, bool in_place,
              Operation operation) {
  if (Device* const device = device_of_streams(in, out)) {
    const auto run = [&streams = comm.on_streams(), operation = std::move(operation), in_place](
                         std::span<const Tensor> read, std::span<Tensor> written) {
      HostMessage to({written.begin(), written.end()}), from({read.begin(), read.end()});
      HostMessage& sent = in_place ? to : from;
      sent.pack();
      operation(streams, sent, to);
      to.unpack();
    };
    launch_host_code(current_context(*device), what, in, out, run);
    for (Tensor& t : out) {
      t.bump_version();
    }
    return {};
  }
  const auto to = std::make_shared<HostMessage>(std::move(out));
  const auto from = in_place ? to : std::make_shared<HostMessage>(std::move(in));
  from->pack();
  return comm.queue().begin(
      [&comm, from, to, run = std::move(operation)] { run(comm, *from, *to); },
      [to] { to->unpack(); });
}

void check_blocks(const char* what, const TensorList& small, const TensorList& large, int ranks) {
  LS_CHECK(small.size() == large.size(), kShape, "{}: {} tensors against {}", what, small.size(),
           large.size());
  for (std::size_t i = 0; i < small.size(); ++i) {
    LS_CHECK(small[i].numel() * ranks == large[i].numel() && small[i].dtype() == large[i].dtype(),
             kShape, "{}: {} is not one of {} blocks of {}", what, small[i].describe(), ranks,
             large[i].describe());
  }
}

}  // namespace

Pending begin_all_reduce(Communicator& comm, TensorList list, ReduceOp op) {
  const DType type = type_of("all_reduce", list);
  return begin(comm, "all_reduce", {}, std::move(list), true,
               [type, op](Communicator& c, HostMessage& m, HostMessage&) {
                 c.all_reduce(m.data(), m.bytes() / dtype_size(type), type, op);
               });
}

Pending begin_exclusive_scan(Communicator& comm, TensorList list) {
  const DType type = type_of("exclusive_scan", list);
  return begin(comm, "exclusive_scan", {}, std::move(list), true,
               [type](Communicator& c, HostMessage& m, HostMessage&) {
                 c.exclusive_scan(m.data(), m.bytes() / dtype_size(type), type);
               });
}

Pending begin_reduce_scatter(Communicator& comm, TensorList in, TensorList out, ReduceOp op) {
  const DType type = type_of("reduce_scatter", in);
  check_blocks("reduce_scatter", out, in, comm.size());
  return begin(comm, "reduce_scatter", blocks("reduce_scatter", in, comm.size()), std::move(out),
               false, [type, op](Communicator& c, HostMessage& from, HostMessage& to) {
                 c.reduce_scatter(from.data(), to.data(), to.bytes() / dtype_size(type), type, op);
               });
}

Pending begin_all_gather(Communicator& comm, TensorList in, TensorList out) {
  check_blocks("all_gather", in, out, comm.size());
  return begin(comm, "all_gather", std::move(in), blocks("all_gather", out, comm.size()), false,
               [](Communicator& c, HostMessage& from, HostMessage& to) {
                 c.all_gather(from.data(), to.data(), from.bytes(), DType::kU8);
               });
}

Pending begin_all_to_all(Communicator& comm, TensorList in, TensorList out) {
  return begin(comm, "all_to_all", blocks("all_to_all", in, comm.size()),
               blocks("all_to_all", out, comm.size()), false,
               [](Communicator& c, HostMessage& from, HostMessage& to) {
                 LS_CHECK(from.bytes() == to.bytes(), kShape, "all_to_all: {} bytes go and {} come",
                          from.bytes(), to.bytes());
                 c.all_to_all(from.data(), to.data(), from.bytes() / c.size(), DType::kU8);
               });
}

Pending begin_broadcast(Communicator& comm, TensorList list, int root) {
  return begin(comm, "broadcast", {}, std::move(list), true,
               [root](Communicator& c, HostMessage& m, HostMessage&) {
                 c.broadcast(m.data(), m.bytes(), DType::kU8, root);
               });
}

Pending begin_send_recv(Communicator& comm, TensorList out, int to, TensorList in, int from,
                        int tag) {
  return begin(comm, "send_recv", std::move(out), std::move(in), false,
               [to, from, tag](Communicator& c, HostMessage& sent, HostMessage& received) {
                 c.send_recv(sent.data(), to == kNoRank ? 0 : sent.bytes(), to, received.data(),
                             from == kNoRank ? 0 : received.bytes(), from, DType::kU8, tag);
               });
}

}  // namespace ls
