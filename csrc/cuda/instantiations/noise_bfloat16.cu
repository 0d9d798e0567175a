// The noise kernels for bfloat16.
#include "cuda/kernels/noise.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(BFloat16)
}  // namespace fused_dropout::cuda
