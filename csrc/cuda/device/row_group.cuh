// Row groups: threads that share a row, for kernels that need sums over a row. Each thread of a row
// group holds one or several groups of eight elements.
#pragma once

#include <algorithm>

#include "cuda/device/vector_access.cuh"
#include "cuda/launch_types.h"

namespace fused_dropout::cuda {

constexpr int kWarp = 32;
constexpr int kMaxRowGroup = 512;  // threads; a thread block of that size leaves each 128 registers

// How the rows are distributed. A thread holds `groups_per_thread` groups of eight elements of its
// row; from one to the next it is the size of the row group.
struct RowGrid {
  int groups_per_thread;       // 1 or kManyGroups
  int row_group_size;          // threads: a power of two up to a warp, or a multiple of a warp
  int row_groups;              // per thread block
  int64_t rows_per_row_group;  // handled one after the other
  int64_t blocks;

  FD_HD int threads() const { return row_group_size * row_groups; }
};
constexpr int kManyGroups = 4;

inline int groups_per_thread(int width) {
  return divide_up(width, kGroup) <= kMaxRowGroup ? 1 : kManyGroups;
}

// The grid for rows of `width` elements. A thread block has `threads` threads, or more if a row
// needs more.
inline RowGrid row_grid(int64_t rows, int width, int64_t rows_per_row_group, int threads) {
  const int64_t groups = divide_up(width, kGroup);
  RowGrid grid;
  grid.groups_per_thread = groups_per_thread(width);
  const int needed = static_cast<int>(divide_up(groups, grid.groups_per_thread));
  grid.row_group_size = 1;
  while (grid.row_group_size < needed && grid.row_group_size < kWarp) grid.row_group_size *= 2;
  if (needed > kWarp) grid.row_group_size = static_cast<int>(divide_up(needed, kWarp)) * kWarp;
  grid.row_groups = grid.row_group_size < threads ? threads / grid.row_group_size : 1;
  grid.rows_per_row_group = rows_per_row_group;
  grid.blocks = divide_up(rows, grid.row_groups * rows_per_row_group);
  return grid;
}

// The grid of the norm kernels. Each row group handles as many rows as leave enough thread blocks
// for the largest GPUs. Kernels with column sums (`sums`) get few thread blocks, because each
// writes a row of partial sums; with many rows these blocks have many threads. The grid depends on
// the shape alone, so that the bits of the sums do too.
inline RowGrid norm_grid(int64_t rows, int width, bool sums) {
  constexpr int kFewThreads = 128;
  constexpr int64_t kMaxRowsEach = 8, kMinRowsEach = 4;  // per row group
  if (!sums) {
    constexpr int64_t kEnoughBlocks = 1024, kManyBlocks = 4 * kEnoughBlocks;
    const int64_t blocks = row_grid(rows, width, 1, kFewThreads).blocks;
    int64_t rows_each = kMaxRowsEach;
    while (rows_each > 1 && divide_up(blocks, rows_each) <
                                (rows_each > kMinRowsEach ? kManyBlocks : kEnoughBlocks)) {
      rows_each /= 2;
    }
    return row_grid(rows, width, rows_each, kFewThreads);
  }
  constexpr int64_t kMaxPartials = 512;
  int threads = kFewThreads;
  int64_t enough_blocks = 128;
  int64_t blocks = row_grid(rows, width, 1, threads).blocks;
  if (blocks > kMaxPartials) {
    threads = kMaxRowGroup;
    enough_blocks = 264;  // two such blocks on each multiprocessor of an H100
    blocks = row_grid(rows, width, 1, threads).blocks;
  }
  const int64_t rows_each =
      std::max(divide_up(blocks, kMaxPartials), std::min(blocks / enough_blocks, kMaxRowsEach));
  return row_grid(rows, width, rows_each, threads);
}

// Bytes of the column sums of a thread block; `size` is that of one number.
inline int64_t sums_bytes(const RowGrid& grid, int vectors, int64_t size) {
  return vectors * grid.groups_per_thread * kGroup * grid.threads() * size;
}

// The row group that a thread belongs to.
struct RowGroup {
  int size;
  int index;  // of the row group in its thread block
  int rank;   // of the thread in the row group

  FD_HD RowGroup(const RowGrid& grid, int thread) {
    size = grid.row_group_size;
    index = thread / size;
    rank = thread - index * size;
  }
  // Makes the compiler assume that the rank changes in every iteration of a loop. Otherwise it
  // computes all addresses that depend on the rank before the loop, and needs more registers for
  // them than there are.
  FD_HD void hide_rank() { asm volatile("" : "+r"(rank)); }
  // The first column of one of the thread's groups of eight elements.
  FD_HD int column(int group) const { return (group * size + rank) * kGroup; }
};

// Waits until all threads of the row group have come here. Other row groups go on.
__device__ inline void row_group_barrier([[maybe_unused]] const RowGroup& row_group) {
#if defined(__CUDA_ARCH__)
  asm volatile("bar.sync %0, %1;" ::"r"(row_group.index + 1), "r"(row_group.size) : "memory");
#else
  // All row groups run equally many iterations, so that a barrier of the thread block works too.
  __syncthreads();
#endif
}

// Sums over a row group. All of its threads have to call add_up, equally often.
template <class C, int kSums>
class RowGroupSums {
 public:
  __device__ explicit RowGroupSums(const RowGroup& row_group) : row_group_(row_group) {}

  // Replaces each of `sums` by its sum over the row group.
  __device__ void add_up(C (&sums)[kSums]) {
#pragma unroll 1
    for (int offset = (row_group_.size < kWarp ? row_group_.size : kWarp) / 2; offset > 0;
         offset /= 2) {
      add_across(sums, offset);
    }
    if (row_group_.size <= kWarp) return;
    // Calls alternate between two buffers. A thread that writes to a buffer again has passed the
    // barrier of the call between, and no thread reaches that barrier before it has read the
    // buffer.
    constexpr int kMaxWarps = kMaxRowGroup / kWarp;
    __shared__ C shared[2][kSums][kMaxWarps];
    if (row_group_.rank % kWarp == 0) {
#pragma unroll
      for (int n = 0; n < kSums; ++n) shared[buffer_][n][threadIdx.x / kWarp] = sums[n];
    }
    row_group_barrier(row_group_);
    // In every warp, each lane reads the sum of one warp of the row group.
    const int warps = row_group_.size / kWarp;
    const int warp = row_group_.rank % kMaxWarps;
#pragma unroll
    for (int n = 0; n < kSums; ++n) {
      sums[n] = warp < warps ? shared[buffer_][n][row_group_.index * warps + warp] : C(0);
    }
#pragma unroll
    for (int offset = kMaxWarps / 2; offset > 0; offset /= 2) add_across(sums, offset);
    buffer_ ^= 1;
  }

 private:
  static __device__ void add_across(C (&sums)[kSums], int offset) {
#pragma unroll
    for (int n = 0; n < kSums; ++n) sums[n] += __shfl_xor_sync(~0u, sums[n], offset);
  }

  const RowGroup& row_group_;
  int buffer_ = 0;
};

}  // namespace fused_dropout::cuda
