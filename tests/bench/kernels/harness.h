#pragma once
// What the kernel benches share: guarded device buffers that start as NaN, random inputs rounded to
// their type, errors against f64, golden cases, timing with a cold L2, repeats bit by bit.
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace ls::bench {

/// Ends the program with place, expression and text when a call to the library failed.
void require(cudaError_t error, const char* what, const char* file, int line);
#define LS_RUN(x) ::ls::bench::require((x), #x, __FILE__, __LINE__)

// --- Memory
// ---------------------------------------------------------------------------------------

/// Device bytes between two guards; every byte 0xff (NaN in f32 and bf16) until written.
class RawBuffer {
 public:
  explicit RawBuffer(std::size_t bytes);
  ~RawBuffer();
  RawBuffer(RawBuffer&& other) noexcept
      : base_(std::exchange(other.base_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  RawBuffer(const RawBuffer&) = delete;
  RawBuffer& operator=(const RawBuffer&) = delete;
  std::size_t bytes() const { return bytes_; }
  unsigned char* data() const { return base_ + kGuard; }
  void poison();
  bool guards_intact() const;
  void write(const void* from);
  void read(void* to) const;

 private:
  static constexpr std::size_t kGuard = 4096;
  std::size_t rounded() const { return (bytes_ + 255) / 256 * 256; }
  unsigned char* base_ = nullptr;
  std::size_t bytes_;
};

template <class T>
class Buffer : public RawBuffer {
 public:
  explicit Buffer(std::size_t n) : RawBuffer(n * sizeof(T)) {}
  explicit Buffer(const std::vector<T>& from) : Buffer(from.size()) { write(from.data()); }
  T* get() const { return reinterpret_cast<T*>(data()); }
  std::size_t size() const { return bytes() / sizeof(T); }
  std::vector<T> values() const {
    std::vector<T> to(size());
    read(to.data());
    return to;
  }
};

bool guards_intact(const std::vector<RawBuffer*>& buffers);

/// bf16 element (row, column) of a tile that begins at `base`, in the layout of device/tile.cuh.
double tile_at(const std::vector<unsigned char>& bytes, std::size_t base, int row, int column);

// --- Numbers
// --------------------------------------------------------------------------------------

inline double number(double x) {
  return x;
}
inline double number(float x) {
  return x;
}
inline double number(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
inline void round_to(double& to, double x) {
  to = x;
}
inline void round_to(float& to, double x) {
  to = static_cast<float>(x);
}
inline void round_to(__nv_bfloat16& to, double x) {
  to = __float2bfloat16(static_cast<float>(x));
}

/// Counter-based: element i of a stream is the same on any number of threads.
class Random {
 public:
  explicit Random(std::uint64_t seed, std::uint64_t stream = 0)
      : key_(mix(seed * 0x9e3779b97f4a7c15u + stream)) {}
  double uniform(std::uint64_t i) const {
    return static_cast<double>(mix(key_ + i * 0xd1342543de82ef95u) >> 11) * 0x1p-53;
  }
  double normal(std::uint64_t i) const {
    const double r = std::sqrt(-2 * std::log(1 - uniform(2 * i)));
    return r * std::cos(6.283185307179586 * uniform(2 * i + 1));
  }

 private:
  static std::uint64_t mix(std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }
  std::uint64_t key_;
};

/// f(i) for i < n on all cores.
template <class F>
void in_parallel(std::int64_t n, F f) {
  std::vector<std::thread> threads;
  std::atomic<std::int64_t> next{0};
  const std::int64_t most = std::max(1u, std::thread::hardware_concurrency());
  for (std::int64_t i = 0; i < std::min(n, most); ++i) {
    threads.emplace_back([&] {
      for (std::int64_t j; (j = next++) < n;) {
        f(j);
      }
    });
  }
  for (auto& t : threads) {
    t.join();
  }
}

/// n values of make(i), rounded to T.
template <class T, class F>
std::vector<T> filled(std::size_t n, F make) {
  std::vector<T> to(n);
  constexpr std::size_t kRun = 1 << 16;
  in_parallel(static_cast<std::int64_t>((n + kRun - 1) / kRun), [&](std::int64_t run) {
    const std::size_t first = static_cast<std::size_t>(run) * kRun;
    for (std::size_t i = first; i < std::min(n, first + kRun); ++i) {
      round_to(to[i], make(i));
    }
  });
  return to;
}

/// n normal numbers times `size`, rounded to T.
template <class T>
std::vector<T> normals(std::size_t n, std::uint64_t seed, std::uint64_t stream, double size) {
  const Random random(seed, stream);
  return filled<T>(n, [&](std::size_t i) { return size * random.normal(i); });
}
/// Scales every row of `width` to a length.
void set_lengths(std::vector<__nv_bfloat16>& rows, int width, double length);

/// Relative RMS error, and the worst element in units of the reference's RMS.
class Error {
 public:
  void add(double x, double reference) {
    const double d = x - reference;
    difference_ += d * d;
    size_ += reference * reference;
    worst_ = std::abs(d) <= worst_ ? worst_ : std::abs(d);  // NaN stays
    ++count_;
  }
  void add(const Error& other) {
    difference_ += other.difference_;
    size_ += other.size_;
    worst_ = other.worst_ <= worst_ ? worst_ : other.worst_;
    count_ += other.count_;
  }
  bool empty() const { return count_ == 0; }
  /// NaN when anything was not a number or nothing was compared; absolute where all is zero.
  double rms() const {
    return count_ == 0 ? NAN : size_ > 0 ? std::sqrt(difference_ / size_) : std::sqrt(difference_);
  }
  double worst() const {
    return count_ == 0 ? NAN
           : size_ > 0 ? worst_ / std::sqrt(size_ / static_cast<double>(count_))
                       : worst_;
  }

 private:
  double difference_ = 0, size_ = 0, worst_ = 0;
  std::int64_t count_ = 0;
};

/// Named errors with a limit each; prints one line. A NaN fails, and so does an empty one.
class Check {
 public:
  explicit Check(std::string name) : name_(std::move(name)) {}
  void expect(const std::string& what, const Error& error, double limit);
  void expect(const std::string& what, bool good);
  /// Prints; true when all held.
  bool finish();

 private:
  std::string name_, line_, bad_;
  bool good_ = true;
};

/// The check of a case: `parts` hold an error for each name, summed here; guards of `written`.
bool check_errors(const std::string& name, const std::vector<std::vector<Error>>& parts,
                  const char* const* names, const double* limits,
                  const std::vector<RawBuffer*>& written);

// --- Golden cases
// ---------------------------------------------------------------------------------

struct GoldenArray {
  std::vector<std::int64_t> shape;
  std::vector<double> values;
};
struct GoldenCase {
  std::string name;
  std::map<std::string, double> attributes;
  std::map<std::string, GoldenArray> arrays;  // "inputs/q", "outputs/o", "cotangents/o", "grads/q"
  const GoldenArray* find(const std::string& path) const {
    const auto at = arrays.find(path);
    return at == arrays.end() ? nullptr : &at->second;
  }
  /// 0 where it has none of this name.
  double attribute(const std::string& key) const {
    const auto at = attributes.find(key);
    return at == attributes.end() ? 0 : at->second;
  }
};
/// What export_golden.py made of an HDF5 file; empty when there is no such file.
std::vector<GoldenCase> read_golden(const std::string& path);
/// Whether all of the file's cases pass, and there are any.
bool check_all_golden(const std::string& path, bool (*check)(const GoldenCase&));

// --- Time
// -----------------------------------------------------------------------------------------

struct Card {
  std::string name;
  double copy_rate;    // bytes read and written a second, device to device
  double matrix_rate;  // bf16 flop a second of a large product
};
Card measure_card();

struct Timing {
  double median, low, high;  // ms; low and high: quartiles
};
/// What one set of buffers runs, on a stream.
using Launch = std::function<cudaError_t(cudaStream_t)>;
/// Each set is captured as a graph; sets take turns, the L2 cache is flushed before each replay.
Timing time_graphs(const std::vector<Launch>& sets, int repeats = 30);

/// Runs `launch` n times, poisons `outputs` before each and compares their bits with the first's.
bool repeats_agree(const std::string& name, const Launch& launch,
                   const std::vector<RawBuffer*>& outputs, std::int64_t n);

/// Rows of time against the floor; prints a table last and JSON lines to $OUT/NAME.jsonl.
class Report {
 public:
  Report(std::string name, Card card) : name_(std::move(name)), card_(std::move(card)) {}
  const Card& card() const { return card_; }
  /// Floor: the larger of bytes over the copy rate and flop over the matrix rate. bar in ms, or 0.
  void row(const std::string& what, const std::string& shape, const Timing& t, double bytes,
           double flop, double bar = 0);
  void note(const std::string& line) { notes_.push_back(line); }
  void print() const;

 private:
  struct Row {
    std::string what, shape;
    Timing time;
    double bytes, flop, bar;
  };
  double floor_ms(const Row& r) const;
  std::string name_;
  Card card_;
  std::vector<Row> rows_;
  std::vector<std::string> notes_;
};

}  // namespace ls::bench
