#include "parallel/grad_sync.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/base/error.h"

namespace ls::parallel {
namespace {

std::size_t as_size(Index n) {
  return static_cast<std::size_t>(n);
}
Index bytes_of(const RawBuffer& b) {
  return b.n * dtype_size(b.dtype);
}

std::uint64_t mix(std::uint64_t hash, std::uint64_t word) {
  hash = (hash ^ word) * 0x9fb21c651e98df25ull;
  return hash ^ (hash >> 32);
}

std::uint64_t hash_layout(std::span<const RawBuffer> buffers) {
  std::uint64_t hash = mix(0, buffers.size());
  for (const RawBuffer& b : buffers) {
    hash = mix(mix(hash, static_cast<std::uint64_t>(b.n)), static_cast<std::uint64_t>(b.dtype));
  }
  return hash;
}

std::string join(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(ranks[i]);
  }
  return text;
}

}  // namespace

GradSync::GradSync(Communicator& comm, Index bucket_bytes)
    : comm_(comm), bucket_bytes_(bucket_bytes) {
  LS_CHECK(bucket_bytes >= 1, kConfig, "gradient buckets of {} bytes; expected 1 or more",
           bucket_bytes);
}

void GradSync::sum(std::span<const RawBuffer> buffers) {
  for (const RawBuffer& b : buffers) {
    LS_CHECK(is_float(b.dtype), kDType, "a gradient of type {}; expected f64, f32, bf16 or f16",
             enum_name(b.dtype));
  }
  if (comm_.size() == 1) {
    return;
  }
  check_same_across_ranks(comm_, hash_layout(buffers), "the list of gradients");
  // A group is a run of neighbours of one dtype that fits the bucket, or one that does not.
  std::size_t begin = 0;
  while (begin < buffers.size()) {
    std::size_t end = begin;
    Index bytes = 0;
    while (end < buffers.size() && buffers[end].dtype == buffers[begin].dtype &&
           (end == begin || bytes + bytes_of(buffers[end]) <= bucket_bytes_)) {
      bytes += bytes_of(buffers[end]);
      ++end;
    }
    reduce_group(buffers.subspan(begin, end - begin));
    begin = end;
  }
}

void GradSync::reduce_group(std::span<const RawBuffer> group) {
  if (group.size() == 1) {
    comm_.all_reduce(group[0].data, group[0].n, group[0].dtype);
    return;
  }
  Index n = 0;
  for (const RawBuffer& b : group) {
    n += b.n;
  }
  const Index element = dtype_size(group[0].dtype);
  bucket_.resize(std::max(bucket_.size(), as_size(n * element)));
  std::byte* at = bucket_.data();
  for (const RawBuffer& b : group) {
    if (b.n > 0) {
      std::memcpy(at, b.data, as_size(bytes_of(b)));
      at += bytes_of(b);
    }
  }
  comm_.all_reduce(bucket_.data(), n, group[0].dtype);
  at = bucket_.data();
  for (const RawBuffer& b : group) {
    if (b.n > 0) {
      std::memcpy(b.data, at, as_size(bytes_of(b)));
      at += bytes_of(b);
    }
  }
}

void broadcast_text(Communicator& comm, std::string& text, int root) {
  auto size = static_cast<Index>(text.size());
  comm.broadcast(&size, 1, DType::kI64, root);
  text.resize(static_cast<std::size_t>(size));
  comm.broadcast(text.data(), size, DType::kU8, root);
}

std::uint64_t hash_buffers(std::span<const RawBuffer> buffers) {
  std::uint64_t hash = hash_layout(buffers);
  for (const RawBuffer& b : buffers) {
    const auto* bytes = static_cast<const std::byte*>(b.data);
    const Index size = bytes_of(b);
    // Four chains, so that the multiplications of one do not wait for those of the others.
    std::uint64_t chains[4] = {1, 2, 3, 4};
    Index i = 0;
    for (; i + 32 <= size; i += 32) {
      std::uint64_t words[4];
      std::memcpy(words, bytes + i, 32);
      for (int c = 0; c < 4; ++c) {
        chains[c] = mix(chains[c], words[c]);
      }
    }
    std::uint64_t tail[4] = {};
    if (i < size) {
      std::memcpy(tail, bytes + i, as_size(size - i));
    }
    for (int c = 0; c < 4; ++c) {
      hash = mix(mix(hash, chains[c]), tail[c]);
    }
  }
  return hash;
}

void check_same_across_ranks(Communicator& comm, std::uint64_t hash, std::string_view what) {
  if (comm.size() == 1) {
    return;
  }
  std::vector<std::uint64_t> all(as_size(comm.size()));
  comm.all_gather(&hash, all.data(), 1, DType::kI64);
  std::uint64_t common = all[0];
  for (const std::uint64_t h : all) {
    if (std::ranges::count(all, h) > std::ranges::count(all, common)) {
      common = h;
    }
  }
  std::vector<int> same, differing;
  for (int r = 0; r < comm.size(); ++r) {
    (all[as_size(r)] == common ? same : differing).push_back(r);
  }
  LS_CHECK(
      differing.empty(), kComm,
      "{} differs between ranks: {} disagree{} with {}; start every rank with the same program, "
      "configuration, data and seed",
      what, join(differing), differing.size() == 1 ? "s" : "", join(same));
}

}  // namespace ls::parallel
