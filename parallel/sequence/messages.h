#pragma once
// Lists of tensors between ranks: shapes and types travel with them, a list is one message, under
// way while the caller works.
#include <memory>
#include <vector>

#include "core/comm/comm.h"
#include "core/tensor/tensor.h"

namespace ls::parallel {

using Tensors = std::vector<Tensor>;

/// Lists that are under way. What was sent stays as it is until they are waited for.
class PendingLists {
 public:
  PendingLists() = default;
  /// Until they are here, once: a list of each sender, in rank order.
  std::vector<Tensors> wait();
  /// The same of one sender.
  Tensors wait_one() { return std::move(wait().front()); }

 private:
  friend class ListMessage;
  struct State;
  PendingLists(std::shared_ptr<State> state, Pending pending)
      : state_(std::move(state)), pending_(std::move(pending)) {}
  std::shared_ptr<State> state_;
  Pending pending_;  // the last member: it waits before the state goes
};

// What comes lies on `device`.

/// The lists of all ranks. Lists have equally many tensors, of any shapes and types; an undefined
/// tensor stays undefined.
PendingLists begin_gather(Communicator& comm, const Tensors& list, Device& device);
/// `lists[r]` goes to rank r, the result has one of each. All have equally many tensors.
PendingLists begin_all_to_all(Communicator& comm, const std::vector<Tensors>& lists,
                              Device& device);
/// `list` goes to rank `to`, the result came from rank `from`; kNoRank sends or gives nothing. All
/// ranks know `count`, the number of tensors.
PendingLists begin_exchange(Communicator& comm, const Tensors& list, int to, int from,
                            std::size_t count, Device& device);
/// The list of `root` on every rank.
PendingLists begin_broadcast(Communicator& comm, const Tensors& list, int root, std::size_t count,
                             Device& device);

}  // namespace ls::parallel
