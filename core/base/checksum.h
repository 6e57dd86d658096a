#pragma once
// A 64-bit checksum of bytes: finds damage and change, not for adversaries.
#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace ls {

/// Of the bytes added so far, in whatever pieces. Every step is a bijection of the lane for a given
/// word and of the word for a given lane, so that no change of a single word goes unseen. The value
/// is part of file formats and may never change.
class Checksum {
 public:
  void add(const void* data, std::size_t bytes) {
    const char* from = static_cast<const char*>(data);
    bytes_ += bytes;
    if (waiting_ > 0) {
      const std::size_t n = std::min(bytes, kBlock - waiting_);
      std::memcpy(tail_ + waiting_, from, n);
      waiting_ += n;
      from += n;
      bytes -= n;
      if (waiting_ < kBlock) {
        return;
      }
      add_block(lanes_, tail_);
    }
    for (; bytes >= kBlock; bytes -= kBlock, from += kBlock) {
      add_block(lanes_, from);
    }
    std::memcpy(tail_, from, bytes);
    waiting_ = bytes;
  }
  /// A text and where it ends.
  void add_text(std::string_view text) {
    const std::uint64_t size = text.size();
    add(&size, sizeof size);
    add(text.data(), text.size());
  }
  std::uint64_t value() const {
    std::uint64_t lanes[4];
    std::memcpy(lanes, lanes_, sizeof lanes);
    if (waiting_ > 0) {
      char tail[kBlock] = {};
      std::memcpy(tail, tail_, waiting_);
      add_block(lanes, tail);
    }
    std::uint64_t sum = bytes_;
    for (const std::uint64_t lane : lanes) {
      sum = std::rotl((sum ^ lane) * 0xc2b2ae3d27d4eb4fu, 31);
    }
    return sum;
  }
  /// 16 digits.
  std::string hex() const { return fmt::format("{:016x}", value()); }

 private:
  static constexpr std::size_t kBlock = 32;
  static void add_block(std::uint64_t (&lanes)[4], const char* data) {
    std::uint64_t words[4];
    std::memcpy(words, data, sizeof words);
    for (std::size_t i = 0; i < 4; ++i) {
      lanes[i] = std::rotl((lanes[i] ^ words[i]) * 0x9e3779b97f4a7c15u, 29);
    }
  }
  std::uint64_t lanes_[4] = {1, 2, 3, 4}, bytes_ = 0;
  char tail_[kBlock];
  std::size_t waiting_ = 0;  // bytes in tail_
};

}  // namespace ls
