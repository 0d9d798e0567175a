// The norm kernels for float16 x, with a residual or a result of the same type or float32.
#include "cuda/kernels/norm.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(Half, Half, Half)
FD_INSTANTIATE(Half, float, Half)
FD_INSTANTIATE(Half, float, float)
}  // namespace fused_dropout::cuda
