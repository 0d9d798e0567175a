// Sums down the columns of the rows that a thread block's teams hold.
#pragma once

#include "cuda/device/row_group.cuh"

namespace fused_dropout::cuda {

// The sums of the vectors' gradients down the columns of a block's rows. Each thread has its own
// numbers, by fours, in memory that is the block's: shared, or global where there is too little of
// that.
template <class C, int kGroups>
struct ColumnTotals {
  struct alignas(16) Four {
    C values[4];
  };
  static constexpr int kFours = kGroup / 4;

  Four* mine;
  int threads;

  static FD_HD int64_t numbers(int vectors, int threads) {
    return static_cast<int64_t>(vectors) * kGroups * kGroup * threads;
  }
  FD_HD ColumnTotals(void* memory, int vectors, int all_threads, int thread)
      : mine(static_cast<Four*>(memory) + thread), threads(all_threads) {
#pragma unroll 1
    for (int i = 0; i < vectors * kGroups * kFours; ++i) mine[i * threads] = Four{};
  }
  // What lies behind the end of a row is summed up and never read.
  FD_HD void add(int vector, int group, const C (&values)[kGroup]) const {
#pragma unroll
    for (int i = 0; i < kFours; ++i) {
      Four& sums = mine[((vector * kGroups + group) * kFours + i) * threads];
      Four four = sums;
#pragma unroll
      for (int k = 0; k < 4; ++k) four.values[k] += values[4 * i + k];
      sums = four;
    }
  }
  // Of all teams that hold the column, in order; after a barrier, from any thread.
  FD_HD C total(const Team& team, int thread, int teams, int vector, int column) const {
    const int group = column / kGroup;
    const int turn = group / team.size;
    const int four = column % kGroup / 4;
    const Four* place = mine - thread + (group - turn * team.size) +
                        ((vector * kGroups + turn) * kFours + four) * threads;
    C sum = place[0].values[column % 4];
#pragma unroll 1
    for (int i = 1; i < teams; ++i) sum += place[i * team.size].values[column % 4];
    return sum;
  }
};

}  // namespace fused_dropout::cuda
