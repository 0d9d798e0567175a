// The norm kernels for bfloat16 x. The residual and h may be float32, and y with them.
#include "cuda/kernels/norm.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(BFloat16, BFloat16, BFloat16)
FD_INSTANTIATE(BFloat16, float, BFloat16)
FD_INSTANTIATE(BFloat16, float, float)
}  // namespace fused_dropout::cuda
