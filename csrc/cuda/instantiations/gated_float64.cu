// The gated kernels for float64.
#include "cuda/kernels/gated.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(double)
}  // namespace fused_dropout::cuda
