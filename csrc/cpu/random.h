// Dispatch table of the kernel that writes a mask. Used by random.cpp and kernels/random-inl.h.
#pragma once

#include "cpu/indexing.h"

namespace fused_dropout::cpu {

// Writes the mask of the elements [begin, end) in memory order: true where kept.
using MaskKernel = void (*)(const MaskIndexing&, bool* kept, int64_t begin, int64_t end);

struct RandomTable {
  MaskKernel mask;
};

}  // namespace fused_dropout::cpu
