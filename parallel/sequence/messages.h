#pragma once
// Lists of tensors between ranks: shapes and types travel with them, a list is one message.
#include <vector>

#include "core/comm/comm.h"
#include "core/tensor/tensor.h"

namespace ls::parallel {

using Tensors = std::vector<Tensor>;

// What comes lies on `device`.

/// The lists of all ranks, in rank order. Lists have equally many tensors, of any shapes and types;
/// an undefined tensor stays undefined.
std::vector<Tensors> gather_lists(Communicator& comm, const Tensors& list, Device& device);
/// `list` goes to rank `to`, the result came from rank `from`; kNoRank sends or gives nothing. All
/// ranks know `count`, the number of tensors.
Tensors exchange_lists(Communicator& comm, const Tensors& list, int to, int from, std::size_t count,
                       Device& device);
/// The list of `root` on every rank.
Tensors broadcast_list(Communicator& comm, const Tensors& list, int root, std::size_t count,
                       Device& device);

}  // namespace ls::parallel
