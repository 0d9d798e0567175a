// The pointwise kernels for float16 x.
#include "cuda/kernels/pointwise.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(Half, Half)
}  // namespace fused_dropout::cuda
