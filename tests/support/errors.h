#pragma once
// What a refused call says.
#include <string>

#include "core/base/error.h"

namespace ls::test {

template <class Fn>
std::string message(Fn&& fn) {
  try {
    fn();
  } catch (const Error& e) {
    return e.message();
  }
  return "nothing thrown";
}

inline bool says(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

}  // namespace ls::test
