// How the kernels that go element by element walk over memory. It is seen as rows of `period`
// elements over which a bias repeats, and a thread stays in one column of eight elements: its bias
// values, and the sums of its bias gradient, are registers, and no index is divided within the loop
// over rows.
#pragma once

#include "launch.cuh"

namespace fused_dropout::cuda {

constexpr int kThreads = 128;
// Thread blocks that fit on a processor together: six leave a thread 80 registers. Functions in
// fp64 need more than that.
template <class T>
constexpr int kBlocks = std::is_same_v<T, double> ? 1 : 6;

// Which groups a thread block works on. Its threads stand in rows of `width`, a power of two from
// 32 on; block b has the columns b % column_blocks and the rows b / column_blocks of the grid,
// `rows_per_block` rows of memory each.
struct Grid {
  int64_t groups;   // whole ones
  int64_t columns;  // groups in a row of memory
  uint32_t column_blocks;
  int width;
  int64_t rows_per_block;
};

// The host sees to it that a block has no more places, or one row only.
constexpr uint32_t kMostPlaces = 1u << 28;

// A thread's walk down its column. Groups are numbered from `base` on, which is the same for the
// whole block, so that what a thread keeps has 32 bits.
struct Walk {
  int64_t row_block, base;
  uint32_t column_block, place, step, whole, end;
  int64_t column;

  FD_HD Walk(const Grid& grid, uint32_t block, int thread) {
    row_block = block / grid.column_blocks;
    column_block = block - static_cast<uint32_t>(row_block) * grid.column_blocks;
    const int64_t first_column = static_cast<int64_t>(column_block) * grid.width;
    base = row_block * grid.rows_per_block * grid.columns + first_column;
    const uint32_t columns = bounded(grid.columns, kMostPlaces);
    const uint32_t lane = thread & (grid.width - 1);
    column = first_column + lane;
    place = thread / grid.width * columns + lane;
    step = kThreads / grid.width * columns;
    const uint32_t places =
        column < grid.columns
            ? bounded(grid.rows_per_block * grid.columns - first_column, kMostPlaces)
            : 0;
    whole = bounded(grid.groups - base, places);
    end = bounded(grid.groups + 1 - base, places);  // a cut group comes after the whole ones
  }

  static FD_HD uint32_t bounded(int64_t value, uint32_t most) {
    return value < 0 ? 0 : value < most ? static_cast<uint32_t>(value) : most;
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

// Enough for several waves of blocks on the largest GPUs.
constexpr int64_t kManyBlocks = 1024;

// `most_rows` of memory to a thread where there is enough work. Depends on the shape alone.
inline Grid grid_for(const Layout& layout, int64_t most_rows) {
  Grid grid;
  grid.groups = layout.numel / kGroup;
  grid.columns = divide_up(layout.period, kGroup);
  const int64_t rows = layout.rows();
  grid.width = 32;
  const bool far = grid.columns * kThreads > kMostPlaces;  // rows are
  while (grid.width < kThreads &&
         (far || (kThreads / grid.width > rows && grid.width < grid.columns))) {
    grid.width *= 2;
  }
  grid.column_blocks = static_cast<uint32_t>(divide_up(grid.columns, grid.width));
  const int64_t threads_deep = kThreads / grid.width;
  grid.rows_per_block = threads_deep * most_rows;
  while (grid.rows_per_block > threads_deep &&
         (divide_up(rows, grid.rows_per_block) * grid.column_blocks < kManyBlocks ||
          grid.rows_per_block * grid.columns > kMostPlaces)) {
    grid.rows_per_block /= 2;
  }
  return grid;
}
inline int64_t row_blocks(const Layout& layout, const Grid& grid) {
  return divide_up(layout.rows(), grid.rows_per_block);
}

inline Grid forward_grid(const Layout& layout) { return grid_for(layout, /*most_rows=*/4); }

inline Grid backward_grid(const Layout& layout) {
  constexpr int64_t kMostPartials = 512;  // unless there were too few blocks
  Grid grid = grid_for(layout, /*most_rows=*/16);
  while (row_blocks(layout, grid) > kMostPartials &&
         row_blocks(layout, grid) * grid.column_blocks > 4 * kManyBlocks &&
         2 * grid.rows_per_block * grid.columns <= kMostPlaces) {
    grid.rows_per_block *= 2;
  }
  return grid;
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
