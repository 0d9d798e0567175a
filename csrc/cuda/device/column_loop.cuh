// The loop of the elementwise kernels (pointwise, gated, noise). Memory is seen as rows of `period`
// elements, over which a bias repeats. Each thread owns a column of eight elements and steps down
// the rows. Its bias values and the sums of its bias gradient stay in registers, and the loop needs
// no integer division.
#pragma once

#include "cuda/device/launch.cuh"
#include "cuda/launch_types.h"

namespace fused_dropout::cuda {

constexpr int kThreads = 128;  // per thread block
// Thread blocks that are resident on a multiprocessor (SM) together. Six leave each thread 80
// registers. Five leave 96, which fp32 needs because it has twice as many bytes in flight. fp64
// functions need more than that.
template <class T>
constexpr int kBlocksPerSM = std::is_same_v<T, double>  ? 1
                             : std::is_same_v<T, float> ? 5
                                                        : 6;

// Which groups of eight elements each thread block works on. The threads of a block form rows of
// 2^log_width threads, 32 or more. Block b covers the columns of column block b % column_blocks,
// and `rows_per_block` rows of memory, from row b / column_blocks * rows_per_block on.
struct ColumnGrid {
  int64_t full_groups;  // in the tensor; the last group may be partial
  int64_t columns;      // groups in a row of memory
  int64_t rows_per_block;
  uint32_t column_blocks;
  int log_width;

  // with_derived_fields computes these from the fields above, once on the host.
  int64_t groups_per_block;                            // in its rows, over all columns
  uint32_t bounded_columns, bounded_groups_per_block;  // at most kMaxOffset
  ShortDivisor by_column_blocks;

  FD_HD int width() const { return 1 << log_width; }
};

// The host makes sure that a thread block has no more groups than this, or a single row of memory.
constexpr uint32_t kMaxOffset = 1u << 28;

FD_HD uint32_t bounded(int64_t value, uint32_t limit) {
  return value < 0 ? 0 : value < limit ? static_cast<uint32_t>(value) : limit;
}

// The loop of one thread down its column. Group numbers are base + offset. `base` is the same for
// all threads of the block, so that a thread keeps 32-bit numbers only.
struct ColumnLoop {
  uint32_t row_block, column_block;
  int64_t base, column;
  uint32_t offset, step, full_end, end;

