// Enough of CUDA's language for g++ to compile csrc/cuda, included before everything else: a thread
// block is run by one processor, its threads as fibres that give way to each other at barriers.
#pragma once

#include <cstdint>

#define FD_DEVICE_FORMULAS
#define __global__
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

using Body = void (*)(void*);
void run_grid(int64_t blocks, int threads, Body body, void* data);

template <class Function>
void launch(int64_t blocks, int threads, Function function) {
  run_grid(blocks, threads, [](void* data) { (*static_cast<Function*>(data))(); }, &function);
}

}  // namespace shim

#define FD_LAUNCH(kernel, blocks, threads, stream, ...) \
  shim::launch(blocks, threads, [&] { (kernel)(__VA_ARGS__); })
