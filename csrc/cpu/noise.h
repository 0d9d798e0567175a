// The arguments and the table of the noise kernels.
#pragma once

#include "cpu/indexing.h"
#include "math/dtype.h"
#include "math/noise.h"

namespace fused_dropout::cpu {

// The arguments of a functor of math/noise.h. All tensors have the same dtype and memory layout.
struct NoiseArgs {
  const void* inputs[kMaxNoiseInputs];
  void* outputs[kMaxNoiseOutputs];  // null if not wanted
  MaskIndexing mask;
  double constants[kMaxNoiseConstants];
};

// Processes the elements from `begin` to `end`. Returns their sum if the functor has one, else 0.
using NoiseKernel = double (*)(const NoiseArgs&, int64_t begin, int64_t end);

struct NoiseTable {
  NoiseKernel (*kernel)(Storage storage, int functor);  // `functor` is a kNoiseIndex
};

}  // namespace fused_dropout::cpu
