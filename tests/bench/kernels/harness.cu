#include "harness.h"

#include <cublas_v2.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>

namespace ls::bench {

void require(cudaError_t error, const char* what, const char* file, int line) {
  if (error != cudaSuccess) {
    std::printf("%s:%d: %s: %s\n", file, line, what, cudaGetErrorString(error));
    std::fflush(stdout);
    std::exit(2);
  }
}

// --- Memory
// ---------------------------------------------------------------------------------------

RawBuffer::RawBuffer(std::size_t bytes) : bytes_(bytes) {
  LS_RUN(cudaMalloc(reinterpret_cast<void**>(&base_), rounded() + 2 * kGuard));
  LS_RUN(cudaMemset(base_, 0xff, rounded() + 2 * kGuard));
}
RawBuffer::~RawBuffer() {
  cudaFree(base_);
}
void RawBuffer::poison() {
  LS_RUN(cudaMemset(data(), 0xff, bytes_));
}
void RawBuffer::write(const void* from) {
  LS_RUN(cudaMemcpy(data(), from, bytes_, cudaMemcpyHostToDevice));
}
void RawBuffer::read(void* to) const {
  LS_RUN(cudaMemcpy(to, data(), bytes_, cudaMemcpyDeviceToHost));
}
bool RawBuffer::guards_intact() const {
  std::vector<unsigned char> front(kGuard), back(kGuard + rounded() - bytes_);
  LS_RUN(cudaMemcpy(front.data(), base_, front.size(), cudaMemcpyDeviceToHost));
  LS_RUN(cudaMemcpy(back.data(), data() + bytes_, back.size(), cudaMemcpyDeviceToHost));
  const auto untouched = [](unsigned char c) { return c == 0xff; };
  return std::all_of(front.begin(), front.end(), untouched) &&
         std::all_of(back.begin(), back.end(), untouched);
}

bool guards_intact(const std::vector<RawBuffer*>& buffers) {
  return std::all_of(buffers.begin(), buffers.end(),
                     [](const RawBuffer* buffer) { return buffer->guards_intact(); });
}

double tile_at(const std::vector<unsigned char>& bytes, std::size_t base, int row, int column) {
  const std::size_t at =
      base + static_cast<std::size_t>(row * 128 + ((column * 2) ^ ((row & 7) << 4)));
  __nv_bfloat16 value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return number(value);
}

// --- Numbers
// --------------------------------------------------------------------------------------

void set_lengths(std::vector<__nv_bfloat16>& rows, int width, double length) {
  constexpr std::int64_t kRun = 1024;
  const auto count = static_cast<std::int64_t>(rows.size()) / width;
  in_parallel((count + kRun - 1) / kRun, [&](std::int64_t run) {
    for (std::int64_t t = run * kRun; t < std::min(count, (run + 1) * kRun); ++t) {
      __nv_bfloat16* row = rows.data() + t * width;
      double sum = 0;
      for (int i = 0; i < width; ++i) {
        sum += number(row[i]) * number(row[i]);
      }
      for (int i = 0; i < width; ++i) {
        round_to(row[i], number(row[i]) * length / std::sqrt(sum));
      }
    }
  });
}

// --- Checks
// ---------------------------------------------------------------------------------------

void Check::expect(const std::string& what, const Error& error, double limit) {
  char text[96];
  std::snprintf(text, sizeof text, " %s %.4f/%.2f", what.c_str(), error.rms(), error.worst());
  line_ += text;
  if (!(error.rms() <= limit) || !std::isfinite(error.worst())) {
    good_ = false;
    bad_ += " " + what;
  }
}
void Check::expect(const std::string& what, bool good) {
  if (!good) {
    good_ = false;
    bad_ += " " + what;
  }
}
bool Check::finish() {
  std::printf("%-4s %-28s%s%s%s\n", good_ ? "ok" : "BAD", name_.c_str(), line_.c_str(),
              bad_.empty() ? "" : "  <-", bad_.c_str());
  std::fflush(stdout);
  return good_;
}

bool check_errors(const std::string& name, const std::vector<std::vector<Error>>& parts,
                  const char* const* names, const double* limits,
                  const std::vector<RawBuffer*>& written) {
  Check result(name);
  for (std::size_t i = 0; !parts.empty() && i < parts[0].size(); ++i) {
    Error all;
    for (const auto& part : parts) {
      all.add(part[i]);
    }
    result.expect(names[i], all, limits[i]);
  }
  result.expect("guards", guards_intact(written));
  result.expect("checked", !parts.empty());
  return result.finish();
}

// --- Golden cases
// ---------------------------------------------------------------------------------

std::vector<GoldenCase> read_golden(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::vector<GoldenCase> cases;
  std::string kind, name;
  while (in >> kind >> name) {
    if (kind == "case") {
      cases.push_back({name, {}, {}});
    } else if (cases.empty()) {
      break;
    } else if (kind == "attribute") {
      in >> cases.back().attributes[name];
    } else {
      GoldenArray& a = cases.back().arrays[name];
      std::size_t rank = 0, n = 1;
      in >> rank;
      a.shape.resize(rank);
      for (auto& extent : a.shape) {
        in >> extent;
        n *= static_cast<std::size_t>(extent);
      }
      in.get();
      a.values.resize(n);
      in.read(reinterpret_cast<char*>(a.values.data()),
              static_cast<std::streamsize>(n * sizeof(double)));
    }
    if (!in) {
      std::printf("%s: broken near case %s\n", path.c_str(), name.c_str());
      std::exit(2);
    }
  }
  return cases;
}

bool check_all_golden(const std::string& path, bool (*check)(const GoldenCase&)) {
  const std::vector<GoldenCase> cases = read_golden(path);
  bool good = !cases.empty();
  for (const GoldenCase& c : cases) {
    good = check(c) && good;
  }
  return good;
}

// --- Time
// -----------------------------------------------------------------------------------------

namespace {

class Event {
 public:
  Event() { LS_RUN(cudaEventCreate(&event_)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  void record(cudaStream_t stream) { LS_RUN(cudaEventRecord(event_, stream)); }
  float since(const Event& first) const {
    LS_RUN(cudaEventSynchronize(event_));
    float ms = 0;
    LS_RUN(cudaEventElapsedTime(&ms, first.event_, event_));
    return ms;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

class Stream {
 public:
  Stream() { LS_RUN(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Graph {
 public:
  Graph(const Launch& launch, cudaStream_t stream) {
    LS_RUN(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    const cudaError_t error = launch(stream);
    LS_RUN(cudaStreamEndCapture(stream, &graph_));
    LS_RUN(error);
    LS_RUN(cudaGraphInstantiate(&exec_, graph_, 0));
  }
  ~Graph() {
    cudaGraphExecDestroy(exec_);
    cudaGraphDestroy(graph_);
  }
  Graph(const Graph&) = delete;
  void replay(cudaStream_t stream) { LS_RUN(cudaGraphLaunch(exec_, stream)); }

 private:
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t exec_ = nullptr;
};

double quantile(std::vector<float> times, double q) {
  std::sort(times.begin(), times.end());
  return times[static_cast<std::size_t>(q * static_cast<double>(times.size() - 1) + .5)];
}

__global__ void count_differences(const std::uint32_t* a, const std::uint32_t* b, std::size_t words,
                                  unsigned long long* count) {
  unsigned long long mine = 0;
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < words;
       i += std::size_t{gridDim.x} * blockDim.x) {
    mine += a[i] != b[i];
  }
  if (mine) {
    atomicAdd(count, mine);
  }
}

__global__ void fill_bf16(__nv_bfloat16* to, std::size_t n, std::uint32_t seed) {
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < n;
       i += std::size_t{gridDim.x} * blockDim.x) {
    std::uint32_t x = static_cast<std::uint32_t>(i) * 2654435761u + seed;
    x = (x ^ (x >> 16)) * 0x85ebca6bu;
    x = (x ^ (x >> 13)) * 0xc2b2ae35u;
    to[i] = __float2bfloat16(static_cast<float>(x >> 8) * 0x1p-23f - 1.f);
  }
}

}  // namespace

Timing time_graphs(const std::vector<Launch>& sets, int repeats) {
  const Stream stream;
  static RawBuffer flush(std::size_t{256} << 20);
  std::vector<std::unique_ptr<Graph>> graphs;
  for (const Launch& launch : sets) {
    graphs.push_back(std::make_unique<Graph>(launch, stream));
  }
  Event first, second;
  std::vector<float> times;
  LS_RUN(cudaDeviceSynchronize());
  const int warm = std::max<int>(5, static_cast<int>(sets.size()));
  for (int i = 0; i < warm + repeats; ++i) {
    LS_RUN(cudaMemsetAsync(flush.data(), i & 1, flush.bytes(), stream));
    first.record(stream);
    graphs[static_cast<std::size_t>(i) % graphs.size()]->replay(stream);
    second.record(stream);
    const float ms = second.since(first);
    if (i >= warm) {
      times.push_back(ms);
    }
  }
  return {quantile(times, .5), quantile(times, .25), quantile(times, .75)};
}

Card measure_card() {
  cudaDeviceProp properties;
  LS_RUN(cudaGetDeviceProperties(&properties, 0));
  Card card{properties.name, 0, 0};
  const Stream stream;
  Event first, second;
  {
    const RawBuffer from(std::size_t{1} << 30), to(std::size_t{1} << 30);
    std::vector<float> times;
    for (int i = 0; i < 12; ++i) {
      first.record(stream);
      LS_RUN(cudaMemcpyAsync(to.data(), from.data(), to.bytes(), cudaMemcpyDeviceToDevice, stream));
      second.record(stream);
      times.push_back(second.since(first));
    }
    card.copy_rate = 2.0 * static_cast<double>(to.bytes()) / (quantile(times, .5) * 1e-3);
  }
  constexpr int kSize = 8192;
  const std::size_t elements = std::size_t{kSize} * kSize;
  const Buffer<__nv_bfloat16> a(elements), b(elements), c(elements);
  fill_bf16<<<1024, 256, 0, stream>>>(a.get(), elements, 1);
  fill_bf16<<<1024, 256, 0, stream>>>(b.get(), elements, 2);
  LS_RUN(cudaGetLastError());
  cublasHandle_t handle;
  if (cublasCreate(&handle) != CUBLAS_STATUS_SUCCESS) {
    return card;
  }
  cublasSetStream(handle, stream);
  const float one = 1, zero = 0;
  std::vector<float> times;
  for (int i = 0; i < 12; ++i) {
    first.record(stream);
    cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, kSize, kSize, kSize, &one, a.get(), CUDA_R_16BF,
                 kSize, b.get(), CUDA_R_16BF, kSize, &zero, c.get(), CUDA_R_16BF, kSize,
                 CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    second.record(stream);
    times.push_back(second.since(first));
  }
  cublasDestroy(handle);
  card.matrix_rate = 2.0 * kSize * kSize * kSize / (quantile(times, .5) * 1e-3);
  return card;
}

bool repeats_agree(const std::string& name, const Launch& launch,
                   const std::vector<RawBuffer*>& outputs, std::int64_t n) {
  const Stream stream;
  std::vector<RawBuffer> first;
  for (const RawBuffer* buffer : outputs) {
    first.emplace_back(buffer->bytes());
  }
  const Buffer<unsigned long long> count(1);
  LS_RUN(cudaMemset(count.get(), 0, sizeof(unsigned long long)));
  // Inputs and poison may be on their way in the default stream, for which this one does not wait.
  LS_RUN(cudaDeviceSynchronize());
  for (std::int64_t i = 0; i < n; ++i) {
    for (RawBuffer* buffer : outputs) {
      LS_RUN(cudaMemsetAsync(buffer->data(), 0xff, buffer->bytes(), stream));
    }
    LS_RUN(launch(stream));
    for (std::size_t j = 0; j < outputs.size(); ++j) {
      const RawBuffer& now = *outputs[j];
      if (i == 0) {
        LS_RUN(cudaMemcpyAsync(first[j].data(), now.data(), now.bytes(), cudaMemcpyDeviceToDevice,
                               stream));
        continue;
      }
      const std::size_t words = now.bytes() / 4;
      const auto blocks = static_cast<unsigned>(std::clamp<std::size_t>(words / 1024, 1, 1024));
      count_differences<<<blocks, 256, 0, stream>>>(
          reinterpret_cast<const std::uint32_t*>(first[j].data()),
          reinterpret_cast<const std::uint32_t*>(now.data()), words, count.get());
      LS_RUN(cudaGetLastError());
    }
  }
  LS_RUN(cudaStreamSynchronize(stream));
  const unsigned long long different = count.values()[0];
  std::printf("%-4s %lld repeats of %s: %s", different ? "BAD" : "ok", static_cast<long long>(n),
              name.c_str(), different ? "" : "the same bits\n");
  if (different) {
    std::printf("%llu words differ\n", different);
  }
  std::fflush(stdout);
  return different == 0;
}

void Report::row(const std::string& what, const std::string& shape, const Timing& t, double bytes,
                 double flop, double bar) {
  rows_.push_back({what, shape, t, bytes, flop, bar});
}
double Report::floor_ms(const Row& r) const {
  return 1e3 * std::max(r.bytes / card_.copy_rate,
                        card_.matrix_rate > 0 ? r.flop / card_.matrix_rate : 0);
}
void Report::print() const {
  if (const char* out = std::getenv("OUT")) {
    std::ofstream file(std::string(out) + "/" + name_ + ".jsonl", std::ios::app);
    for (const Row& r : rows_) {
      file << "{\"bench\": \"" << name_ << "\", \"card\": \"" << card_.name
           << "\", \"copy\": " << card_.copy_rate << ", \"matrix\": " << card_.matrix_rate
           << ", \"what\": \"" << r.what << "\", \"shape\": \"" << r.shape
           << "\", \"ms\": " << r.time.median << ", \"low\": " << r.time.low
           << ", \"high\": " << r.time.high << ", \"bytes\": " << r.bytes
           << ", \"flop\": " << r.flop << ", \"floor_ms\": " << floor_ms(r)
           << ", \"bar_ms\": " << r.bar << "}\n";
    }
  }
  for (const std::string& line : notes_) {
    std::printf("%s\n", line.c_str());
  }
  std::printf("%s on %s: copy %.2f TB/s, bf16 product %.0f TFLOP/s\n", name_.c_str(),
              card_.name.c_str(), card_.copy_rate * 1e-12, card_.matrix_rate * 1e-12);
  std::printf("%-26s %-20s %8s %17s %8s %6s %7s\n", "what", "shape", "ms", "quartiles", "floor",
              "share", "bar");
  for (const Row& r : rows_) {
    std::printf("%-26s %-20s %8.4f %8.4f-%8.4f %8.4f %5.0f%%", r.what.c_str(), r.shape.c_str(),
                r.time.median, r.time.low, r.time.high, floor_ms(r),
                100 * floor_ms(r) / r.time.median);
    if (r.bar > 0) {
      std::printf(" %7.3f%s", r.bar, r.time.median <= r.bar ? "" : " *");
    }
    std::printf("\n");
  }
  std::fflush(stdout);
}

}  // namespace ls::bench
