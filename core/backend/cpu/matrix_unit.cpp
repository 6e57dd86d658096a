// The instructions of AMX behind matrix_unit_kernel.h, written out: GCC's own functions for them do
// not say that they read memory, so that what was stored just before may come too late or be left
// out.
#include "core/backend/cpu/matrix_unit.h"

#include "core/backend/cpu/matrix_unit_kernel.h"

#if defined(__x86_64__) && defined(__linux__)
#define LS_AMX 1
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ls {

#if LS_AMX
namespace {

/// Shapes of the tiles, as the processor reads them.
struct alignas(64) Shapes {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t line_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t lines[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(Shapes) == 64);
constexpr Shapes kShapes;

struct Amx {
  static void begin() { asm volatile("ldtilecfg %0" ::"m"(kShapes) : "memory"); }
  static void end() { asm volatile("tilerelease" ::: "memory"); }
  template <int T>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(T));
  }
  template <int T>
  static void load(const void* from, Index line) {
    asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(T), "r"(from), "r"(line) : "memory");
  }
  template <int T>
  static void store(void* to, Index line) {
    asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(T), "r"(to), "r"(line) : "memory");
  }
  template <int Sum, int A, int B>
  static void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sum), "i"(A), "i"(B));
  }
};

}  // namespace

bool has_matrix_unit() {
  static const bool has = [] {
    // ARCH_REQ_XCOMP_PERM for XFEATURE_XTILEDATA: asks for all threads, present and future.
    constexpr long kRequestPermission = 0x1023;
    constexpr long kTileData = 18;
    return __builtin_cpu_supports("amx-bf16") &&
           syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return has;
}

void unit_gemm(const Operands<bf16, float>& g) {
  detail::UnitProduct<Amx, float>(g).run();
}
void unit_gemm(const Operands<bf16, bf16>& g) {
  detail::UnitProduct<Amx, bf16>(g).run();
}

#else

bool has_matrix_unit() {
  return false;
}
void unit_gemm(const Operands<bf16, float>& g) {
  packed_gemm(g);
}
void unit_gemm(const Operands<bf16, bf16>& g) {
  packed_gemm(g);
}

#endif

}  // namespace ls
