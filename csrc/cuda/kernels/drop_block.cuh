// The DropBlock kernels. A thread block draws the seeds of its tile, a word of bits at a time, lets
// each reach as far as its block does, one axis after the other, and then counts what is kept or
// applies it. All of it is done for whole words, so that it takes the same time for any number of
// seeds.
#pragma once

#include "cuda/device/launch.cuh"
#include "cuda/device/mask.cuh"
#include "cuda/device/operands.cuh"
#include "cuda/drop_block_tiles.h"

namespace fused_dropout::cuda {

constexpr int kDropBlockThreads = 256;

// A tile's place along an axis.
struct Span {
  int first, places;      // of the tile
  int first_seed, seeds;  // whose blocks reach into it
  Span() = default;
  FD_HD Span(const Cut& cut, int tile) {
    first = tile * cut.tile;
    places = cut.size - first < cut.tile ? cut.size - first : cut.tile;
    first_seed = first < cut.block ? 0 : first - cut.block + 1;
    const int last = first + places < cut.seeds ? first + places : cut.seeds;
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

// `count` bits from one of a row of words on; those behind the row may hold anything.
FD_HD uint32_t bits_at(const uint32_t* row, int bit, int count) {
  const int word = bit / kWordBits, shift = bit % kWordBits;
  uint64_t both = row[word];
  if (shift + count > kWordBits) both |= static_cast<uint64_t>(row[word + 1]) << kWordBits;
  return static_cast<uint32_t>(both >> shift) & low_bits(count);
}

struct Tile {
  int64_t volume;  // the first one
  int volumes;
  Span axes[3];
  int64_t first_inner;
  int decisions_each;  // of a place

  FD_HD Tile(const Tiles& tiles, uint32_t number) {
    const uint32_t word = number % tiles.words_of_inner;
    number /= tiles.words_of_inner;
#pragma unroll
    for (int i = 2; i >= 0; --i) {
      const uint32_t count = tiles.axes[i].tiles();
      axes[i] = Span(tiles.axes[i], static_cast<int>(number % count));
      number /= count;
    }
    volume = static_cast<int64_t>(number) * tiles.volumes_each;
    const int64_t left = tiles.volumes - volume;
    volumes = left < tiles.volumes_each ? static_cast<int>(left) : tiles.volumes_each;
    first_inner = static_cast<int64_t>(word) * kWordBits;
    const int64_t rest = tiles.inner - first_inner;
    decisions_each = rest < kWordBits ? static_cast<int>(rest) : kWordBits;
  }

  FD_HD int places() const { return volumes * axes[0].places * axes[1].places * axes[2].places; }
  // In memory, of the copy that comes first.
  FD_HD int64_t first_element(const Tiles& tiles) const {
    const int64_t place =
        (static_cast<int64_t>(axes[0].first) * tiles.axes[1].size + axes[1].first) *
            tiles.axes[2].size +
        axes[2].first;
    return volume * tiles.volume_stride + (place * tiles.inner + first_inner) * tiles.run;
  }
};

// A bit for each of `count` <= 32 seeds from a mask index on.
FD_HD uint32_t seed_word(const PhiloxState& state, uint32_t keep_count, int64_t index, int count) {
  uint64_t bits = 0;
  const int lane = slot_of(index);
#pragma unroll 1
  for (int done = 0; done < lane + count; done += kGroup) {
    const PhiloxWords<uint32_t> draws = group_bits(state, group_of(index + done));
    uint32_t seeds = 0;
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      seeds |= static_cast<uint32_t>(drop_block::is_seed(draw_of(draws, k), keep_count)) << k;
    }
    bits |= static_cast<uint64_t>(seeds) << done;
  }
  return static_cast<uint32_t>(bits >> lane) & low_bits(count);
}

// The mask of a tile, made by all threads of a block together in two buffers in turn.
class TileMask {
 public:
  __device__ TileMask(const Tiles& tiles, const Tile& tile, const RandomState& random,
                      uint32_t* buffers)
      : tiles_(tiles), tile_(tile), from_(buffers), to_(buffers + tiles.length) {
    draw(resolve(random));
    if (tiles.in_rows()) {
      reach_in_rows();
    } else {
      reach_along(2, 1);
    }
    const int columns = tiles.in_rows() ? row_words() : tile.axes[2].places;
    reach_along(1, columns);
    reach_along(0, tile.axes[1].places * columns);
    if (tiles.in_rows()) join_rows();
  }

  // A bit is set where dropped: of 32 places, or of one place.
  __device__ uint32_t word(int i) const { return from_[i]; }
  __device__ int words() const {
    const int places = tile_.places();
    return tiles_.in_rows() ? (places + kWordBits - 1) / kWordBits : places;
  }

 private:
  // Of a row of seeds and what their blocks reach.
  __device__ int row_words() const {
    const Span& axis = tile_.axes[2];
    return (axis.first - axis.first_seed + axis.places + kWordBits - 1) / kWordBits;
  }

  __device__ void swap() {
    __syncthreads();
    uint32_t* const other = from_;
    from_ = to_;
    to_ = other;
  }

