// The noise kernels for float32.
#include "cuda/kernels/noise.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(float)
}  // namespace fused_dropout::cuda
