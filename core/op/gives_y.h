#pragma once
// Bases of ops whose only result is y, and of those that take only x besides.

namespace ls {

struct GivesY {
  template <class T>
  struct Out {
    T y;
  };
};
struct TakesXGivesY : GivesY {
  template <class T>
  struct In {
    T x;
  };
};

}  // namespace ls
