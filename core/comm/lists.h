#pragma once
// Lists of tensors between ranks: a list is one message, whatever its tensors are, and goes on
// while the caller works.
//
// Tensors may lie anywhere, as slices too. On a device whose streams run code of the host an
// operation is put on the current stream, as NCCL's will be: in order with the work before and
// behind it, and never waited for by the host. A transport that does not reach their device (MPI a
// GPU) gets the elements through host memory: the host waits for them when an operation begins, and
// copies the results back when it is waited for. Until then nobody touches the tensors.
#include <vector>

#include "core/comm/comm.h"
#include "core/tensor/tensor.h"

namespace ls {

using TensorList = std::vector<Tensor>;

/// Every tensor becomes its reduction over ranks. One type for all; the same shapes on every rank.
Pending begin_all_reduce(Communicator& comm, TensorList list, ReduceOp op = ReduceOp::kSum);
/// Every tensor becomes the sum over the ranks before this one, in their order: zeros on the first.
Pending begin_exclusive_scan(Communicator& comm, TensorList list);
/// Block r of the reduction of `in` ends in `out` of rank r. @shape in [R*n,...] -> out [n,...]
Pending begin_reduce_scatter(Communicator& comm, TensorList in, TensorList out,
                             ReduceOp op = ReduceOp::kSum);
/// @shape in [n,...] -> out [R*n,...], by tensor
Pending begin_all_gather(Communicator& comm, TensorList in, TensorList out);
/// Block j of `in` goes to rank j, block j of `out` came from it. @shape in, out [R*n,...]
Pending begin_all_to_all(Communicator& comm, TensorList in, TensorList out);
Pending begin_broadcast(Communicator& comm, TensorList list, int root = 0);
/// As Communicator::send_recv; what goes and what comes may differ in number and shape.
Pending begin_send_recv(Communicator& comm, TensorList out, int to, TensorList in, int from,
                        int tag = 0);

}  // namespace ls