  __device__ void draw(const PhiloxState& state) {
    const Span& axis0 = tile_.axes[0];
    const Span& axis1 = tile_.axes[1];
    const Span& axis2 = tile_.axes[2];
    const bool rows = tiles_.in_rows();
    const int columns = rows ? row_words() : axis2.seeds;
    const int count = tile_.volumes * axis0.seeds * axis1.seeds * columns;
#pragma unroll 1
    for (int i = threadIdx.x; i < count; i += kDropBlockThreads) {
      const int row = i / columns, column = i - row * columns;
      const int plane = row / axis1.seeds, volume = plane / axis0.seeds;
      const int64_t place0 = axis0.first_seed + (plane - volume * axis0.seeds);
      const int64_t place1 = axis1.first_seed + (row - plane * axis1.seeds);
      const int64_t place2 = axis2.first_seed + (rows ? column * kWordBits : column);
      const int64_t place =
          (place0 * tiles_.axes[1].seeds + place1) * tiles_.axes[2].seeds + place2;
      const int64_t index =
          (tile_.volume + volume) * tiles_.volume_seeds + place * tiles_.inner + tile_.first_inner;
      const int left = rows ? axis2.seeds - column * kWordBits : tile_.decisions_each;
      const int seeds = left < kWordBits ? left : kWordBits;
      to_[i] = seeds > 0 ? seed_word(state, tiles_.keep_count, index, seeds) : 0;
    }
    swap();
  }

