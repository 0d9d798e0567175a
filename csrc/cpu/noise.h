// The arguments and the table of the noise kernels.
#pragma once

#include "cpu/indexing.h"
#include "math/dtype.h"
#include "math/noise.h"

namespace fused_dropout::cpu {

// The tensors and numbers of a functor of math/noise.h. All tensors have one dtype and one layout.
struct NoiseArgs {
  const void* inputs[kMaxNoiseInputs];
  void* outputs[kMaxNoiseOutputs];  // null where not wanted
  MaskIndexing mask;
  double constants[kMaxNoiseConstants];
};

// Returns the sum over the elements, for a functor that has one.
using NoiseKernel = double (*)(const NoiseArgs&, int64_t begin, int64_t end);

struct NoiseTable {
  NoiseKernel (*kernel)(Storage storage, int functor);  // `functor`: its kNoiseIndex
};

}  // namespace fused_dropout::cpu
