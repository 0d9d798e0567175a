// The gradients of vectors: what the threads have summed up in their columns.
#pragma once

#include "cuda/device/column_loop.cuh"

namespace fused_dropout::cuda {

// The sums of a thread block's columns, those of its rows of threads added up in order, into the
// block's row of `partials`. Every thread of the block has to come here.
template <class C>
__device__ void write_partials(const Walk& walk, const Grid& grid, int64_t period,
                               const C (&sums)[kGroup], C* partials) {
  __shared__ C shared[kThreads * kGroup];
  __syncthreads();  // an earlier call may still be read
#pragma unroll
  for (int k = 0; k < kGroup; ++k) shared[threadIdx.x * kGroup + k] = sums[k];
  __syncthreads();
  const int width = grid.width() * kGroup;  // in elements
  const int64_t first_column = static_cast<int64_t>(walk.column_block) * width;
  partials += walk.row_block * period;
#pragma unroll 1
  for (int i = threadIdx.x; i < width && first_column + i < period; i += kThreads) {
    C sum = shared[i];
    for (int k = i + width; k < kThreads * kGroup; k += width) sum += shared[k];
    partials[first_column + i] = sum;
  }
}

// A block has `width` channels of one vector; the threads of a channel take its numbers in turn,
// and one of them adds their sums up in order.
template <class C, class T>
__global__ void __launch_bounds__(kThreads)
    column_sums_kernel(const ColumnSums args, int width, uint32_t blocks) {
  __shared__ double shared[kThreads];
  const int lanes = kThreads / width;
  const int lane = threadIdx.x / width;
  const int vector = blockIdx.x / blocks;
  const int64_t channel =
      static_cast<int64_t>(blockIdx.x - vector * blocks) * width + threadIdx.x % width;
  const Layout& layout = args.layout;
  double sum = 0;
  if (channel < layout.channels) {
    const int64_t once = layout.channels * layout.inner;
    const C* partials = static_cast<const C*>(args.partials) + vector * args.copies * once;
#pragma unroll 1
    for (int64_t i = lane; i < args.copies * layout.inner; i += lanes) {
      const int64_t copy = layout.by_inner.divide(i);
      sum += partials[copy * once + channel * layout.inner + (i - copy * layout.inner)];
    }
  }
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (lane != 0 || channel >= layout.channels) return;
#pragma unroll 1
  for (int i = 1; i < lanes; ++i) sum += shared[i * width + threadIdx.x];
  // Not indexed, which would copy the arguments to local memory.
  void* target = args.targets[0];
#pragma unroll
  for (int i = 1; i < kMostVectors; ++i) {
    if (i == vector) target = args.targets[i];
  }
  narrow(static_cast<typename Arithmetic<T>::Scalar>(sum), static_cast<T*>(target)[channel]);
}

}  // namespace fused_dropout::cuda
