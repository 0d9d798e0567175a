// The pointwise kernels for bfloat16 x.
#include "cuda/kernels/pointwise.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(BFloat16, BFloat16)
}  // namespace fused_dropout::cuda
