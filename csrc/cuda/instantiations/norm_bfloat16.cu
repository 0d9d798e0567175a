// The norm kernels for bfloat16 x, with a residual or a result of the same type or float32.
#include "cuda/kernels/norm.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(BFloat16, BFloat16, BFloat16)
FD_INSTANTIATE(BFloat16, float, BFloat16)
FD_INSTANTIATE(BFloat16, float, float)
}  // namespace fused_dropout::cuda
