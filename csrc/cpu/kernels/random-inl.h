// The kernel that writes a mask as a boolean tensor. In the dispatch table as `random`.
#pragma once

#include "cpu/kernels/draws-inl.h"
#include "cpu/random.h"

namespace fused_dropout::cpu::FD_ISA {

inline void mask_kernel(const MaskIndexing& indexing, bool* kept, int64_t begin, int64_t end) {
  ChunkDraws source(indexing);
  for (int64_t position = begin; position < end; position += kChunk) {
    const int count = end - position < kChunk ? static_cast<int>(end - position) : kChunk;
    const uint16_t* draws = source.at(position, count);
    for (int i = 0; i < count; ++i) kept[position + i] = is_kept(draws[i], indexing.keep_count);
  }
}

constexpr RandomTable random_table() { return {mask_kernel}; }

}  // namespace fused_dropout::cpu::FD_ISA
