// How the kernels that go element by element walk over memory. It is seen as rows of `period`
// elements over which a bias repeats, and a thread stays in one column of eight elements: its bias
// values, and the sums of its bias gradient, are registers, and no index is divided within the loop
// over rows.
#pragma once

#include "cuda/device/launch.cuh"
#include "cuda/launch_types.h"

namespace fused_dropout::cuda {

constexpr int kThreads = 128;
// Thread blocks that fit on a processor together: six leave a thread 80 registers, five 96, which
// fp32 needs to have its twice as many bytes on their way. Functions in fp64 need more than that.
template <class T>
constexpr int kBlocks = std::is_same_v<T, double>  ? 1
                        : std::is_same_v<T, float> ? 5
                                                   : 6;

// Which groups a thread block works on. Its threads stand in rows of 2^log_width, 32 or more; block
// b has the columns b % column_blocks and the rows b / column_blocks of the grid, `rows_per_block`
// rows of memory each. The rest follows from these; kernels need not compute it again.
struct Grid {
  int64_t groups;   // whole ones
  int64_t columns;  // groups in a row of memory
  int64_t rows_per_block;
  uint32_t column_blocks;
  int log_width;

  int64_t groups_per_block;                  // in its rows, of all columns
  uint32_t columns_or_most, groups_or_most;  // no more than kMostPlaces
  ShortDivisor by_column_blocks;

  FD_HD int width() const { return 1 << log_width; }
};

// The host sees to it that a block has no more places, or one row only.
constexpr uint32_t kMostPlaces = 1u << 28;

FD_HD uint32_t bounded(int64_t value, uint32_t most) {
  return value < 0 ? 0 : value < most ? static_cast<uint32_t>(value) : most;
}

// A thread's walk down its column. Groups are numbered from `base` on, which is the same for the
// whole block, so that what a thread keeps has 32 bits.
struct Walk {
  uint32_t row_block, column_block;
  int64_t base, column;
  uint32_t place, step, whole, end;

  FD_HD Walk(const Grid& grid, uint32_t block, uint32_t thread) {
    row_block = grid.by_column_blocks.divide(block);
    column_block = block - row_block * grid.column_blocks;
    const int64_t first_column = static_cast<int64_t>(column_block) << grid.log_width;
    base = row_block * grid.groups_per_block + first_column;
    const uint32_t lane = thread & (grid.width() - 1);
    column = first_column + lane;
    place = (thread >> grid.log_width) * grid.columns_or_most + lane;
    step = (kThreads >> grid.log_width) * grid.columns_or_most;
    // Of the columns before the block's own, and of those behind the last one, there are none.
    const uint32_t places = column < grid.columns
                                ? bounded(grid.groups_per_block - first_column, grid.groups_or_most)
                                : 0;
    const int64_t left = grid.groups - base;
    whole = bounded(left, places);
    end = bounded(left + 1, places);  // a cut group comes after the whole ones
  }
};

// A group of a tensor. The sum of what is the same for all threads is left to the compiler.
template <class T>
FD_HD T* group_at(T* tensor, int64_t base, uint32_t place) {
  return tensor + base * kGroup + static_cast<uint64_t>(place) * kGroup;
}

// Calls work.vector<kUnroll>(base, place, step) for several whole groups at a time, `step` apart,
// so that their loads overlap; fewer are left.
template <int kUnroll, class Work>
FD_HD void walk_whole_groups(Walk& walk, Work& work) {
  const uint32_t further = (kUnroll - 1) * walk.step;
  const uint32_t last = walk.whole > further ? walk.whole - further : 0;
#pragma unroll 1
  for (; walk.place < last; walk.place += kUnroll * walk.step) {
    work.template vector<kUnroll>(walk.base, walk.place, walk.step);
  }
}

// Calls work.element_by_element(base, place) for all groups that are left.
template <class Work>
FD_HD void walk_groups(Walk& walk, int64_t numel, Work& work) {
#pragma unroll 1
  for (; walk.place < walk.end; walk.place += walk.step) {
    const int64_t position = (walk.base + walk.place) * kGroup;
    if (position < numel) work.element_by_element(walk.base, walk.place);
  }
}

// Enough for a wave of blocks on the largest GPUs, and enough that the last wave of several, which
// may have little to do, counts for little.
constexpr int64_t kManyBlocks = 1024, kPlentyOfBlocks = 4 * kManyBlocks;
// Rows of memory to a thread while there are no more blocks than a wave.
constexpr int64_t kFewRows = 4;

// What takes a thread long before its loop is spread over so many groups.
constexpr int64_t kMostRows = 16;

// `kMostRows` of memory to a thread where there is enough work. Depends on the shape alone.
inline Grid grid_for(const Layout& layout) {
  Grid grid;
  grid.groups = layout.numel / kGroup;
  grid.columns = divide_up(layout.period, kGroup);
  const int64_t rows = layout.rows();
  grid.log_width = 5;
  const bool far = grid.columns * kThreads > kMostPlaces;  // rows are
  while (grid.width() < kThreads &&
         (far || (kThreads / grid.width() > rows && grid.width() < grid.columns))) {
    ++grid.log_width;
  }
  grid.column_blocks = static_cast<uint32_t>(divide_up(grid.columns, grid.width()));
  const int64_t threads_deep = kThreads / grid.width();
  grid.rows_per_block = threads_deep * kMostRows;
  const auto too_few = [&] {
    const int64_t blocks = divide_up(rows, grid.rows_per_block) * grid.column_blocks;
    return blocks < (grid.rows_per_block > threads_deep * kFewRows ? kPlentyOfBlocks : kManyBlocks);
  };
  while (grid.rows_per_block > threads_deep &&
         (too_few() || grid.rows_per_block * grid.columns > kMostPlaces)) {
    grid.rows_per_block /= 2;
  }
  return grid;
}
inline int64_t row_blocks(const Layout& layout, const Grid& grid) {
  return divide_up(layout.rows(), grid.rows_per_block);
}

inline Grid completed(Grid grid) {
  grid.groups_per_block = grid.rows_per_block * grid.columns;
  grid.columns_or_most = bounded(grid.columns, kMostPlaces);
  grid.groups_or_most = bounded(grid.groups_per_block, kMostPlaces);
  grid.by_column_blocks = ShortDivisor(grid.column_blocks);
  return grid;
}

inline Grid forward_grid(const Layout& layout) { return completed(grid_for(layout)); }

inline Grid backward_grid(const Layout& layout) {
  constexpr int64_t kMostPartials = 512;  // unless there were too few blocks
  Grid grid = grid_for(layout);
  while (row_blocks(layout, grid) > kMostPartials &&
         row_blocks(layout, grid) * grid.column_blocks > kPlentyOfBlocks &&
         2 * grid.rows_per_block * grid.columns <= kMostPlaces) {
    grid.rows_per_block *= 2;
  }
  return completed(grid);
}

// Launches over args.layout: where `whole`, the kernel for groups that are whole in memory and in
// the mask.
template <class Kernel, class Args>
void launch_walk(Kernel whole_kernel, Kernel any_kernel, bool whole, const Grid& grid,
                 const Args& args, Stream stream) {
  const int64_t blocks = row_blocks(args.layout, grid) * grid.column_blocks;
  FD_LAUNCH((whole ? whole_kernel : any_kernel), blocks, kThreads, stream, args, grid);
}

}  // namespace fused_dropout::cuda