  FD_HD ColumnLoop(const ColumnGrid& grid, uint32_t block, uint32_t thread) {
    row_block = grid.by_column_blocks.divide(block);
    column_block = block - row_block * grid.column_blocks;
    const int64_t first_column = static_cast<int64_t>(column_block) << grid.log_width;
    base = row_block * grid.groups_per_block + first_column;
    const uint32_t thread_column = thread & (grid.width() - 1);
    column = first_column + thread_column;
    offset = (thread >> grid.log_width) * grid.bounded_columns + thread_column;
    step = (kThreads >> grid.log_width) * grid.bounded_columns;
    // Offsets count from the first column of the block, so that its rows end at groups_per_block -
    // first_column. A thread whose column is past the last one has no groups.
    const uint32_t limit = column < grid.columns ? bounded(grid.groups_per_block - first_column,
                                                           grid.bounded_groups_per_block)
                                                 : 0;
    const int64_t remaining = grid.full_groups - base;
    full_end = bounded(remaining, limit);
    end = bounded(remaining + 1, limit);  // a partial group comes after the full ones
  }
};

// The address of a group in a tensor. The part of the sum that all threads share is left to the
// compiler.
template <class T>
FD_HD T* group_at(T* tensor, int64_t base, uint32_t offset) {
  return tensor + base * kGroup + static_cast<uint64_t>(offset) * kGroup;
}

// Calls work.full_groups<kUnroll>(base, offset, step) for kUnroll full groups at a time, `step`
// apart, so that their loads overlap. Fewer than kUnroll full groups remain.
template <int kUnroll, class Work>
FD_HD void for_full_groups(ColumnLoop& loop, Work& work) {
  const uint32_t further = (kUnroll - 1) * loop.step;
  const uint32_t last = loop.full_end > further ? loop.full_end - further : 0;
#pragma unroll 1
  for (; loop.offset < last; loop.offset += kUnroll * loop.step) {
    work.template full_groups<kUnroll>(loop.base, loop.offset, loop.step);
  }
}

// Calls work.element_by_element(base, offset) for each remaining group.
template <class Work>
FD_HD void for_remaining_groups(ColumnLoop& loop, int64_t numel, Work& work) {
#pragma unroll 1
  for (; loop.offset < loop.end; loop.offset += loop.step) {
    const int64_t position = (loop.base + loop.offset) * kGroup;
    if (position < numel) work.element_by_element(loop.base, loop.offset);
  }
}

// Thread blocks that fill the largest GPUs once, and so many that a last wave with little work
// does not matter.
constexpr int64_t kOneWave = 1024, kFourWaves = 4 * kOneWave;
// Rows of memory per thread if there is enough work: the instructions before the loop are spread
// over that many groups.
constexpr int64_t kMaxRows = 16;
// A thread gets fewer rows than these only if the grid would otherwise be smaller than one wave.
constexpr int64_t kMinRows = 4;

// The fields that are not derived. They depend on the shape alone.
inline ColumnGrid column_grid(const Layout& layout) {
  ColumnGrid grid;
  grid.full_groups = layout.numel / kGroup;
  grid.columns = divide_up(layout.period, kGroup);
  const int64_t rows = layout.rows();
  grid.log_width = 5;
  const bool rows_are_long = grid.columns * kThreads > kMaxOffset;
  while (grid.width() < kThreads &&
         (rows_are_long || (kThreads / grid.width() > rows && grid.width() < grid.columns))) {
    ++grid.log_width;
  }
  grid.column_blocks = static_cast<uint32_t>(divide_up(grid.columns, grid.width()));
  const int64_t thread_rows = kThreads / grid.width();
  grid.rows_per_block = thread_rows * kMaxRows;
  const auto too_few_blocks = [&] {
    const int64_t blocks = divide_up(rows, grid.rows_per_block) * grid.column_blocks;
    return blocks < (grid.rows_per_block > thread_rows * kMinRows ? kFourWaves : kOneWave);
  };
  while (grid.rows_per_block > thread_rows &&
         (too_few_blocks() || grid.rows_per_block * grid.columns > kMaxOffset)) {
    grid.rows_per_block /= 2;
  }
  return grid;
}
inline int64_t row_blocks(const Layout& layout, const ColumnGrid& grid) {
  return divide_up(layout.rows(), grid.rows_per_block);
}

inline ColumnGrid with_derived_fields(ColumnGrid grid) {
  grid.groups_per_block = grid.rows_per_block * grid.columns;
  grid.bounded_columns = bounded(grid.columns, kMaxOffset);
  grid.bounded_groups_per_block = bounded(grid.groups_per_block, kMaxOffset);
  grid.by_column_blocks = ShortDivisor(grid.column_blocks);
  return grid;
}

inline ColumnGrid forward_grid(const Layout& layout) {
  return with_derived_fields(column_grid(layout));
}

// Each row block of a backward kernel writes a row of partial sums, so fewer row blocks are better.
inline ColumnGrid backward_grid(const Layout& layout) {
  constexpr int64_t kMaxPartials = 512;  // exceeded if there would be too few thread blocks
  ColumnGrid grid = column_grid(layout);
  while (row_blocks(layout, grid) > kMaxPartials &&
         row_blocks(layout, grid) * grid.column_blocks > kFourWaves &&
         2 * grid.rows_per_block * grid.columns <= kMaxOffset) {
    grid.rows_per_block *= 2;
  }
  return with_derived_fields(grid);
}

// Launches one of two kernels over args.layout: `vectorised_kernel` needs full groups that are
// aligned in memory and in the mask, `any_kernel` does not.
template <class Kernel, class Args>
void launch_column_loop(Kernel vectorised_kernel, Kernel any_kernel, bool vectorised,
                        const ColumnGrid& grid, const Args& args, Stream stream) {
  const int64_t blocks = row_blocks(args.layout, grid) * grid.column_blocks;
  FD_LAUNCH((vectorised ? vectorised_kernel : any_kernel), blocks, kThreads, stream, args, grid);
}

}  // namespace fused_dropout::cuda
