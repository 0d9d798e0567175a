// The DropBlock kernels. Each thread block computes the mask of a tile, and then counts the kept
// elements or applies the mask.
#pragma once

#include "cuda/device/launch.cuh"
#include "cuda/device/operands.cuh"
#include "cuda/kernels/drop_block_mask.cuh"

namespace fused_dropout::cuda {

template <class T, bool kVectorised>
FD_HD void apply_group(const T* x, T* y, int count, uint32_t dropped,
                       typename Arithmetic<T>::Scalar scale) {
  using C = typename Arithmetic<T>::Scalar;
  C values[kGroup];
  if constexpr (kVectorised) {
    Packed<T> packed;
    packed.load(x);
    packed.widen_to(values);
  } else {
    Elementwise<T>::load(x, count, values);
  }
#pragma unroll
  for (int k = 0; k < kGroup; ++k) {
    values[k] = drop_block::element(values[k], (dropped >> k & 1u) == 0, scale);
  }
  if constexpr (kVectorised) {
    Packed<T>::store(y, values);
  } else {
    Elementwise<T>::store(y, count, values);
  }
}

// The mask of the `count` elements from `element` on, if `run` neighbours share each decision.
__device__ inline uint32_t dropped_in_runs(const TileMask& mask, int64_t element, int count,
                                           int64_t run) {
  int position = static_cast<int>(element / run);
  int64_t remaining = (position + 1) * run - element;  // elements until the next decision
  uint32_t dropped = 0;
  for (int k = 0; k < count; ++k) {
    dropped |= (mask.word(position / kWordBits) >> position % kWordBits & 1u) << k;
    if (--remaining == 0) {
      ++position;
      remaining = run;
    }
  }
  return dropped;
}

template <class T, bool kVectorised>
__global__ void __launch_bounds__(kDropBlockThreads)
    drop_block_apply_kernel(const DropBlockArgs args, const Tiling tiling, int64_t numel) {
  using C = typename Arithmetic<T>::Scalar;
  FD_DYNAMIC_SHARED(shared);
  const uint32_t number = blockIdx.x / static_cast<uint32_t>(tiling.copies);
  const int64_t copy = blockIdx.x - number * static_cast<uint32_t>(tiling.copies);
  const Tile tile(tiling, number);
  const TileMask mask(tiling, tile, args.random, static_cast<uint32_t*>(shared));
  const C scale = args.kept ? static_cast<C>(drop_block::scale_of(numel, *args.kept)) : C(1);
  const int64_t first = tile.first_element(tiling) + copy * tiling.copy_stride;
  const T* x = static_cast<const T*>(args.x) + first;
  T* y = static_cast<T*>(args.y) + first;
  const int positions = tile.positions();
  if (tiling.packs_rows()) {
    const int64_t elements = positions * tiling.run;
#pragma unroll 1
    for (int64_t i = threadIdx.x; i * kGroup < elements; i += kDropBlockThreads) {
      const int64_t element = i * kGroup;
      const int count = count_in_group(elements - element);
      const uint32_t dropped = tiling.run == 1
                                   ? mask.word(static_cast<int>(i / 4)) >> (i % 4 * kGroup)
                                   : dropped_in_runs(mask, element, count, tiling.run);
      if (kVectorised && count == kGroup) {
        apply_group<T, kVectorised>(x + element, y + element, count, dropped, scale);
      } else {
        apply_group<T, false>(x + element, y + element, count, dropped, scale);
      }
    }
  } else {
    constexpr int kGroups = kWordBits / kGroup;
#pragma unroll 1
    for (int i = threadIdx.x; i < positions * kGroups; i += kDropBlockThreads) {
      const int position = i / kGroups, first_bit = i % kGroups * kGroup;
      const int64_t element = position * tiling.inner + first_bit;
      const int count = count_in_group(tile.decisions_per_position - first_bit);
      const uint32_t dropped = mask.word(position) >> first_bit;
      if (kVectorised && count == kGroup) {
        apply_group<T, kVectorised>(x + element, y + element, count, dropped, scale);
      } else {
        apply_group<T, false>(x + element, y + element, count, dropped, scale);
      }
    }
  }
}

static __global__ void __launch_bounds__(kDropBlockThreads)
    drop_block_count_kernel(const RandomState random, const Tiling tiling,
                            int64_t elements_per_decision, unsigned long long* total_kept) {
  FD_DYNAMIC_SHARED(shared);
  __shared__ int total;
  if (threadIdx.x == 0) total = 0;  // TileMask has a barrier before the first addition
  const Tile tile(tiling, blockIdx.x);
  const TileMask mask(tiling, tile, random, static_cast<uint32_t*>(shared));
  int dropped = 0;
  for (int i = threadIdx.x; i < mask.words(); i += kDropBlockThreads) {
    dropped += bit_count(mask.word(i));
  }
  atomicAdd(&total, dropped);
  __syncthreads();
  if (threadIdx.x != 0) return;
  const int64_t kept = tile.positions() * tile.decisions_per_position - total;
  // A sum of integers does not depend on the order of the additions.
  atomicAdd(total_kept, static_cast<unsigned long long>(kept * elements_per_decision));
}

// True if every group of eight elements starts at an address that is aligned to 16 bytes.
inline bool is_vectorisable(const DropBlockArgs& args, const Tiling& tiling) {
  if (!are_aligned(args.x, args.y)) return false;
  const auto has_full_groups = [](int64_t elements) { return elements % kGroup == 0; };
  if (!tiling.packs_rows() && !has_full_groups(tiling.inner)) return false;
  if (tiling.copies > 1 && !has_full_groups(tiling.copy_stride)) return false;
  if (tiling.volume_tiles() > 1 && !has_full_groups(tiling.volumes_per_tile * tiling.volume_stride))
    return false;
  int64_t step = tiling.inner * tiling.run;
  for (int i = 2; i >= 0; --i) {
    const TiledAxis& axis = tiling.axes[i];
    if (axis.tiles() > 1 && !has_full_groups(axis.tile * step)) return false;
    step *= axis.size;
  }
  return true;
}

template <class T>
void drop_block_apply_of(const DropBlockArgs& args, Stream stream) {
  const Tiling tiling(args.geometry);
  const int64_t blocks = tiling.count() * tiling.copies;
  if constexpr (kCanVectorise<T>) {
    if (is_vectorisable(args, tiling)) {
      FD_LAUNCH_SHARED((drop_block_apply_kernel<T, true>), blocks, kDropBlockThreads,
                       tiling.shared_bytes(), stream, args, tiling, args.geometry.numel());
      return;
    }
  }
  FD_LAUNCH_SHARED((drop_block_apply_kernel<T, false>), blocks, kDropBlockThreads,
                   tiling.shared_bytes(), stream, args, tiling, args.geometry.numel());
}

}  // namespace fused_dropout::cuda
