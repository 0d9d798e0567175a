// The gated kernels for bfloat16.
#include "cuda/kernels/gated.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(BFloat16)
}  // namespace fused_dropout::cuda
