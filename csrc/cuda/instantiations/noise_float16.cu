// The noise kernels for float16.
#include "cuda/kernels/noise.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(Half)
}  // namespace fused_dropout::cuda
