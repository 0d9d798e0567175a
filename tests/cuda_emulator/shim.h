// Enough of CUDA's language for g++ to compile csrc/cuda, included before everything else: a thread
// block is run by one processor, its threads as fibres that give way to each other at barriers.
#pragma once

#include <cstdint>

#define FD_DEVICE_FORMULAS
#define __global__
#define __device__
#define __launch_bounds__(...)
// Blocks run one after the other, so that a variable of its own for each is not needed.
#define __shared__ static
#define __syncthreads() shim::barrier()

struct ShimIndex {
  unsigned x = 0;
};
inline ShimIndex threadIdx, blockIdx;

namespace shim {

// Until every thread of the block has come here.
void barrier();

// What the thread of the same warp with this number has passed; every thread of the warp has to
// come here.
void exchange(void* value, int size, unsigned from);

// What a block may share, which a test can change, and what the running one shares.
inline int64_t max_shared_bytes = 226 * 1024;
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

// Fibres give way at barriers only.
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
