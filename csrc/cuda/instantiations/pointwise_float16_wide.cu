// The pointwise kernels for float16 x with a float32 residual and result.
#include "cuda/kernels/pointwise.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(Half, float)
}  // namespace fused_dropout::cuda
