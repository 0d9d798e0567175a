// The table of the kernels that only draw.
#pragma once

#include "cpu/indexing.h"

namespace fused_dropout::cpu {

using MaskKernel = void (*)(const MaskIndexing&, bool* kept, int64_t begin, int64_t end);

struct RandomTable {
  MaskKernel mask;
};

}  // namespace fused_dropout::cpu
