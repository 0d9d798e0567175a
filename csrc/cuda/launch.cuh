// From a call's arguments to a kernel and the shape of its grid.
#pragma once

#include "kernels.cuh"

// A build without nvcc (tests/cuda) brings its own.
#if !defined(FD_LAUNCH)
#define FD_LAUNCH(kernel, blocks, threads, stream, ...) \
  kernel<<<static_cast<unsigned>(blocks), threads, 0, stream>>>(__VA_ARGS__)
#endif

namespace fused_dropout::cuda {

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

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

inline bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % sizeof(Words4) == 0;
}

template <class T, class Y, template <class> class Functor>
void forward_with(const ForwardArgs& args, Stream stream) {
  const Grid grid = forward_grid(args.layout);
  const int64_t blocks = row_blocks(args.layout, grid) * grid.column_blocks;
  if constexpr (!std::is_same_v<T, double>) {
    if (is_aligned(args.x) && is_aligned(args.residual) && is_aligned(args.y) &&
        is_vectorisable(args.mask)) {
      FD_LAUNCH((forward_kernel<T, Y, Functor, true>), blocks, kThreads, stream, args, grid);
      return;
    }
  }
  FD_LAUNCH((forward_kernel<T, Y, Functor, false>), blocks, kThreads, stream, args, grid);
}

template <class T, class DY, template <class> class Functor>
void backward_with(const BackwardArgs& args, Stream stream) {
  const Grid grid = backward_grid(args.layout);
  const int64_t blocks = row_blocks(args.layout, grid) * grid.column_blocks;
  if constexpr (!std::is_same_v<T, double>) {
    if (is_aligned(args.dy) && is_aligned(args.x) && is_aligned(args.dx) &&
        is_vectorisable(args.mask)) {
      FD_LAUNCH((backward_kernel<T, DY, Functor, true>), blocks, kThreads, stream, args, grid);
      return;
    }
  }
  FD_LAUNCH((backward_kernel<T, DY, Functor, false>), blocks, kThreads, stream, args, grid);
}

template <class T, class Y>
void forward_of(ForwardArgs args, int activation, Stream stream) {
  args.has_residual = args.residual != nullptr;
  using Launch = void (*)(const ForwardArgs&, Stream);
  static constexpr Launch kLaunches[] = {
#define FD_ROW(Functor, name) forward_with<T, Y, Functor>,
      FD_FOR_EACH_ACTIVATION(FD_ROW)
#undef FD_ROW
  };
  kLaunches[activation](args, stream);
}

template <class T, class DY>
void backward_of(const BackwardArgs& args, int activation, Stream stream) {
  using Launch = void (*)(const BackwardArgs&, Stream);
  static constexpr Launch kLaunches[] = {
#define FD_ROW(Functor, name) backward_with<T, DY, Functor>,
      FD_FOR_EACH_ACTIVATION(FD_ROW)
#undef FD_ROW
  };
  kLaunches[activation](args, stream);
}

// One translation unit for each pair of types.
#define FD_FOR_EACH_TYPES(X) \
  X(float, float)            \
  X(double, double)          \
  X(Half, Half)              \
  X(Half, float)             \
  X(BFloat16, BFloat16)      \
  X(BFloat16, float)

#define FD_DECLARE(T, Y)                                           \
  extern template void forward_of<T, Y>(ForwardArgs, int, Stream); \
  extern template void backward_of<T, Y>(const BackwardArgs&, int, Stream);
#if !defined(FD_INSTANTIATES)
FD_FOR_EACH_TYPES(FD_DECLARE)
#endif
#undef FD_DECLARE
#define FD_INSTANTIATE(T, Y)                                \
  template void forward_of<T, Y>(ForwardArgs, int, Stream); \
  template void backward_of<T, Y>(const BackwardArgs&, int, Stream);

}  // namespace fused_dropout::cuda
