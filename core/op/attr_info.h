#pragma once
// Attributes of ops by name, for listings. An op's Attrs lists its members as configs do:
//
//   struct Attrs {
//     double eps = 1e-5;
//     void fields(auto&& f) const { f("eps", eps, "added to the mean of squares"); }
//   };
#include <cstddef>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "core/base/enum_names.h"
#include "core/base/types.h"

namespace ls {

/// One attribute of an op: what it may be, its value when none is given, what it means.
struct AttrInfo {
  std::string name, type, initial, help;
};

namespace detail {

std::string attr_text(double x);

template <class T>
AttrInfo attr_info(const T& value) {
  AttrInfo info;
  if constexpr (std::is_same_v<T, bool>) {
    info.type = "bool";
    info.initial = value ? "true" : "false";
  } else if constexpr (NamedEnum<T>) {
    for (const std::string_view one : EnumNames<T>::kNames) {
      info.type += (info.type.empty() ? "" : ", ") + std::string(one);
    }
    info.initial = enum_name(value);
  } else if constexpr (std::is_integral_v<T>) {
    info.type = "integer";
    info.initial = std::to_string(value);
  } else if constexpr (std::is_floating_point_v<T>) {
    info.type = "number";
    info.initial = attr_text(static_cast<double>(value));
  } else {
    static_assert(!std::is_enum_v<T>, "an attribute that is a closed choice has EnumNames");
    info.type = "list of " + attr_info(typename T::value_type{}).type + "s";
    for (const auto& one : value) {
      info.initial += (info.initial.empty() ? "" : ", ") + attr_info(one).initial;
    }
    info.initial = "[" + info.initial + "]";
  }
  return info;
}

/// Bytes of a struct that its listed members do not cover and that are no padding between them.
class Coverage {
 public:
  explicit Coverage(const void* begin) : begin_(static_cast<const char*>(begin)) {}
  template <class T>
  void add(const T& member) {
    const std::size_t at = reinterpret_cast<const char*>(&member) - begin_;
    complete_ &= at == rounded(alignof(T));
    end_ = at + sizeof(T);
  }
  template <class Struct>
  bool complete() const {
    return complete_ && (std::is_empty_v<Struct> || rounded(alignof(Struct)) == sizeof(Struct));
  }

 private:
  std::size_t rounded(std::size_t to) const { return (end_ + to - 1) / to * to; }
  const char* begin_;
  std::size_t end_ = 0;
  bool complete_ = true;
};

/// Attributes as `fields` lists them. `complete` becomes false where it leaves a member out.
template <class Attrs>
std::vector<AttrInfo> attrs_of(bool& complete) {
  std::vector<AttrInfo> out;
  const Attrs initial{};
  Coverage covered(&initial);
  if constexpr (requires { initial.fields([](auto&&...) {}); }) {
    initial.fields([&](std::string_view name, const auto& value, std::string_view help) {
      covered.add(value);
      AttrInfo info = attr_info(value);
      info.name = name;
      info.help = help;
      out.push_back(std::move(info));
    });
  }
  complete = covered.complete<Attrs>();
  return out;
}

}  // namespace detail
}  // namespace ls
