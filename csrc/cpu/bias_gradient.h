// The bias gradient of the pointwise operator: sums over all elements of a channel, in several
// threads. Used by pointwise.cpp.
#pragma once

#include "cpu/kernel_args.h"
#include "cpu/pointwise.h"

namespace fused_dropout::cpu {

// Runs `kernel` over `numel` elements and returns the sum for each channel. How the work is divided
// depends on the sizes only, and partial sums are added in a fixed order: the results are bitwise
// equal for any number of threads.
Tensor sum_bias_gradient(PointwiseBackwardKernel kernel, const PointwiseBackwardArgs& args,
                         const BiasLayout& layout, int64_t numel, at::ScalarType arithmetic);

}  // namespace fused_dropout::cpu
