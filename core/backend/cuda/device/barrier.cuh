#pragma once
// Waiting and ordering on sm_90: mbarriers, named barriers, proxy fences, register shares.
#include <cuda_runtime.h>
#include <cstdint>

/// Code for sm_90a: bodies of kernels that are made of it are empty in what is built for others.
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LS_HOPPER_CODE 1
#else
#define LS_HOPPER_CODE 0
#pragma nv_diag_suppress 177  // functions that only such bodies call
#endif

namespace ls::cuda {

/// Address of shared memory as the instructions take it.
__device__ __forceinline__ uint32_t smem_addr(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

/// A barrier in shared memory that counts arriving threads and bytes of bulk copies. Its phase
/// flips when both are complete; who waits names the parity of the phase to be over: 0, 1, 0, ...
struct Mbarrier {
  uint64_t word;

  __device__ __forceinline__ void init(uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_addr(&word)), "r"(arrivals)
                 : "memory");
  }
  __device__ __forceinline__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem_addr(&word)) : "memory");
  }
  /// One arrival that also says how many bytes the copies of this phase bring.
  __device__ __forceinline__ void arrive_expect(uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_addr(&word)),
                 "r"(bytes)
                 : "memory");
  }
  __device__ __forceinline__ bool done(uint32_t parity) const {
    uint32_t yes;
    asm volatile(
        "{\n .reg .pred p;\n"
        " mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        " selp.u32 %0, 1, 0, p;\n}"
        : "=r"(yes)
        : "r"(smem_addr(&word)), "r"(parity)
        : "memory");
    return yes != 0;
  }
  __device__ __forceinline__ void wait(uint32_t parity) const {
    while (!done(parity)) {
    }
  }
};

/// A warp's arrival: one lane speaks for all, which have used what they read (not only asked for
/// it: a load can wait behind products for longer than the copy engine needs to bring the next
/// tile). racecheck does not see that __syncwarp orders the others before it; built with
/// LS_EVERY_LANE_ARRIVES each lane arrives, which it can follow.
#ifdef LS_EVERY_LANE_ARRIVES
inline constexpr int kWarpArrivals = 32;
#else
inline constexpr int kWarpArrivals = 1;
#endif
__device__ __forceinline__ void arrive_warp(Mbarrier& barrier, int lane) {
  __syncwarp();
  if (kWarpArrivals > 1 || lane == 0) {
    barrier.arrive();
  }
}

/// A ring of kStages slots: the parities that its n-th use waits for, of its own phase and of the
/// one before it in the same slot.
template <int kStages>
__device__ __forceinline__ uint32_t this_turn(int n) {
  return (n / kStages) & 1;
}
template <int kStages>
__device__ __forceinline__ uint32_t last_turn(int n) {
  return (n / kStages - 1) & 1;
}
/// Its barriers: slots are filled by one thread's copies and freed by `warps` warps.
template <int kStages>
__device__ __forceinline__ void init_ring(Mbarrier (&full)[kStages], Mbarrier (&free)[kStages],
                                          int warps) {
  for (int i = 0; i < kStages; ++i) {
    full[i].init(1);
    free[i].init(static_cast<uint32_t>(warps * kWarpArrivals));
  }
}

/// Makes initialised mbarriers visible to bulk copies; then __syncthreads.
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/// Ordinary stores to shared memory before it are seen by wgmma and bulk copies that are issued
/// after the barrier that follows it. Every writing thread executes it.
__device__ __forceinline__ void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// Barrier `id` (1 to 15; 0 is __syncthreads) of `threads` threads, whole warps.
__device__ __forceinline__ void named_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// Registers per thread of this warpgroup from here on, a multiple of 8. The kernel needs
/// __launch_bounds__(threads, 1), and every warpgroup one branch of a single if/else.
template <int N>
__device__ __forceinline__ void more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
__device__ __forceinline__ void fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

/// Of this thread. Opaque to the compiler, which would otherwise read the thread's index again, at
/// some 50 cycles each, wherever it is short of registers.
__device__ __forceinline__ int lane_index() {
  int lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}
__device__ __forceinline__ int warp_index() {
  int warp;
  asm volatile("mov.u32 %0, %1;" : "=r"(warp) : "r"(__shfl_sync(0xffffffffu, threadIdx.x / 32, 0)));
  return warp;
}

/// The same number, of which the compiler knows nothing: what is computed from it inside a loop
/// stays there instead of holding a register throughout.
__device__ __forceinline__ int opaque(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

/// One lane of a converged warp, the same one each time.
__device__ __forceinline__ bool elect_one() {
  uint32_t yes;
  asm volatile(
      "{\n .reg .pred p;\n"
      " elect.sync _|p, 0xffffffff;\n"
      " selp.u32 %0, 1, 0, p;\n}"
      : "=r"(yes)::"memory");
  return yes != 0;
}

/// Programmatic launch: lets the next kernel of the stream start once every CTA has said so; waits
/// until the one before has ended and its writes are seen.
__device__ __forceinline__ void launch_dependents() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}
__device__ __forceinline__ void wait_for_previous_grid() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

}  // namespace ls::cuda
