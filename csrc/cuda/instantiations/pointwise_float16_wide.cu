#include "cuda/kernels/pointwise.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(Half, float)
}  // namespace fused_dropout::cuda
