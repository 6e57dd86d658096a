#include "parallel/sequence/messages.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "core/comm/host_message.h"

namespace ls::parallel {
namespace {

constexpr Index kFields = 2 + kMaxRank;  // of a tensor: type or -1, number of axes, extents

/// What a list looks like, in a form of fixed size.
std::vector<Index> header(const Tensors& list, std::size_t count) {
  std::vector<Index> out(count * kFields, 0);
  for (std::size_t i = 0; i < count; ++i) {
    Index* const at = out.data() + i * kFields;
    if (i >= list.size() || !list[i].defined()) {
      at[0] = -1;
      continue;
    }
    at[0] = static_cast<Index>(list[i].dtype());
    at[1] = list[i].rank();
    std::copy(list[i].shape().begin(), list[i].shape().end(), at + 2);
  }
  return out;
}

Shape shape_of(const Index* at) {
  return Shape(std::span(at + 2, static_cast<std::size_t>(at[1])));
}

/// Tensors that look like that, to be filled.
Tensors shaped(const Index* header, std::size_t count, Device& device) {
  Tensors out(count);
  for (std::size_t i = 0; i < count; ++i) {
    const Index* const at = header + static_cast<Index>(i) * kFields;
    if (at[0] >= 0) {
      out[i] = Tensor::empty(shape_of(at), static_cast<DType>(at[0]), device);
    }
  }
  return out;
}

Index bytes_of(const Index* header, std::size_t count) {
  Index bytes = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const Index* const at = header + static_cast<Index>(i) * kFields;
    bytes += at[0] < 0 ? 0 : shape_of(at).numel() * dtype_size(static_cast<DType>(at[0]));
  }
  return bytes;
}

}  // namespace

/// Headers first, which say how many bytes follow.
struct PendingLists::State {
  State(const Tensors& list, std::size_t n, std::size_t senders, Device& on)
      : count(n),
        device(on),
        own(header(list, std::max(n, list.size()))),
        sent(list),
        headers(senders * n * static_cast<std::size_t>(kFields)) {
    sent.pack();
  }
  const Index* header_of(std::size_t sender) const {
    return headers.data() + static_cast<Index>(sender * count) * kFields;
  }
  /// Of each sender.
  std::vector<Index> sizes() const {
    std::vector<Index> bytes;
    for (std::size_t s = 0; s < senders(); ++s) {
      bytes.push_back(bytes_of(header_of(s), count));
    }
    return bytes;
  }
  std::size_t senders() const {
    return count == 0 ? 0 : headers.size() / (count * static_cast<std::size_t>(kFields));
  }
  std::byte* make_room(Index bytes) {
    received = std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(bytes));
    return received.get();
  }

  std::size_t count;
  Device& device;
  std::vector<Index> own;
  HostMessage sent;
  std::vector<Index> headers;  // of the senders
  std::unique_ptr<std::byte[]> received;
};

class ListMessage {
 public:
  using State = PendingLists::State;
  static PendingLists begin(Communicator& comm, const Tensors& list, std::size_t count,
                            std::size_t senders, Device& device,
                            std::function<void(State&)> operation) {
    auto state = std::make_shared<State>(list, count, senders, device);
    Pending pending =
        comm.queue().begin([state, run = std::move(operation)] { run(*state); }, nullptr);
    return {std::move(state), std::move(pending)};
  }
};

std::vector<Tensors> PendingLists::wait() {
  pending_.wait();
  const std::shared_ptr<State> state = std::exchange(state_, nullptr);
  std::vector<Tensors> all;
  Tensors together;
  for (std::size_t s = 0; s < state->senders(); ++s) {
    all.push_back(shaped(state->header_of(s), state->count, state->device));
    together.insert(together.end(), all.back().begin(), all.back().end());
  }
  HostMessage(together).unpack(state->received.get());
  return all;
}

PendingLists begin_gather(Communicator& comm, const Tensors& list, Device& device) {
  return ListMessage::begin(
      comm, list, list.size(), static_cast<std::size_t>(comm.size()), device,
      [&comm](ListMessage::State& s) {
        comm.all_gather(s.own.data(), s.headers.data(), std::ssize(s.own), DType::kI64);
        const std::vector<Index> bytes = s.sizes();
        const Index all = std::accumulate(bytes.begin(), bytes.end(), Index{0});
        comm.all_gather(s.sent.data(), s.make_room(all), bytes, DType::kU8);
      });
}

PendingLists begin_all_to_all(Communicator& comm, const std::vector<Tensors>& lists,
                              Device& device) {
  const std::size_t count = lists.front().size();
  Tensors together;
  std::vector<Index> bytes;
  for (const Tensors& list : lists) {
    together.insert(together.end(), list.begin(), list.end());
    const std::vector<Index> own = header(list, count);
    bytes.push_back(bytes_of(own.data(), count));
  }
  return ListMessage::begin(
      comm, together, count, lists.size(), device, [&comm, bytes](ListMessage::State& s) {
        comm.all_to_all(s.own.data(), s.headers.data(),
                        std::ssize(s.own) / static_cast<Index>(comm.size()), DType::kI64);
        const std::vector<Index> coming = s.sizes();
        const Index all = std::accumulate(coming.begin(), coming.end(), Index{0});
        comm.all_to_all(s.sent.data(), bytes, s.make_room(all), coming, DType::kU8);
      });
}

PendingLists begin_exchange(Communicator& comm, const Tensors& list, int to, int from,
                            std::size_t count, Device& device) {
  LS_ASSERT(list.size() <= count);  // else more fields of headers go than are waited for
  return ListMessage::begin(comm, list, count, 1, device, [&comm, to, from](ListMessage::State& s) {
    const Index fields = std::ssize(s.own);
    if (from == kNoRank) {
      s.headers = header({}, s.count);
    }
    comm.send_recv(s.own.data(), fields, to, s.headers.data(), fields, from, DType::kI64);
    const Index bytes = s.sizes().front();
    comm.send_recv(s.sent.data(), s.sent.bytes(), to, s.make_room(bytes), bytes, from, DType::kU8);
  });
}

PendingLists begin_broadcast(Communicator& comm, const Tensors& list, int root, std::size_t count,
                             Device& device) {
  LS_ASSERT(list.size() <= count);
  return ListMessage::begin(comm, list, count, 1, device, [&comm, root](ListMessage::State& s) {
    s.headers = s.own;
    comm.broadcast(s.headers.data(), std::ssize(s.headers), DType::kI64, root);
    const Index bytes = s.sizes().front();
    std::byte* const room = s.make_room(bytes);
    if (comm.rank() == root) {
      std::copy_n(static_cast<const std::byte*>(s.sent.data()), bytes, room);
    }
    comm.broadcast(room, bytes, DType::kU8, root);
  });
}

}  // namespace ls::parallel
