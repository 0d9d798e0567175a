// How kernels are launched, and which memory accesses a launch may choose.
#pragma once

#include "cuda/device/vector_access.cuh"

// The emulator (tests/cuda_emulator) compiles the kernels without nvcc and defines these macros
// itself.
#if !defined(FD_LAUNCH_SHARED)
// Launches a kernel whose thread blocks have `bytes` bytes of dynamic shared memory.
#define FD_LAUNCH_SHARED(kernel, blocks, threads, bytes, stream, ...)               \
  do {                                                                              \
    ::fused_dropout::cuda::request_shared_bytes(kernel, bytes);                     \
    kernel<<<static_cast<unsigned>(blocks), threads, bytes, stream>>>(__VA_ARGS__); \
  } while (false)
#define FD_DYNAMIC_SHARED(name)             \
  extern __shared__ Words4 shared_memory[]; \
  void* const name = shared_memory

namespace fused_dropout::cuda {

// Shared memory that a kernel gets without a request: 48 KiB, less what it declares itself.
constexpr int64_t kDefaultSharedBytes = 47 * 1024;

template <class... Arguments>
void request_shared_bytes(void (*kernel)(Arguments...), int64_t bytes) {
  if (bytes <= kDefaultSharedBytes) return;
  cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                       cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

// The most dynamic shared memory of a thread block on the current device, less what kernels declare
// themselves.
inline int64_t max_shared_bytes() {
  int device = 0, bytes = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return bytes - 1024;
}

}  // namespace fused_dropout::cuda
#endif

#define FD_LAUNCH(kernel, blocks, threads, stream, ...) \
  FD_LAUNCH_SHARED(kernel, blocks, threads, 0, stream, __VA_ARGS__)

namespace fused_dropout::cuda {

// True if 16-byte accesses may start at all these addresses.
template <class... Pointers>
bool are_aligned(Pointers... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % sizeof(Words4) == 0) && ...);
}

// True if the kernels for T have a version with 16-byte accesses. fp64 has none: with two numbers
// per access it gains nothing.
template <class T>
constexpr bool kCanVectorise = !std::is_same_v<T, double>;

}  // namespace fused_dropout::cuda
