// The bias gradient: how the work is cut into tasks with partial sums of their own.
#pragma once

#include "cpu/kernel_args.h"
#include "cpu/pointwise.h"

namespace fused_dropout::cpu {

// Runs `kernel` over `numel` elements and returns the sums per channel. The cut depends on sizes
// alone and partial sums are added in a fixed order: the bits are the same for any thread count.
Tensor sum_bias_gradient(BackwardKernel kernel, const BackwardArgs& args, const BiasLayout& layout,
                         int64_t numel, at::ScalarType arithmetic);

}  // namespace fused_dropout::cpu