  // Along the words themselves, as far as one word at a time.
  __device__ void reach_in_rows() {
    const int columns = row_words();
    const int count = tile_.volumes * tile_.axes[0].seeds * tile_.axes[1].seeds * columns;
#pragma unroll 1
    for (int left = tiles_.axes[2].block - 1; left > 0; left -= kWordBits) {
      const int reach = left < kWordBits ? left : kWordBits;
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

  // Along an axis behind each of whose places there are `columns` words.
  __device__ void reach_along(int axis, int columns) {
    const Span& span = tile_.axes[axis];
    const int block = tiles_.axes[axis].block;
    if (block == 1) return;  // as many seeds as places
    int count = tile_.volumes * span.places * columns;
    for (int before = 0; before < axis; ++before) count *= tile_.axes[before].seeds;
#pragma unroll 1
    for (int i = threadIdx.x; i < count; i += kDropBlockThreads) {
      const int row = i / columns, outer = row / span.places;
      const int place = span.first - span.first_seed + (row - outer * span.places);
      const int first = place < block ? 0 : place - block + 1;
      const int last = place < span.seeds ? place : span.seeds - 1;
      const uint32_t* source = from_ + (outer * span.seeds) * columns + (i - row * columns);
      uint32_t bits = 0;
#pragma unroll 1
      for (int seed = first; seed <= last; ++seed) bits |= source[seed * columns];
      to_[i] = bits;
    }
    swap();
  }

  // From words of rows to words of places in memory order.
  __device__ void join_rows() {
    const Span& axis = tile_.axes[2];
    const int columns = row_words(), places = tile_.places();
    const int shift = axis.first - axis.first_seed;
#pragma unroll 1
    for (int i = threadIdx.x; i < words(); i += kDropBlockThreads) {
      const int left = places - i * kWordBits;
      const int wanted = left < kWordBits ? left : kWordBits;
      int row = i * kWordBits / axis.places, place = i * kWordBits - row * axis.places;
      uint32_t bits = 0;
#pragma unroll 1
      for (int done = 0; done < wanted; ++row, place = 0) {
        const int rest = axis.places - place;
        const int some = rest < wanted - done ? rest : wanted - done;
        bits |= bits_at(from_ + row * columns, shift + place, some) << done;
        done += some;
      }
      to_[i] = bits;
    }
    swap();
  }

  const Tiles& tiles_;
  const Tile& tile_;
  uint32_t* from_;
  uint32_t* to_;
};

template <class T, bool kVector>
FD_HD void apply_group(const T* x, T* y, int count, uint32_t dropped,
                       typename Arithmetic<T>::Scalar scale) {
  using C = typename Arithmetic<T>::Scalar;
  C values[kGroup];
  if constexpr (kVector) {
    Packed<T> packed;
    packed.load(x);
    packed.widen_to(values);
  } else {
    Single<T>::load(x, count, values);
  }
#pragma unroll
  for (int k = 0; k < kGroup; ++k) {
    values[k] = drop_block::element(values[k], (dropped >> k & 1u) == 0, scale);
  }
  if constexpr (kVector) {
    Packed<T>::store(y, values);
  } else {
    Single<T>::store(y, count, values);
  }
}

// The decisions about eight elements from one on, where `run` neighbours share each.
__device__ inline uint32_t dropped_in_runs(const TileMask& mask, int64_t element, int count,
                                           int64_t run) {
  int place = static_cast<int>(element / run);
  int64_t left = (place + 1) * run - element;
  uint32_t dropped = 0;
  for (int k = 0; k < count; ++k) {
    dropped |= (mask.word(place / kWordBits) >> place % kWordBits & 1u) << k;
    if (--left == 0) {
      ++place;
      left = run;
    }
  }
  return dropped;
}

template <class T, bool kVector>
__global__ void __launch_bounds__(kDropBlockThreads)
    drop_block_apply_kernel(const DropBlockArgs args, const Tiles tiles, int64_t numel) {
  using C = typename Arithmetic<T>::Scalar;
  FD_DYNAMIC_SHARED(shared);
  const uint32_t number = blockIdx.x / static_cast<uint32_t>(tiles.copies);
  const int64_t copy = blockIdx.x - number * static_cast<uint32_t>(tiles.copies);
  const Tile tile(tiles, number);
  const TileMask mask(tiles, tile, args.random, static_cast<uint32_t*>(shared));
  const C scale = args.kept ? static_cast<C>(drop_block::scale_of(numel, *args.kept)) : C(1);
  const int64_t first = tile.first_element(tiles) + copy * tiles.copy_stride;
  const T* x = static_cast<const T*>(args.x) + first;
  T* y = static_cast<T*>(args.y) + first;
  const int places = tile.places();
  if (tiles.in_rows()) {
    const int64_t elements = places * tiles.run;
#pragma unroll 1
    for (int64_t i = threadIdx.x; i * kGroup < elements; i += kDropBlockThreads) {
      const int64_t element = i * kGroup;
      const int count = count_in_group(elements - element);
      const uint32_t dropped = tiles.run == 1
                                   ? mask.word(static_cast<int>(i / 4)) >> (i % 4 * kGroup)
                                   : dropped_in_runs(mask, element, count, tiles.run);
      if (kVector && count == kGroup) {
        apply_group<T, kVector>(x + element, y + element, count, dropped, scale);
      } else {
        apply_group<T, false>(x + element, y + element, count, dropped, scale);
      }
    }
  } else {
    constexpr int kGroups = kWordBits / kGroup;
#pragma unroll 1
    for (int i = threadIdx.x; i < places * kGroups; i += kDropBlockThreads) {
      const int place = i / kGroups, lane = i % kGroups * kGroup;
      const int64_t element = place * tiles.inner + lane;
      const int count = count_in_group(tile.decisions_each - lane);
      const uint32_t dropped = mask.word(place) >> lane;
      if (kVector && count == kGroup) {
        apply_group<T, kVector>(x + element, y + element, count, dropped, scale);
      } else {
        apply_group<T, false>(x + element, y + element, count, dropped, scale);
      }
    }
  }
}

static __global__ void __launch_bounds__(kDropBlockThreads)
    drop_block_count_kernel(const RandomState random, const Tiles tiles, int64_t elements_each,
                            unsigned long long* total_kept) {
  FD_DYNAMIC_SHARED(shared);
  __shared__ int total;
  if (threadIdx.x == 0) total = 0;  // the mask is made before it is used
  const Tile tile(tiles, blockIdx.x);
  const TileMask mask(tiles, tile, random, static_cast<uint32_t*>(shared));
  int dropped = 0;
  for (int i = threadIdx.x; i < mask.words(); i += kDropBlockThreads) {
    dropped += bit_count(mask.word(i));
  }
  atomicAdd(&total, dropped);
  __syncthreads();
  if (threadIdx.x != 0) return;
  const int64_t kept = tile.places() * tile.decisions_each - total;
  // Sums of integers: the same for any order.
  atomicAdd(total_kept, static_cast<unsigned long long>(kept * elements_each));
}

// Whether every group of eight elements lies where an access of 16 bytes may.
inline bool is_vectorisable(const DropBlockArgs& args, const Tiles& tiles) {
  if (!are_aligned(args.x, args.y)) return false;
  const auto whole = [](int64_t elements) { return elements % kGroup == 0; };
  if (!tiles.in_rows() && !whole(tiles.inner)) return false;
  if (tiles.copies > 1 && !whole(tiles.copy_stride)) return false;
  if (tiles.volume_tiles() > 1 && !whole(tiles.volumes_each * tiles.volume_stride)) return false;
  int64_t step = tiles.inner * tiles.run;
  for (int i = 2; i >= 0; --i) {
    const Cut& axis = tiles.axes[i];
    if (axis.tiles() > 1 && !whole(axis.tile * step)) return false;
    step *= axis.size;
  }
  return true;
}

template <class T>
void drop_block_apply_of(const DropBlockArgs& args, Stream stream) {
  const Tiles tiles(args.geometry);
  const int64_t blocks = tiles.count() * tiles.copies;
  if constexpr (kHasVectors<T>) {
    if (is_vectorisable(args, tiles)) {
      FD_LAUNCH_SHARED((drop_block_apply_kernel<T, true>), blocks, kDropBlockThreads,
                       tiles.shared_bytes(), stream, args, tiles, args.geometry.numel());
      return;
    }
  }
  FD_LAUNCH_SHARED((drop_block_apply_kernel<T, false>), blocks, kDropBlockThreads,
                   tiles.shared_bytes(), stream, args, tiles, args.geometry.numel());
}

}  // namespace fused_dropout::cuda
