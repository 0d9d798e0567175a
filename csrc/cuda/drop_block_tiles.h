// How DropBlock divides a tensor into tiles. Each thread block handles one tile.
#pragma once

#include <numeric>

#include "cuda/drop_block.h"

namespace fused_dropout::cuda {

// The kernels keep the mask as bits of 32-bit words. With one decision per position, a word packs
// 32 positions of a row, which lies along the fastest axis. With several decisions per position, a
// word holds 32 decisions of one position, and a tile has one word of each of its positions.
constexpr int kWordBits = 32;

// One spatial axis, divided into tiles.
struct TiledAxis {
  int size = 1, block_size = 1, seeds = 1;
  int tile = 1;  // positions in a tile, at most; `size` if the axis is not divided

  FD_HD int tiles() const { return (size + tile - 1) / tile; }
};

// A tile has `volumes_per_tile` full volumes, or a box of one volume whose positions are contiguous
// in memory.
struct Tiling {
  int64_t volumes, positions, volume_seeds;
  int volumes_per_tile;
  TiledAxis axes[3];  // the slowest first
  int64_t inner, run, copies, volume_stride, copy_stride;
  int inner_words;  // words for the decisions of one position; 1 if a word packs positions of a row
  uint32_t keep_count;
  int length;  // words of the mask of a tile, at most, in every step of its computation

  FD_HD bool packs_rows() const { return inner == 1; }
  FD_HD int64_t volume_tiles() const { return (volumes + volumes_per_tile - 1) / volumes_per_tile; }
  FD_HD int64_t count() const {
    return volume_tiles() * axes[0].tiles() * axes[1].tiles() * axes[2].tiles() * inner_words;
  }
  int shared_bytes() const { return 2 * length * static_cast<int>(sizeof(uint32_t)); }

  explicit Tiling(const drop_block::Geometry& geometry);

 private:
  int words() const;
  bool shrink(int axis);
};

// Limits for the words of one mask. Two masks of kMaxWords leave shared memory for several thread
// blocks on a multiprocessor. Tiles of several volumes have at most kTargetWords words and
// kTargetPositions positions.
constexpr int kMaxWords = 5632, kTargetWords = 2048;
constexpr int kTargetPositions = 8192;

inline int Tiling::words() const {
  int64_t words = volumes_per_tile;
  for (int i = 0; i < 3; ++i) {
    const TiledAxis& axis = axes[i];
    const int64_t reach = axis.tile < axis.size ? axis.tile + axis.block_size - 1 : axis.size;
    words *= i == 2 && packs_rows() ? divide_up(reach, kWordBits) : reach;
  }
  return words < INT32_MAX ? static_cast<int>(words) : INT32_MAX;
}

// Divides an axis so that the mask of a tile has at most kMaxWords words, if possible with a
// multiple of eight positions in a tile. The slower axes have been divided into single positions
// before. Returns false if this axis alone does not suffice.
inline bool Tiling::shrink(int axis) {
  TiledAxis& shrunk = axes[axis];
  int64_t step = axis == 2 ? (packs_rows() ? kWordBits : 1) : 1;
  int64_t faster_positions = 1;
  for (int i = axis + 1; i < 3; ++i) faster_positions *= axes[i].size;
  step = std::lcm(step, 8 / std::gcd<int64_t>(faster_positions, 8));
  int low = 0, high = static_cast<int>(shrunk.size / step);  // in steps; `low` is small enough
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    shrunk.tile = static_cast<int>(middle * step);
    words() <= kMaxWords ? low = middle : high = middle - 1;
  }
  shrunk.tile = low > 0 ? static_cast<int>(low * step) : 1;
  return words() <= kMaxWords;
}

inline Tiling::Tiling(const drop_block::Geometry& geometry)
    : volumes(geometry.volumes),
      positions(geometry.axes[0].size * geometry.axes[1].size * geometry.axes[2].size),
      volume_seeds(geometry.seeds()),
      volumes_per_tile(1),
      inner(geometry.inner),
      run(geometry.run),
      copies(geometry.copies),
      volume_stride(geometry.volume_stride),
      copy_stride(geometry.copy_stride),
      inner_words(geometry.inner == 1 ? 1 : static_cast<int>(divide_up(geometry.inner, kWordBits))),
      keep_count(geometry.keep_count) {
  for (int i = 0; i < geometry.ndim; ++i) {
    const drop_block::Axis& from = geometry.axes[i];
    TiledAxis& axis = axes[3 - geometry.ndim + i];
    axis.size = axis.tile = static_cast<int>(from.size);
    axis.block_size = static_cast<int>(from.block);
    axis.seeds = static_cast<int>(from.seeds());
  }
  if (words() > kMaxWords) {
    for (int axis = 0; axis < 3 && !shrink(axis); ++axis) {
    }
  } else if (volume_stride == positions * inner * run && packs_rows()) {
    // Small volumes that are contiguous in memory share a tile.
    const int64_t volume_words = words(), step = 8 / std::gcd<int64_t>(positions, 8);
    const int64_t most = std::min(kTargetWords / volume_words, kTargetPositions / positions);
    volumes_per_tile = static_cast<int>(std::min(most >= step ? most / step * step : 1, volumes));
  }
  length = words();
}

}  // namespace fused_dropout::cuda
