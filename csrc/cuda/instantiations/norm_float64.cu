// The norm kernels for float64 x.
#include "cuda/kernels/norm.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(double, double, double)
}  // namespace fused_dropout::cuda
