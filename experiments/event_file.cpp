#include "experiments/event_file.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <sstream>

namespace ls::experiments {
namespace {

/// CRC-32C (Castagnoli), bit-reversed.
std::uint32_t crc32c(std::string_view bytes) {
  static const std::array<std::uint32_t, 256> table = [] {
    std::array<std::uint32_t, 256> t{};
    for (std::uint32_t i = 0; i < t.size(); ++i) {
      std::uint32_t x = i;
      for (int bit = 0; bit < 8; ++bit) {
        x = (x >> 1) ^ ((x & 1) != 0 ? 0x82F63B78u : 0u);
      }
      t[i] = x;
    }
    return t;
  }();
  std::uint32_t crc = 0xFFFFFFFFu;
  for (const char c : bytes) {
    crc = (crc >> 8) ^ table[(crc ^ static_cast<unsigned char>(c)) & 0xFFu];
  }
  return ~crc;
}

/// A checksum of what may itself hold checksums.
std::uint32_t masked(std::uint32_t crc) {
  return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u;
}

template <class T>
std::string little_endian(T value) {
  std::string out;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    out += static_cast<char>((value >> (8 * i)) & 0xFFu);
  }
  return out;
}

std::string varint(std::uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) {
    out += static_cast<char>(0x80u | (value & 0x7Fu));
  }
  return out + static_cast<char>(value);
}

// Fields of protocol buffers, by their wire types.
std::string varint_field(std::uint32_t number, std::uint64_t value) {
  return varint(number << 3) + varint(value);
}
std::string double_field(std::uint32_t number, double value) {
  return varint(number << 3 | 1) + little_endian(std::bit_cast<std::uint64_t>(value));
}
std::string float_field(std::uint32_t number, float value) {
  return varint(number << 3 | 5) + little_endian(std::bit_cast<std::uint32_t>(value));
}
std::string bytes_field(std::uint32_t number, const std::string& value) {
  return varint(number << 3 | 2) + varint(value.size()) + value;
}

std::string record(const std::string& content) {
  const std::string length = little_endian(static_cast<std::uint64_t>(content.size()));
  return length + little_endian(masked(crc32c(length))) + content +
         little_endian(masked(crc32c(content)));
}

}  // namespace

std::string event_file(const std::vector<EventScalars>& events) {
  const double begin = events.empty() ? 0 : events.front().wall_time;
  std::string out = record(double_field(1, begin) + bytes_field(3, "brain.Event:2"));
  for (const EventScalars& e : events) {
    std::string summary;
    for (const auto& [tag, value] : e.values) {
      summary += bytes_field(1, bytes_field(1, tag) + float_field(2, static_cast<float>(value)));
    }
    out += record(double_field(1, e.wall_time) +
                  varint_field(2, static_cast<std::uint64_t>(e.step)) + bytes_field(5, summary));
  }
  return out;
}

std::vector<EventScalars> events_of(const std::string& metrics_jsonl, double begin) {
  std::vector<EventScalars> events;
  std::istringstream in(metrics_jsonl);
  for (std::string line; std::getline(in, line);) {
    const auto j = nlohmann::ordered_json::parse(line, nullptr, false);
    if (!j.is_object() || !j.contains("step")) {
      continue;
    }
    EventScalars& e = events.emplace_back();
    e.step = j.value("step", Index{0});
    e.wall_time = begin + j.value("seconds", 0.0);
    const auto add = [&](const std::string& tag, const auto& value) {
      if (value.is_number()) {
        e.values.emplace_back(tag, value.template get<double>());
      }
    };
    if (!j.contains("eval")) {
      for (const auto& [name, value] : j.items()) {
        if (name != "step" && name != "seconds") {
          add("train/" + name, value);
        }
      }
      continue;
    }
    for (const auto& slice : j["eval"]) {
      for (const auto& [name, value] : slice.at("metrics").items()) {
        add(j.value("split", "valid") + "/" + slice.value("slice", "") + "/" + name, value);
      }
    }
  }
  return events;
}

}  // namespace ls::experiments
