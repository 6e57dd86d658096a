#include "parallel/sequence/fragments.h"

#include <algorithm>

namespace ls::parallel {
namespace {

Fragment common(const Fragment& a, const Fragment& b) {
  const Index from = std::max(a.from, b.from);
  return {from, std::max(from, std::min(a.to, b.to))};
}

}  // namespace

Ownership contiguous(const std::vector<Index>& tokens) {
  Ownership all;
  Index at = 0;
  for (const Index n : tokens) {
    all.push_back({{at, at + n}});
    at += n;
  }
  return all;
}

Ownership zig_zag(Index total, int ranks) {
  const Index parts = 2 * Index{ranks};
  const auto part = [&](Index i) { return Fragment{total * i / parts, total * (i + 1) / parts}; };
  Ownership all;
  for (Index r = 0; r < ranks; ++r) {
    all.push_back({part(r), part(parts - 1 - r)});
  }
  return all;
}

std::vector<Tensors> exchange_tokens(Communicator& comm, const Ownership& from, const Ownership& to,
                                     const std::vector<Tensors>& mine, Device& device) {
  const auto rank = static_cast<std::size_t>(comm.rank());
  std::vector<Tensors> lists;
  for (const std::vector<Fragment>& theirs : to) {
    Tensors list;
    for (const Fragment& target : theirs) {
      for (std::size_t f = 0; f < mine.size(); ++f) {
        const Fragment own = from[rank][f], both = common(own, target);
        for (const Tensor& x : mine[f]) {
          list.push_back(x.defined() && both.tokens() > 0
                             ? x.slice(1, both.from - own.from, both.to - own.from)
                             : Tensor());
        }
      }
    }
    lists.push_back(std::move(list));
  }
  const std::vector<Tensors> came = begin_all_to_all(comm, lists, device).wait();

  std::vector<Tensors> out;
  const std::size_t each = mine.front().size();
  for (std::size_t g = 0; g < to[rank].size(); ++g) {
    const Fragment target = to[rank][g];
    out.emplace_back(each);
    for (std::size_t s = 0; s < came.size(); ++s) {
      for (std::size_t f = 0; f < mine.size(); ++f) {
        const Fragment both = common(from[s][f], target);
        for (std::size_t i = 0; i < each; ++i) {
          const Tensor& x = came[s][(g * mine.size() + f) * each + i];
          if (!x.defined()) {
            continue;
          }
          Tensor& whole = out.back()[i];
          if (!whole.defined()) {
            Shape shape = x.shape();
            shape[1] = target.tokens();
            whole = Tensor::zeros(shape, x.dtype(), x.device());
          }
          whole.slice(1, both.from - target.from, both.to - target.from).copy_(x);
        }
      }
    }
  }
  return out;
}

std::vector<Index> tokens_sent(const Ownership& from, const Ownership& to) {
  std::vector<Index> sent;
  for (std::size_t r = 0; r < from.size(); ++r) {
    Index n = 0;
    for (const Fragment& own : from[r]) {
      n += own.tokens();
      for (const Fragment& stays : to[r]) {
        n -= common(own, stays).tokens();
      }
    }
    sent.push_back(n);
  }
  return sent;
}

}  // namespace ls::parallel
