// The gated kernels for float16.
#include "cuda/kernels/gated.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(Half)
}  // namespace fused_dropout::cuda
