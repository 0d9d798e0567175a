// The norm kernels for float16 x. The residual and h may be float32, and y with them.
#include "cuda/kernels/norm.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(Half, Half, Half)
FD_INSTANTIATE(Half, float, Half)
FD_INSTANTIATE(Half, float, float)
}  // namespace fused_dropout::cuda
