// How DropBlock cuts tensors into tiles, one for a thread block.
#pragma once

#include <numeric>

#include "cuda/drop_block.h"

namespace fused_dropout::cuda {

// Decisions are bits of words of 32. Where a place has one decision, a word has 32 places of a row,
// which lies along the fastest axis. Where a place has more, a word has 32 of these, and a tile one
// word of each of its places.
constexpr int kWordBits = 32;

// A part of an axis of `size` places, and the seeds whose blocks reach into it.
struct Cut {
  int size = 1, block = 1, seeds = 1;
  int tile = 1;  // places, at most; the size where the axis is not cut

  FD_HD int tiles() const { return (size + tile - 1) / tile; }
};

// A tile is `volumes` whole volumes, or a part of one: an interval of places in memory order.
struct Tiles {
  int64_t volumes, places, volume_seeds;
  int volumes_each;
  Cut axes[3];  // slowest first; the last is the fastest
  int64_t inner, run, copies, volume_stride, copy_stride;
  int words_of_inner;  // tiles side by side at one place; 1 where a word is a part of a row
  uint32_t keep_count;
  int length;  // words that every stage of a mask fits into

  FD_HD bool in_rows() const { return inner == 1; }
  FD_HD int64_t volume_tiles() const { return (volumes + volumes_each - 1) / volumes_each; }
  FD_HD int64_t count() const {
    return volume_tiles() * axes[0].tiles() * axes[1].tiles() * axes[2].tiles() * words_of_inner;
  }
  int most_places() const { return volumes_each * axes[0].tile * axes[1].tile * axes[2].tile; }
  int shared_bytes() const { return 2 * length * static_cast<int>(sizeof(uint32_t)); }

  explicit Tiles(const drop_block::Geometry& geometry);

 private:
  int words() const;
  bool shrink(int axis);
};

// Words for one stage of a mask; two stages leave room for several thread blocks on a processor.
constexpr int kMostWords = 5632, kUsualWords = 2048;
constexpr int kUsualPlaces = 8192;

inline int Tiles::words() const {
  int64_t words = volumes_each;
  for (int i = 0; i < 3; ++i) {
    const Cut& axis = axes[i];
    const int64_t reach = axis.tile < axis.size ? axis.tile + axis.block - 1 : axis.size;
    words *= i == 2 && in_rows() ? divide_up(reach, kWordBits) : reach;
  }
  return words < INT32_MAX ? static_cast<int>(words) : INT32_MAX;
}

// Cuts an axis so that a tile has not too many words, and whole groups of eight places if it can.
// The axes before have been cut to single places. False where that is not enough.
inline bool Tiles::shrink(int axis) {
  Cut& cut = axes[axis];
  int64_t step = axis == 2 ? (in_rows() ? kWordBits : 1) : 1;
  int64_t behind = 1;
  for (int i = axis + 1; i < 3; ++i) behind *= axes[i].size;
  step = std::lcm(step, 8 / std::gcd<int64_t>(behind, 8));
  int low = 0, high = static_cast<int>(cut.size / step);  // in steps; low is small enough
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    cut.tile = static_cast<int>(middle * step);
    words() <= kMostWords ? low = middle : high = middle - 1;
  }
  cut.tile = low > 0 ? static_cast<int>(low * step) : 1;
  return words() <= kMostWords;
}

inline Tiles::Tiles(const drop_block::Geometry& geometry)
    : volumes(geometry.volumes),
      places(geometry.axes[0].size * geometry.axes[1].size * geometry.axes[2].size),
      volume_seeds(geometry.seeds()),
      volumes_each(1),
      inner(geometry.inner),
      run(geometry.run),
      copies(geometry.copies),
      volume_stride(geometry.volume_stride),
      copy_stride(geometry.copy_stride),
      words_of_inner(geometry.inner == 1 ? 1
                                         : static_cast<int>(divide_up(geometry.inner, kWordBits))),
      keep_count(geometry.keep_count) {
  for (int i = 0; i < geometry.ndim; ++i) {
    const drop_block::Axis& from = geometry.axes[i];
    Cut& axis = axes[3 - geometry.ndim + i];
    axis.size = axis.tile = static_cast<int>(from.size);
    axis.block = static_cast<int>(from.block);
    axis.seeds = static_cast<int>(from.seeds());
  }
  if (words() > kMostWords) {
    for (int axis = 0; axis < 3 && !shrink(axis); ++axis) {
    }
  } else if (volume_stride == places * inner * run && in_rows()) {
    // Several small volumes, that lie one after the other.
    const int64_t one = words(), step = 8 / std::gcd<int64_t>(places, 8);
    const int64_t most = std::min(kUsualWords / one, kUsualPlaces / places);
    volumes_each = static_cast<int>(std::min(most >= step ? most / step * step : 1, volumes));
  }
  length = words();
}

}  // namespace fused_dropout::cuda
