#include "parallel/sequence/messages.h"

#include <cstring>
#include <numeric>

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
Tensors shaped(const Index* header, std::size_t count) {
  Tensors out(count);
  for (std::size_t i = 0; i < count; ++i) {
    const Index* const at = header + static_cast<Index>(i) * kFields;
    if (at[0] >= 0) {
      out[i] = Tensor::empty(Shape(std::span(at + 2, static_cast<std::size_t>(at[1]))),
                             static_cast<DType>(at[0]));
    }
  }
  return out;
}

Index bytes_of(const Tensors& list) {
  return std::accumulate(list.begin(), list.end(), Index{0}, [](Index n, const Tensor& t) {
    return n + (t.defined() ? t.bytes() : 0);
  });
}

std::vector<char> packed(const Tensors& list) {
  std::vector<char> out(static_cast<std::size_t>(bytes_of(list)));
  char* to = out.data();
  for (const Tensor& t : list) {
    if (t.defined() && t.bytes() > 0) {
      const Tensor dense = t.contiguous();
      std::memcpy(to, dense.raw(), static_cast<std::size_t>(dense.bytes()));
      to += dense.bytes();
    }
  }
  return out;
}

void unpack(const char* from, Tensors& list) {
  for (Tensor& t : list) {
    if (t.defined() && t.bytes() > 0) {
      std::memcpy(t.raw(), from, static_cast<std::size_t>(t.bytes()));
      from += t.bytes();
    }
  }
}

}  // namespace

std::vector<Tensors> gather_lists(Communicator& comm, const Tensors& list) {
  const std::size_t count = list.size();
  const std::vector<Index> own = header(list, count);
  std::vector<Index> headers(own.size() * static_cast<std::size_t>(comm.size()));
  comm.all_gather(own.data(), headers.data(), std::ssize(own), DType::kI64);
  std::vector<Tensors> all;
  std::vector<Index> bytes;
  for (int r = 0; r < comm.size(); ++r) {
    all.push_back(shaped(headers.data() + r * std::ssize(own), count));
    bytes.push_back(bytes_of(all.back()));
  }
  const std::vector<char> mine = packed(list);
  std::vector<char> data(std::reduce(bytes.begin(), bytes.end()));
  comm.all_gather(mine.data(), data.data(), bytes, DType::kU8);
  const char* from = data.data();
  for (std::size_t r = 0; r < all.size(); ++r) {
    unpack(from, all[r]);
    from += bytes[r];
  }
  return all;
}

Tensors exchange_lists(Communicator& comm, const Tensors& list, int to, int from,
                       std::size_t count) {
  const std::vector<Index> own = header(list, count);
  std::vector<Index> theirs(own.size());
  comm.send_recv(own.data(), std::ssize(own), to, theirs.data(), std::ssize(theirs), from,
                 DType::kI64);
  Tensors out = from == kNoRank ? Tensors(count) : shaped(theirs.data(), count);
  const std::vector<char> mine = packed(list);
  std::vector<char> data(static_cast<std::size_t>(bytes_of(out)));
  comm.send_recv(mine.data(), std::ssize(mine), to, data.data(), std::ssize(data), from,
                 DType::kU8);
  unpack(data.data(), out);
  return out;
}

Tensors broadcast_list(Communicator& comm, const Tensors& list, int root, std::size_t count) {
  std::vector<Index> head = header(list, count);
  comm.broadcast(head.data(), std::ssize(head), DType::kI64, root);
  Tensors out = shaped(head.data(), count);
  std::vector<char> data = comm.rank() == root ? packed(list) : std::vector<char>(bytes_of(out));
  comm.broadcast(data.data(), std::ssize(data), DType::kU8, root);
  unpack(data.data(), out);
  return out;
}

}  // namespace ls::parallel
