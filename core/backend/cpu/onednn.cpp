// Products are oneDNN primitives, generated for their sizes and kept by each thread: their scratch
// memory belongs to the thread that made them. A million different shapes (lengths of documents)
// must not fill the memory, so a full cache is emptied.
#include "core/backend/cpu/onednn.h"

#ifdef LS_HAVE_ONEDNN
#include <omp.h>

#include <cstring>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <string_view>
#include <unordered_map>

#include "core/base/error.h"
#include "core/base/parallel_for.h"
#endif

namespace ls {

#ifdef LS_HAVE_ONEDNN
namespace {

struct Key {
  Index m, n, k, lda, ldb, ldc;
  float beta;
  DType c;
  bool trans_a, trans_b;
};

struct KeyHash {
  std::size_t operator()(const Key& key) const {
    std::uint64_t h = 0x9e3779b97f4a7c15u;
    const auto mix = [&h](std::uint64_t x) { h = (h ^ x) * 0xff51afd7ed558ccdu, h ^= h >> 32; };
    for (const Index x : {key.m, key.n, key.k, key.lda, key.ldb, key.ldc}) {
      mix(static_cast<std::uint64_t>(x));
    }
    std::uint32_t beta;
    std::memcpy(&beta, &key.beta, sizeof beta);
    mix(beta);
    mix(static_cast<std::uint64_t>(key.c) | static_cast<std::uint64_t>(key.trans_a) << 8 |
        static_cast<std::uint64_t>(key.trans_b) << 9);
    return h;
  }
};
struct KeyEqual {
  bool operator()(const Key& x, const Key& y) const {
    return x.m == y.m && x.n == y.n && x.k == y.k && x.lda == y.lda && x.ldb == y.ldb &&
           x.ldc == y.ldc && x.beta == y.beta && x.c == y.c && x.trans_a == y.trans_a &&
           x.trans_b == y.trans_b;
  }
};

struct Engine {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
};
Engine& engine() {
  thread_local Engine instance;
  return instance;
}

struct Multiplication {
  dnnl::matmul primitive;
  dnnl::memory a, b, c;
  std::unordered_map<int, dnnl::memory> arguments;
};

dnnl::memory::data_type type_of(DType t) {
  return t == DType::kF32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
}

/// Null where no kernel but oneDNN's plain loops would do it.
std::unique_ptr<Multiplication> make(const Key& key) {
  using dnnl::memory;
  const auto matrix = [](DType t, Index rows, Index cols, bool transposed, Index ld) {
    return memory::desc({rows, cols}, type_of(t),
                        transposed ? memory::dims{1, ld} : memory::dims{ld, 1});
  };
  const memory::desc a = matrix(DType::kBF16, key.m, key.k, key.trans_a, key.lda);
  const memory::desc b = matrix(DType::kBF16, key.k, key.n, key.trans_b, key.ldb);
  const memory::desc c = matrix(key.c, key.m, key.n, false, key.ldc);
  dnnl::primitive_attr attributes;
  if (key.beta != 0) {
    dnnl::post_ops sum;
    sum.append_sum(key.beta);
    attributes.set_post_ops(sum);
  }
  Engine& e = engine();
  try {
#if DNNL_VERSION_MAJOR >= 3
    const dnnl::matmul::primitive_desc kind(e.engine, a, b, c, attributes);
#else
    const dnnl::matmul::primitive_desc kind(dnnl::matmul::desc(a, b, c), attributes, e.engine);
#endif
    if (std::string_view(kind.impl_info_str()).starts_with("ref")) {
      return nullptr;
    }
    auto out = std::make_unique<Multiplication>();
    out->primitive = dnnl::matmul(kind);
    out->a = memory(a, e.engine, nullptr);
    out->b = memory(b, e.engine, nullptr);
    out->c = memory(c, e.engine, nullptr);
    out->arguments = {{DNNL_ARG_SRC, out->a}, {DNNL_ARG_WEIGHTS, out->b}, {DNNL_ARG_DST, out->c}};
    return out;
  } catch (const dnnl::error& error) {
    if (error.status == dnnl_unimplemented) {
      return nullptr;
    }
    LS_FAIL(kInternal, "oneDNN: {} for a product of {}x{}x{}", error.what(), key.m, key.n, key.k);
  }
}

bool multiply(DType c_dtype, bool trans_a, bool trans_b, Index m, Index n, Index k, const bf16* a,
              Index lda, const bf16* b, Index ldb, float beta, void* c, Index ldc) {
  // oneDNN 3.7 takes the elements of a vector as adjacent whatever its stride.
  if ((m == 1 && trans_a && lda != 1) || (n == 1 && ((!trans_b && ldb != 1) || ldc != 1))) {
    return false;
  }
  if (omp_get_max_threads() != 1) {
    omp_set_num_threads(1);  // of this thread's calls; our own loops name their team
  }
  const Key key{m, n, k, lda, ldb, ldc, beta, c_dtype, trans_a, trans_b};
  constexpr std::size_t kMost = 1024;
  thread_local std::unordered_map<Key, std::unique_ptr<Multiplication>, KeyHash, KeyEqual> known;
  auto at = known.find(key);
  if (at == known.end()) {
    if (known.size() >= kMost) {
      known.clear();
    }
    at = known.emplace(key, make(key)).first;
  }
  Multiplication* const product = at->second.get();
  if (!product) {
    return false;
  }
  product->a.set_data_handle(const_cast<bf16*>(a));
  product->b.set_data_handle(const_cast<bf16*>(b));
  product->c.set_data_handle(c);
  try {
    product->primitive.execute(engine().stream, product->arguments);
  } catch (const dnnl::error& error) {
    LS_FAIL(kInternal, "oneDNN: {} in a product of {}x{}x{}", error.what(), m, n, k);
  }
  return true;
}

template <class C>
bool by_tiles(const Operands<bf16, C>& g) {
  constexpr Index kRows = 256, kCols = 512;
  if (!has_matrix_unit() || g.alpha != 1) {
    return false;
  }
  const Index row_tiles = (g.m + kRows - 1) / kRows, col_tiles = (g.n + kCols - 1) / kCols;
  parallel_for(row_tiles * col_tiles, 1, [&](Index begin, Index end) {
    for (Index t = begin; t < end; ++t) {
      const Index row = t / col_tiles, col = t % col_tiles;
      const Index i = g.m * row / row_tiles, j = g.n * col / col_tiles;
      Operands<bf16, C> tile = g;
      tile.m = g.m * (row + 1) / row_tiles - i;
      tile.n = g.n * (col + 1) / col_tiles - j;
      tile.a += g.trans_a ? i : i * g.lda;
      tile.b += g.trans_b ? j * g.ldb : j;
      tile.c += i * g.ldc + j;
      if (!multiply(dtype_of_v<C>, g.trans_a, g.trans_b, tile.m, tile.n, g.k, tile.a, g.lda, tile.b,
                    g.ldb, g.beta, tile.c, g.ldc)) {
        packed_gemm(tile);
      }
    }
  });
  return true;
}

}  // namespace

bool has_matrix_unit() {
  static const bool has = __builtin_cpu_supports("amx-bf16") != 0;
  return has;
}

bool onednn_gemm(const Operands<bf16, float>& g) {
  return by_tiles(g);
}
bool onednn_gemm(const Operands<bf16, bf16>& g) {
  return by_tiles(g);
}

#else

bool has_matrix_unit() {
  return false;
}
bool onednn_gemm(const Operands<bf16, float>&) {
  return false;
}
bool onednn_gemm(const Operands<bf16, bf16>&) {
  return false;
}

#endif

}  // namespace ls
