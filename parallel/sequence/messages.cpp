#include "parallel/sequence/messages.h"

#include <numeric>

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

/// Tensors that look like that, to be filled.
Tensors shaped(const Index* header, std::size_t count, Device& device) {
  Tensors out(count);
  for (std::size_t i = 0; i < count; ++i) {
    const Index* const at = header + static_cast<Index>(i) * kFields;
    if (at[0] >= 0) {
      out[i] = Tensor::empty(Shape(std::span(at + 2, static_cast<std::size_t>(at[1]))),
                             static_cast<DType>(at[0]), device);
    }
  }
  return out;
}

Index bytes_of(const Tensors& list) {
  return std::accumulate(list.begin(), list.end(), Index{0}, [](Index n, const Tensor& t) {
    return n + (t.defined() ? t.bytes() : 0);
  });
}

}  // namespace

std::vector<Tensors> gather_lists(Communicator& comm, const Tensors& list, Device& device) {
  const std::size_t count = list.size();
  const std::vector<Index> own = header(list, count);
  std::vector<Index> headers(own.size() * static_cast<std::size_t>(comm.size()));
  comm.all_gather(own.data(), headers.data(), std::ssize(own), DType::kI64);
  std::vector<Tensors> all;
  std::vector<Index> bytes;
  Tensors together;
  for (int r = 0; r < comm.size(); ++r) {
    all.push_back(shaped(headers.data() + r * std::ssize(own), count, device));
    bytes.push_back(bytes_of(all.back()));
    together.insert(together.end(), all.back().begin(), all.back().end());
  }
  HostMessage mine(list), theirs(together);
  mine.pack();
  comm.all_gather(mine.data(), theirs.data(), bytes, DType::kU8);
  theirs.unpack();
  return all;
}

Tensors exchange_lists(Communicator& comm, const Tensors& list, int to, int from, std::size_t count,
                       Device& device) {
  const std::vector<Index> own = header(list, count);
  std::vector<Index> theirs(own.size());
  comm.send_recv(own.data(), std::ssize(own), to, theirs.data(), std::ssize(theirs), from,
                 DType::kI64);
  Tensors out = from == kNoRank ? Tensors(count) : shaped(theirs.data(), count, device);
  HostMessage sent(list), received(out);
  sent.pack();
  comm.send_recv(sent.data(), sent.bytes(), to, received.data(), received.bytes(), from,
                 DType::kU8);
  received.unpack();
  return out;
}

Tensors broadcast_list(Communicator& comm, const Tensors& list, int root, std::size_t count,
                       Device& device) {
  std::vector<Index> head = header(list, count);
  comm.broadcast(head.data(), std::ssize(head), DType::kI64, root);
  const bool here = comm.rank() == root;
  Tensors out = shaped(head.data(), count, device);
  HostMessage message(here ? list : out);
  if (here) {
    message.pack();
  }
  comm.broadcast(message.data(), message.bytes(), DType::kU8, root);
  if (here) {
    return list;
  }
  message.unpack();
  return out;
}

}  // namespace ls::parallel
