// What every launch needs.
#pragma once

#include "cuda/device/vector_access.cuh"

// A build without nvcc (tests/cuda) brings its own.
#if !defined(FD_LAUNCH_SHARED)
// With so many bytes of memory that a block shares.
#define FD_LAUNCH_SHARED(kernel, blocks, threads, bytes, stream, ...)               \
  do {                                                                              \
    ::fused_dropout::cuda::allow_shared(kernel, bytes);                             \
    kernel<<<static_cast<unsigned>(blocks), threads, bytes, stream>>>(__VA_ARGS__); \
  } while (false)
#define FD_DYNAMIC_SHARED(name)             \
  extern __shared__ Words4 shared_memory[]; \
  void* const name = shared_memory

namespace fused_dropout::cuda {

// What a kernel gets without asking.
constexpr int64_t kFreeShared = 47 * 1024;

template <class... Arguments>
void allow_shared(void (*kernel)(Arguments...), int64_t bytes) {
  if (bytes <= kFreeShared) return;
  cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                       cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

// How much of it a block may have on the current device, less what kernels declare themselves.
inline int64_t most_shared() {
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

// Where accesses of 16 bytes may go.
template <class... Pointers>
bool are_aligned(Pointers... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % sizeof(Words4) == 0) && ...);
}

// Whether kernels have accesses of 16 bytes: two fp64 numbers gain nothing by them.
template <class T>
constexpr bool kHasVectors = !std::is_same_v<T, double>;

}  // namespace fused_dropout::cuda
