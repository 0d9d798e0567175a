// Defines enough of CUDA for g++ to compile the kernels of csrc/cuda. Every source file includes it
// before everything else. One CPU thread runs a thread block; the threads of the block are fibres,
// which switch at barriers only.
#pragma once

#include <cstdint>

#define FD_DEVICE_FORMULAS
#define __global__
#define __device__
#define __launch_bounds__(...)
// Thread blocks run one after the other, so that they can share static variables.
#define __shared__ static
#define __syncthreads() shim::barrier()

struct ShimIndex {
  unsigned x = 0;
};
inline ShimIndex threadIdx, blockIdx;

namespace shim {

// Waits until every thread of the block has called it.
void barrier();

// Replaces `value` by the one that thread `from` of the same warp passes. Every thread of the warp
// has to call it.
void exchange(void* value, int size, unsigned from);

// Bytes of shared memory that a thread block may have, which tests can change.
inline int64_t max_shared_bytes = 226 * 1024;
// The dynamic shared memory of the running thread block.
inline void* shared_memory = nullptr;

using Body = void (*)(void*);
void run_grid(int64_t blocks, int threads, int64_t shared_bytes, Body body, void* data);

template <class Function>
void launch(int64_t blocks, int threads, int64_t shared_bytes, Function function) {
  run_grid(
      blocks, threads, shared_bytes, [](void* data) { (*static_cast<Function*>(data))(); },
      &function);
}

}  // namespace shim

// Fibres switch at barriers only, so that this is atomic.
template <class T>
T atomicAdd(T* target, T value) {
  const T before = *target;
  *target += value;
  return before;
}

template <class T>
T __shfl_xor_sync(unsigned, T value, int offset) {
  shim::exchange(&value, sizeof(value), threadIdx.x ^ offset);
  return value;
}

#define FD_LAUNCH_SHARED(kernel, blocks, threads, bytes, stream, ...) \
  shim::launch(blocks, threads, bytes, [&] { (kernel)(__VA_ARGS__); })
#define FD_DYNAMIC_SHARED(name) void* const name = shim::shared_memory

namespace fused_dropout::cuda {
inline int64_t max_shared_bytes() { return shim::max_shared_bytes; }
}  // namespace fused_dropout::cuda
