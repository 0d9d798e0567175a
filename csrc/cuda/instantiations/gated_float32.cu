#include "cuda/kernels/gated.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(float)
}  // namespace fused_dropout::cuda
