// The pointwise kernels for float64 x.
#include "cuda/kernels/pointwise.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(double, double)
}  // namespace fused_dropout::cuda
