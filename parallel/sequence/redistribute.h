#pragma once
// All tokens of a part of the channels in place of all channels of some tokens, and back.
#include <string>
#include <vector>

#include "parallel/sequence/strategy.h"

namespace ls::parallel {

/// Can a scan be run by parts of these axes?
bool falls_apart(const layers::ScanInfo& scan, const std::vector<std::string>& axes);

/// Runs a scan whose entries of `axes` know nothing of one another: each rank runs all tokens of
/// its share of them, cut evenly or, where there are fewer than ranks, of none. Inputs go to whom
/// they concern, those without such an axis to all; outputs come back. One exchange each way.
std::vector<ag::Var> run_redistributed(SplitCall call, const std::vector<std::string>& axes);

/// What that sends, where the axes are those of so many bytes of a token's inputs and outputs, and
/// fall into so many units.
Payload redistribution(const SplitSizes& sizes, Index cut_in, Index cut_out, Index units);

}  // namespace ls::parallel
