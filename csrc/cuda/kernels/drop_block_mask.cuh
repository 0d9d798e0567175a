// The mask of one DropBlock tile, computed by a thread block. The threads draw the seeds of the
// tile as bits of 32-bit words and dilate them by the block size, one axis after the other. All
// operations work on full words, so that the time does not depend on the number of seeds.
#pragma once

#include "cuda/device/mask.cuh"
#include "cuda/drop_block_tiles.h"

namespace fused_dropout::cuda {

constexpr int kDropBlockThreads = 256;

// The interval of a tile along an axis.
struct TileSpan {
  int first, positions;
  int first_seed, seeds;  // the seeds whose blocks reach into the tile
  TileSpan() = default;
  FD_HD TileSpan(const TiledAxis& axis, int tile) {
    first = tile * axis.tile;
    positions = axis.size - first < axis.tile ? axis.size - first : axis.tile;
    first_seed = first < axis.block_size ? 0 : first - axis.block_size + 1;
    const int last = first + positions < axis.seeds ? first + positions : axis.seeds;
    seeds = last > first_seed ? last - first_seed : 0;
  }
};

FD_HD int bit_count(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __popc(bits);
#else
  return __builtin_popcount(bits);
#endif
}

FD_HD uint32_t low_bits(int count) { return count >= kWordBits ? ~0u : (1u << count) - 1u; }

// The `count` bits of a row of words from `bit` on. Bits past the end of the row are undefined.
FD_HD uint32_t bits_at(const uint32_t* row, int bit, int count) {
  const int word = bit / kWordBits, shift = bit % kWordBits;
  uint64_t both = row[word];
  if (shift + count > kWordBits) both |= static_cast<uint64_t>(row[word + 1]) << kWordBits;
  return static_cast<uint32_t>(both >> shift) & low_bits(count);
}

// One tile: a box of positions, and the decisions of a position that one word holds.
struct Tile {
  int64_t volume;  // the first one
  int volumes;
  TileSpan axes[3];
  int64_t first_inner;  // the first of the tile's decisions at each position
  int decisions_per_position;

  FD_HD Tile(const Tiling& tiling, uint32_t number) {
    const uint32_t word = number % tiling.inner_words;
    number /= tiling.inner_words;
#pragma unroll
    for (int i = 2; i >= 0; --i) {
      const uint32_t count = tiling.axes[i].tiles();
      axes[i] = TileSpan(tiling.axes[i], static_cast<int>(number % count));
      number /= count;
    }
    volume = static_cast<int64_t>(number) * tiling.volumes_per_tile;
    const int64_t remaining = tiling.volumes - volume;
    volumes =
        remaining < tiling.volumes_per_tile ? static_cast<int>(remaining) : tiling.volumes_per_tile;
    first_inner = static_cast<int64_t>(word) * kWordBits;
    const int64_t decisions = tiling.inner - first_inner;
    decisions_per_position = decisions < kWordBits ? static_cast<int>(decisions) : kWordBits;
  }

  FD_HD int positions() const {
    return volumes * axes[0].positions * axes[1].positions * axes[2].positions;
  }
  // The offset in memory of the tile's first element, in the first of the copies.
  FD_HD int64_t first_element(const Tiling& tiling) const {
    const int64_t position =
        (static_cast<int64_t>(axes[0].first) * tiling.axes[1].size + axes[1].first) *
            tiling.axes[2].size +
        axes[2].first;
    return volume * tiling.volume_stride + (position * tiling.inner + first_inner) * tiling.run;
  }
};

// One bit for each of `count` <= 32 mask indices from `index` on, set if a seed is drawn.
FD_HD uint32_t seed_word(const PhiloxState& state, uint32_t keep_count, int64_t index, int count) {
  uint64_t bits = 0;
  const int slot = slot_of(index);
#pragma unroll 1
  for (int done = 0; done < slot + count; done += kGroup) {
    const PhiloxWords<uint32_t> draws = group_bits(state, group_of(index + done));
    uint32_t seeds = 0;
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      seeds |= static_cast<uint32_t>(drop_block::is_seed(draw_of(draws, k), keep_count)) << k;
    }
    bits |= static_cast<uint64_t>(seeds) << done;
  }
  return static_cast<uint32_t>(bits >> slot) & low_bits(count);
}

// Computes the mask of a tile with all threads of a block. Each step reads one buffer in shared
// memory and writes the other.
class TileMask {
 public:
  __device__ TileMask(const Tiling& tiling, const Tile& tile, const RandomState& random,
                      uint32_t* buffers)
      : tiling_(tiling), tile_(tile), from_(buffers), to_(buffers + tiling.length) {
    draw(resolve(random));
    if (tiling.packs_rows()) {
      dilate_rows();
    } else {
      dilate_axis(2, 1);
    }
    const int columns = tiling.packs_rows() ? row_words() : tile.axes[2].positions;
    dilate_axis(1, columns);
    dilate_axis(0, tile.axes[1].positions * columns);
    if (tiling.packs_rows()) pack_rows();
  }

  // Set bits are dropped. A word has the bits of 32 positions, or those of one position.
  __device__ uint32_t word(int i) const { return from_[i]; }
  __device__ int words() const {
    const int positions = tile_.positions();
    return tiling_.packs_rows() ? (positions + kWordBits - 1) / kWordBits : positions;
  }

