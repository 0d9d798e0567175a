// The norm kernels for float32 x.
#include "cuda/kernels/norm.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(float, float, float)
}  // namespace fused_dropout::cuda
