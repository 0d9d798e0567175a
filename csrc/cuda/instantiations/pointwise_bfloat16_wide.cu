#include "cuda/kernels/pointwise.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(BFloat16, float)
}  // namespace fused_dropout::cuda
