// Gradients of vectors such as the bias: partial sums of each thread block, and the kernel that
// adds them up.
#pragma once

#include "cuda/device/column_loop.cuh"

namespace fused_dropout::cuda {

// Adds the sums of the threads of a block that share a column, in order, and writes them to the
// block's row of `partials`. All threads of the block have to call it.
template <class C>
__device__ void write_partials(const ColumnLoop& loop, const ColumnGrid& grid, int64_t period,
                               const C (&sums)[kGroup], C* partials) {
  __shared__ C shared[kThreads * kGroup];
  __syncthreads();  // threads may still read `shared` of an earlier call
#pragma unroll
  for (int k = 0; k < kGroup; ++k) shared[threadIdx.x * kGroup + k] = sums[k];
  __syncthreads();
  const int width = grid.width() * kGroup;  // in elements
  const int64_t first_column = static_cast<int64_t>(loop.column_block) * width;
  partials += loop.row_block * period;
#pragma unroll 1
  for (int i = threadIdx.x; i < width && first_column + i < period; i += kThreads) {
    C sum = shared[i];
    for (int k = i + width; k < kThreads * kGroup; k += width) sum += shared[k];
    partials[first_column + i] = sum;
  }
}

// Adds up partial sums. A thread block handles `width` channels of one vector. The threads of a
// channel share its numbers, and one of them adds the threads' sums in order.
template <class C, class T>
__global__ void __launch_bounds__(kThreads)
    column_sums_kernel(const ColumnSums args, int width, uint32_t blocks) {
  __shared__ double shared[kThreads];
  const int threads_per_channel = kThreads / width;
  const int thread = threadIdx.x / width;  // among those of its channel
  const int vector = blockIdx.x / blocks;
  const int64_t channel =
      static_cast<int64_t>(blockIdx.x - vector * blocks) * width + threadIdx.x % width;
  const Layout& layout = args.layout;
  double sum = 0;
  if (channel < layout.channels) {
    const int64_t repetition = layout.channels * layout.inner;
    const C* partials = static_cast<const C*>(args.partials) + vector * args.copies * repetition;
#pragma unroll 1
    for (int64_t i = thread; i < args.copies * layout.inner; i += threads_per_channel) {
      const int64_t copy = layout.by_inner.divide(i);
      sum += partials[copy * repetition + channel * layout.inner + (i - copy * layout.inner)];
    }
  }
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (thread != 0 || channel >= layout.channels) return;
#pragma unroll 1
  for (int i = 1; i < threads_per_channel; ++i) sum += shared[i * width + threadIdx.x];
  // A variable index into args.targets would copy the arguments to local memory.
  void* target = args.targets[0];
#pragma unroll
  for (int i = 1; i < kMaxVectors; ++i) {
    if (i == vector) target = args.targets[i];
  }
  narrow(static_cast<typename Arithmetic<T>::Scalar>(sum), static_cast<T*>(target)[channel]);
}

}  // namespace fused_dropout::cuda
