// The pointwise kernels for float32 x.
#include "cuda/kernels/pointwise.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(float, float)
}  // namespace fused_dropout::cuda
