// From the arguments of an operator to what kernels take.
#pragma once

#include "cuda/launch_types.h"
#include "ops/common/layout.h"
#include "ops/random.h"

namespace fused_dropout::cuda {

Stream stream_of(const Tensor& tensor);

// Whether some are kept and some are not.
inline bool draws(const DropConstants& constants) {
  return constants.keep_count > 0 && constants.keep_count < 65536;
}

// The numbers of a state on the CPU, or the addresses of one on the device: that is read when the
// kernel runs, since a captured graph may have changed it.
RandomState state_at(const Tensor& rng_state);
RandomState state_for(const CallParams& call, const OptionalTensor& rng_state,
                      const DropConstants& constants, const Tensor& x);

// Whether a MaskIndexing can describe the mask.
inline bool can_index(const MaskLayout& layout) { return layout.sizes.size() <= kMaxMaskDims; }
MaskIndexing mask_indexing(const MaskLayout& layout, uint32_t keep_count);

// Kernels take vectors beside an x of this dtype in that or fp32.
at::ScalarType vector_dtype(at::ScalarType given, at::ScalarType x_dtype);
Tensor vector_for(const OptionalTensor& given, at::ScalarType x_dtype);       // undefined for none
VectorOperand vector_argument(const Tensor& vector, at::ScalarType x_dtype);  // undefined for none

}  // namespace fused_dropout::cuda
