// The masks of groups of eight elements: which elements a kernel keeps.
#pragma once

#include "cuda/device/vector_access.cuh"
#include "cuda/launch_types.h"

namespace fused_dropout::cuda {

// The values of a state that may lie in device memory.
FD_HD PhiloxState resolve(const RandomState& random) {
  if (!random.indirect) return {random.seed, random.offset};
  return {static_cast<uint64_t>(*random.seed_address),
          static_cast<uint64_t>(*random.offset_address) + random.added_offset};
}

// The 16-bit draw in one of the eight slots of a Philox output, low half of a word first.
FD_HD uint32_t draw_of(const PhiloxWords<uint32_t>& bits, int slot) {
  const uint32_t word = slot < 4 ? (slot < 2 ? bits.x : bits.y) : (slot < 6 ? bits.z : bits.w);
  return slot % 2 ? word >> 16 : word & 0xFFFFu;
}

// The mask of one group of elements, whose draws are the slots of one Philox counter.
struct GroupMask {
  PhiloxWords<uint32_t> bits;
  uint32_t threshold;  // keep_count in the upper 16 bits

  FD_HD bool operator()(int k) const {
    const uint32_t word = k < 4 ? (k < 2 ? bits.x : bits.y) : (k < 6 ? bits.z : bits.w);
    return (k % 2 ? word : word << 16) < threshold;
  }
};

// The Philox group and the slot of a mask index. The index is not negative, so that both take one
// instruction.
FD_HD int64_t group_of(int64_t index) { return static_cast<uint64_t>(index) / kGroup; }
FD_HD int slot_of(int64_t index) { return static_cast<int>(index) & (kGroup - 1); }

// The mask index of the element at an offset in memory, counted in elements.
FD_HD int64_t mask_index(const MaskIndexing& indexing, int64_t position) {
  if (indexing.kind == MaskKind::kMemoryOrder) return indexing.first + position;
  int64_t index = indexing.first;
#pragma unroll 1
  for (int dim = indexing.ndim - 1; dim > 0; --dim) {
    const int64_t size = indexing.sizes[dim];
    const int64_t quotient = indexing.by_size[dim].divide(position);
    index += (position - quotient * size) * indexing.strides[dim];
    position = quotient;
  }
  return index + position * indexing.strides[0];
}

// True if every aligned group of elements has the eight draws of one counter, or shares one draw.
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

// The masks of kCount groups, `step` apart, for an indexing that is vectorisable. The Philox rounds
// of all counters are interleaved: the counters share the keys, and one hides the latency of
// another.
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

// The mask of up to eight elements, one bit each.
struct MaskBits {
  uint32_t kept = 0;

  MaskBits() = default;
  FD_HD MaskBits(uint32_t bits) : kept(bits) {}
  FD_HD explicit MaskBits(const GroupMask& group) {
#pragma unroll
    for (int k = 0; k < kGroup; ++k) kept |= static_cast<uint32_t>(group(k)) << k;
  }
  FD_HD bool operator()(int k) const { return kept >> k & 1u; }
};

// The mask of the `count` elements from `position` on, for any indexing.
FD_HD MaskBits mask_bits(const MaskIndexing& indexing, const PhiloxState& state, int64_t position,
                         int count) {
  if (indexing.kind == MaskKind::kKeepAll) return {(1u << count) - 1u};
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
