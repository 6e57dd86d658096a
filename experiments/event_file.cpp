#include "experiments/event_file.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "core/base/error.h"

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

std::vector<EventScalars> events_of(const RunRecord& record, double begin) {
  std::vector<EventScalars> events;
  const auto add = [&](const std::string& tag, double value) {
    if (std::isfinite(value)) {
      events.back().values.emplace_back(tag, value);
    }
  };
  std::size_t next = 0;  // evaluation
  const auto add_evaluations = [&](double before) {
    const std::vector<Evaluation>& history = record.result.history;
    for (; next < history.size() && static_cast<double>(history[next].step) < before; ++next) {
      const Evaluation& e = history[next];
      events.push_back({.wall_time = begin + e.seconds, .step = e.step, .values = {}});
      for (const SliceResult& s : e.slices) {
        for (const auto& [name, value] : s.metrics.values) {
          add(fmt::format("{}/{}/{}", enum_name(e.split), s.name, name), value);
        }
      }
    }
  };
  for (LogLine line : record.log) {
    add_evaluations(line.step);
    events.push_back(
        {.wall_time = begin + line.seconds, .step = static_cast<Index>(line.step), .values = {}});
    line.for_each_column([&](const std::string& name, double value) {
      const bool shown =
          name != "step" && name != "seconds" && (name != "without_targets" || value > 0);
      if (shown) {
        add("train/" + name, value);
      }
    });
  }
  add_evaluations(std::numeric_limits<double>::infinity());
  return events;
}

}  // namespace ls::experiments
