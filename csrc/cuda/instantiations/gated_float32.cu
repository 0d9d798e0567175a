// The gated kernels for float32.
#include "cuda/kernels/gated.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(float)
}  // namespace fused_dropout::cuda
