// Which elements of a group are kept.
#pragma once

#include "cuda/device/vector_access.cuh"
#include "cuda/launch_types.h"

namespace fused_dropout::cuda {

FD_HD PhiloxState resolve(const RandomState& random) {
  if (!random.indirect) return {random.seed, random.offset};
  return {static_cast<uint64_t>(*random.seed_address),
          static_cast<uint64_t>(*random.offset_address) + random.added_offset};
}

// One thread of a grid writes the state that it has drawn with, for backward.
__device__ inline void write_down(const RandomState& random, const PhiloxState& state) {
  if (!random.written_to || blockIdx.x != 0 || threadIdx.x != 0) return;
  random.written_to[0] = static_cast<int64_t>(state.seed);
  random.written_to[1] = static_cast<int64_t>(state.offset);
}

FD_HD uint32_t draw_of(const PhiloxWords<uint32_t>& bits, int lane) {
  const uint32_t word = lane < 4 ? (lane < 2 ? bits.x : bits.y) : (lane < 6 ? bits.z : bits.w);
  return lane % 2 ? word >> 16 : word & 0xFFFFu;
}

// The decisions about one group, from the bits of one counter.
struct GroupMask {
  PhiloxWords<uint32_t> bits;
  uint32_t threshold;  // keep_count in the upper half

  FD_HD bool operator()(int k) const {
    const uint32_t word = k < 4 ? (k < 2 ? bits.x : bits.y) : (k < 6 ? bits.z : bits.w);
    return (k % 2 ? word : word << 16) < threshold;
  }
};

// Of a mask index, which is not negative: a shift and a mask.
FD_HD int64_t group_of(int64_t index) { return static_cast<uint64_t>(index) / kGroup; }
FD_HD int slot_of(int64_t index) { return static_cast<int>(index) & (kGroup - 1); }

// The mask index of the element at a place in memory.
FD_HD int64_t mask_index(const MaskIndexing& indexing, int64_t position) {
  if (indexing.kind == MaskKind::kMemoryOrder) return indexing.first + position;
  int64_t index = indexing.first;
#pragma unroll 1
  for (int dim = indexing.ndim - 1; dim > 0; --dim) {
    const int64_t size = indexing.sizes[dim];
    const int64_t rest = indexing.by_size[dim].divide(position);
    index += (position - rest * size) * indexing.strides[dim];
    position = rest;
  }
  return index + position * indexing.strides[0];
}

// Whether every aligned group of elements has one draw, or eight of one counter.
inline bool is_vectorisable(const MaskIndexing& indexing) {
  if (indexing.kind == MaskKind::kKeepAll) return true;
  if (indexing.kind == MaskKind::kMemoryOrder) return indexing.first % kGroup == 0;
  const int inner = indexing.ndim - 1;
  if (indexing.sizes[inner] % kGroup != 0) return false;
  if (indexing.strides[inner] == 0) return true;
  bool aligned = indexing.strides[inner] == 1 && indexing.first % kGroup == 0;
  for (int dim = 0; dim < inner; ++dim) aligned = aligned && indexing.strides[dim] % kGroup == 0;
  return aligned;
}

// The decisions about some groups, `step` apart, for a indexing that is vectorisable. All counters
// go through the rounds together: they share the keys, and one waits while another computes.
template <int kCount>
FD_HD void group_masks(const MaskIndexing& indexing, const PhiloxState& state, int64_t group,
                       int64_t step, GroupMask (&masks)[kCount]) {
  if (indexing.kind == MaskKind::kMemoryOrder) {
    const int64_t first = indexing.first / kGroup + group;
#pragma unroll
    for (int u = 0; u < kCount; ++u) {
      masks[u] = {group_counter(state, first + u * step), indexing.threshold};
    }
    uint32_t key0 = static_cast<uint32_t>(state.seed);
    uint32_t key1 = static_cast<uint32_t>(state.seed >> 32);
#pragma unroll
    for (int round = 0; round < kPhiloxRounds; ++round) {
#pragma unroll
      for (int u = 0; u < kCount; ++u) masks[u].bits = philox_round(masks[u].bits, key0, key1);
      key0 = next_key(key0, kPhiloxKeyStep0);
      key1 = next_key(key1, kPhiloxKeyStep1);
    }
  } else if (indexing.kind == MaskKind::kKeepAll) {
#pragma unroll
    for (int u = 0; u < kCount; ++u) masks[u] = {{0, 0, 0, 0}, ~0u};
  } else {
#pragma unroll
    for (int u = 0; u < kCount; ++u) {
      const int64_t index = mask_index(indexing, (group + u * step) * kGroup);
      masks[u] = {group_bits(state, group_of(index)), indexing.threshold};
      if (indexing.strides[indexing.ndim - 1] == 0) {
        const uint32_t draw = draw_of(masks[u].bits, slot_of(index));
        masks[u].bits.x = masks[u].bits.y = masks[u].bits.z = masks[u].bits.w = draw << 16 | draw;
      }
    }
  }
}

// The same for any indexing, as a bit each.
struct AnyMask {
  uint32_t kept = 0;

  AnyMask() = default;
  FD_HD AnyMask(uint32_t bits) : kept(bits) {}
  FD_HD explicit AnyMask(const GroupMask& group) {
#pragma unroll
    for (int k = 0; k < kGroup; ++k) kept |= static_cast<uint32_t>(group(k)) << k;
  }
  FD_HD bool operator()(int k) const { return kept >> k & 1u; }
};

FD_HD AnyMask any_mask(const MaskIndexing& indexing, const PhiloxState& state, int64_t position,
                       int count) {
  if (indexing.kind == MaskKind::kKeepAll) return {(1u << count) - 1u};  // nothing behind the end
  uint32_t kept = 0;
  int64_t group = -1;
  PhiloxWords<uint32_t> bits{};
#pragma unroll 1
  for (int k = 0; k < count; ++k) {
    const int64_t index = mask_index(indexing, position + k);
    if (group_of(index) != group) {
      group = group_of(index);
      bits = group_bits(state, group);
    }
    kept |= static_cast<uint32_t>(is_kept(draw_of(bits, slot_of(index)), indexing.threshold >> 16))
            << k;
  }
  return {kept};
}

}  // namespace fused_dropout::cuda
