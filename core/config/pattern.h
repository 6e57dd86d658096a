#pragma once
// Elements of a list node, repetitions and patterns written out; for the sources of core/config
// only.
#include <deque>
#include <string>
#include <vector>

#include "core/config/node.h"

namespace ls {

struct ListElements {
  std::vector<const ConfigNode*> nodes;  ///< a repeated element appears again
  std::deque<ConfigNode> held;           ///< nodes that the tree does not hold
  std::string fault;                     ///< what is wrong, or ""
  Place fault_place;
};

/// The elements of `node`; with `pattern`, names may be repeated and inner lists are joined in.
ListElements list_elements(const ConfigNode& node, bool pattern);

}  // namespace ls
