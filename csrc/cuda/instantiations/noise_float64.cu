// The noise kernels for float64.
#include "cuda/kernels/noise.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(double)
}  // namespace fused_dropout::cuda
