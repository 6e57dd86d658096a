#pragma once
#include "core/tensor/storage.h"

namespace ls::test {

/// While alive, new and freed buffers are NaN (0xff in every byte), and guarded at both ends.
struct Poisoned {
  Poisoned() {
    take_guard_violations();
    set_allocator_mode({.poison = true, .guard = true});
  }
  ~Poisoned() { set_allocator_mode({}); }
  Poisoned(const Poisoned&) = delete;
  Poisoned& operator=(const Poisoned&) = delete;
};

}  // namespace ls::test
