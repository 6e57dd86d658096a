#pragma once
// Which rank has which tokens of a sequence, and how they change hands.
#include <vector>

#include "parallel/sequence/messages.h"

namespace ls::parallel {

/// Tokens [from, to) of a whole sequence.
struct Fragment {
  Index from = 0, to = 0;
  Index tokens() const { return to - from; }
};

/// Of each rank its fragments, ascending and as many on every rank, some of them empty.
using Ownership = std::vector<std::vector<Fragment>>;

/// One fragment each, of so many tokens.
Ownership contiguous(const std::vector<Index>& tokens);
/// Two each: of 2 R parts rank r has the r-th from the start and the r-th from the end, so that
/// queries of all ranks have as many tokens before them.
Ownership zig_zag(Index total, int ranks);

/// Sequences [B,tokens,...] from the fragments that `from` gives this rank to those that `to` does,
/// in one exchange. `mine[f]` are those of fragment f, as many for each; where one has none, zeros
/// arrive, and nothing where none of a fragment's tokens has any.
std::vector<Tensors> exchange_tokens(Communicator& comm, const Ownership& from, const Ownership& to,
                                     const std::vector<Tensors>& mine, Device& device);
/// Tokens that a rank sends to others then, by rank.
std::vector<Index> tokens_sent(const Ownership& from, const Ownership& to);

}  // namespace ls::parallel