 private:
  // Words for a row of seeds and the positions that their blocks reach.
  __device__ int row_words() const {
    const TileSpan& axis = tile_.axes[2];
    return (axis.first - axis.first_seed + axis.positions + kWordBits - 1) / kWordBits;
  }

  // Ends a step.
  __device__ void swap() {
    __syncthreads();
    uint32_t* const other = from_;
    from_ = to_;
    to_ = other;
  }

  // Draws the seeds.
  __device__ void draw(const PhiloxState& state) {
    const TileSpan& axis0 = tile_.axes[0];
    const TileSpan& axis1 = tile_.axes[1];
    const TileSpan& axis2 = tile_.axes[2];
    const bool rows = tiling_.packs_rows();
    const int columns = rows ? row_words() : axis2.seeds;
    const int count = tile_.volumes * axis0.seeds * axis1.seeds * columns;
#pragma unroll 1
    for (int i = threadIdx.x; i < count; i += kDropBlockThreads) {
      const int row = i / columns, column = i - row * columns;
      const int plane = row / axis1.seeds, volume = plane / axis0.seeds;
      const int64_t position0 = axis0.first_seed + (plane - volume * axis0.seeds);
      const int64_t position1 = axis1.first_seed + (row - plane * axis1.seeds);
      const int64_t position2 = axis2.first_seed + (rows ? column * kWordBits : column);
      const int64_t position =
          (position0 * tiling_.axes[1].seeds + position1) * tiling_.axes[2].seeds + position2;
      const int64_t index = (tile_.volume + volume) * tiling_.volume_seeds +
                            position * tiling_.inner + tile_.first_inner;
      const int remaining = rows ? axis2.seeds - column * kWordBits : tile_.decisions_per_position;
      const int seeds = remaining < kWordBits ? remaining : kWordBits;
      to_[i] = seeds > 0 ? seed_word(state, tiling_.keep_count, index, seeds) : 0;
    }
    swap();
  }

  // Dilates along rows that are packed into words, by up to 32 positions in a step.
  __device__ void dilate_rows() {
    const int columns = row_words();
    const int count = tile_.volumes * tile_.axes[0].seeds * tile_.axes[1].seeds * columns;
#pragma unroll 1
    for (int remaining = tiling_.axes[2].block_size - 1; remaining > 0; remaining -= kWordBits) {
      const int reach = remaining < kWordBits ? remaining : kWordBits;
#pragma unroll 1
      for (int i = threadIdx.x; i < count; i += kDropBlockThreads) {
        uint64_t bits = static_cast<uint64_t>(from_[i]) << kWordBits;
        if (i % columns > 0) bits |= from_[i - 1];
        int reached = 0;
        for (; 2 * reached + 1 <= reach; reached = 2 * reached + 1) bits |= bits << (reached + 1);
        bits |= bits << (reach - reached);
        to_[i] = static_cast<uint32_t>(bits >> kWordBits);
      }
      swap();
    }
  }

  // Dilates along an axis with `columns` words for each of its positions.
  __device__ void dilate_axis(int axis, int columns) {
    const TileSpan& span = tile_.axes[axis];
    const int block_size = tiling_.axes[axis].block_size;
    if (block_size == 1) return;
    int count = tile_.volumes * span.positions * columns;
    for (int before = 0; before < axis; ++before) count *= tile_.axes[before].seeds;
#pragma unroll 1
    for (int i = threadIdx.x; i < count; i += kDropBlockThreads) {
      const int row = i / columns, outer = row / span.positions;
      const int position = span.first - span.first_seed + (row - outer * span.positions);
      const int first = position < block_size ? 0 : position - block_size + 1;
      const int last = position < span.seeds ? position : span.seeds - 1;
      const uint32_t* source = from_ + (outer * span.seeds) * columns + (i - row * columns);
      uint32_t bits = 0;
#pragma unroll 1
      for (int seed = first; seed <= last; ++seed) bits |= source[seed * columns];
      to_[i] = bits;
    }
    swap();
  }

  // Repacks the words of each row into words of positions in memory order.
  __device__ void pack_rows() {
    const TileSpan& axis = tile_.axes[2];
    const int columns = row_words(), positions = tile_.positions();
    const int shift = axis.first - axis.first_seed;
#pragma unroll 1
    for (int i = threadIdx.x; i < words(); i += kDropBlockThreads) {
      const int remaining = positions - i * kWordBits;
      const int wanted = remaining < kWordBits ? remaining : kWordBits;
      int row = i * kWordBits / axis.positions, position = i * kWordBits - row * axis.positions;
      uint32_t bits = 0;
#pragma unroll 1
      for (int done = 0; done < wanted; ++row, position = 0) {
        const int in_row = axis.positions - position;
        const int taken = in_row < wanted - done ? in_row : wanted - done;
        bits |= bits_at(from_ + row * columns, shift + position, taken) << done;
        done += taken;
      }
      to_[i] = bits;
    }
    swap();
  }

  const Tiling& tiling_;
  const Tile& tile_;
  uint32_t* from_;
  uint32_t* to_;
};

}  // namespace fused_dropout::cuda
