// Sums down the columns of the rows that a thread block handles, for kernels whose row groups share
// the work on a row.
#pragma once

#include "cuda/device/row_group.cuh"

namespace fused_dropout::cuda {

// The gradients of the vectors, summed over the rows of a thread block. Each thread has sums of its
// own for the columns that it holds, in units of four numbers. They lie in shared memory, or in
// global memory if shared memory is too small.
template <class C, int kGroups>
struct ColumnTotals {
  struct alignas(16) Four {
    C values[4];
  };
  static constexpr int kFours = kGroup / 4;

  Four* own;  // the first unit of this thread; the next ones are `threads` units apart
  int threads;

  // How many numbers a thread block needs.
  static FD_HD int64_t numbers(int vectors, int threads) {
    return static_cast<int64_t>(vectors) * kGroups * kGroup * threads;
  }
  FD_HD ColumnTotals(void* memory, int vectors, int all_threads, int thread)
      : own(static_cast<Four*>(memory) + thread), threads(all_threads) {
#pragma unroll 1
    for (int i = 0; i < vectors * kGroups * kFours; ++i) own[i * threads] = Four{};
  }
  // Adds the values of all eight elements. The sums of elements past the end of a row are never
  // read.
  FD_HD void add(int vector, int group, const C (&values)[kGroup]) const {
#pragma unroll
    for (int i = 0; i < kFours; ++i) {
      Four& sums = own[((vector * kGroups + group) * kFours + i) * threads];
      Four four = sums;
#pragma unroll
      for (int k = 0; k < 4; ++k) four.values[k] += values[4 * i + k];
      sums = four;
    }
  }
  // The total of a column over the row groups of the thread block, added in order. Any thread may
  // call it after a barrier.
  FD_HD C total(const RowGroup& row_group, int thread, int row_groups, int vector,
                int column) const {
    const int group = column / kGroup;
    const int thread_group = group / row_group.size;
    const int four = column % kGroup / 4;
    const Four* first = own - thread + (group - thread_group * row_group.size) +
                        ((vector * kGroups + thread_group) * kFours + four) * threads;
    C sum = first[0].values[column % 4];
#pragma unroll 1
    for (int i = 1; i < row_groups; ++i) sum += first[i * row_group.size].values[column % 4];
    return sum;
  }
};

}  // namespace fused_dropout::cuda
