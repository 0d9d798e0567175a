// The pointwise kernels for bfloat16 x with a float32 residual and result.
#include "cuda/kernels/pointwise.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(BFloat16, float)
}  // namespace fused_dropout::cuda
