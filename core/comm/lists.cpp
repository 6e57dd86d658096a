#include "core/comm/lists.h"

#include <memory>

#include "core/base/error.h"
#include "core/comm/host_message.h"

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

using Operation = std::function<void(HostMessage& in, HostMessage& out)>;

/// Sends `in` and receives `out`, which may be the same.
Pending begin(Communicator& comm, std::shared_ptr<HostMessage> in, std::shared_ptr<HostMessage> out,
              Operation operation) {
  in->pack();
  return comm.queue().begin([in, out, run = std::move(operation)] { run(*in, *out); },
                            [out] { out->unpack(); });
}
Pending begin(Communicator& comm, TensorList list, Operation operation) {
  const auto message = std::make_shared<HostMessage>(std::move(list));
  return begin(comm, message, message, std::move(operation));
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
  return begin(comm, std::move(list), [&comm, type, op](HostMessage& m, HostMessage&) {
    comm.all_reduce(m.data(), m.bytes() / dtype_size(type), type, op);
  });
}

Pending begin_exclusive_scan(Communicator& comm, TensorList list) {
  const DType type = type_of("exclusive_scan", list);
  return begin(comm, std::move(list), [&comm, type](HostMessage& m, HostMessage&) {
    comm.exclusive_scan(m.data(), m.bytes() / dtype_size(type), type);
  });
}

Pending begin_reduce_scatter(Communicator& comm, TensorList in, TensorList out, ReduceOp op) {
  const DType type = type_of("reduce_scatter", in);
  check_blocks("reduce_scatter", out, in, comm.size());
  return begin(comm, std::make_shared<HostMessage>(blocks("reduce_scatter", in, comm.size())),
               std::make_shared<HostMessage>(std::move(out)),
               [&comm, type, op](HostMessage& from, HostMessage& to) {
                 comm.reduce_scatter(from.data(), to.data(), to.bytes() / dtype_size(type), type,
                                     op);
               });
}

Pending begin_all_gather(Communicator& comm, TensorList in, TensorList out) {
  check_blocks("all_gather", in, out, comm.size());
  return begin(comm, std::make_shared<HostMessage>(std::move(in)),
               std::make_shared<HostMessage>(blocks("all_gather", out, comm.size())),
               [&comm](HostMessage& from, HostMessage& to) {
                 comm.all_gather(from.data(), to.data(), from.bytes(), DType::kU8);
               });
}

Pending begin_all_to_all(Communicator& comm, TensorList in, TensorList out) {
  return begin(comm, std::make_shared<HostMessage>(blocks("all_to_all", in, comm.size())),
               std::make_shared<HostMessage>(blocks("all_to_all", out, comm.size())),
               [&comm](HostMessage& from, HostMessage& to) {
                 LS_CHECK(from.bytes() == to.bytes(), kShape, "all_to_all: {} bytes go and {} come",
                          from.bytes(), to.bytes());
                 comm.all_to_all(from.data(), to.data(), from.bytes() / comm.size(), DType::kU8);
               });
}

Pending begin_broadcast(Communicator& comm, TensorList list, int root) {
  return begin(comm, std::move(list), [&comm, root](HostMessage& m, HostMessage&) {
    comm.broadcast(m.data(), m.bytes(), DType::kU8, root);
  });
}

Pending begin_send_recv(Communicator& comm, TensorList out, int to, TensorList in, int from,
                        int tag) {
  return begin(comm, std::make_shared<HostMessage>(std::move(out)),
               std::make_shared<HostMessage>(std::move(in)),
               [&comm, to, from, tag](HostMessage& sent, HostMessage& received) {
                 comm.send_recv(sent.data(), to == kNoRank ? 0 : sent.bytes(), to, received.data(),
                                from == kNoRank ? 0 : received.bytes(), from, DType::kU8, tag);
               });
}

}  // namespace ls
