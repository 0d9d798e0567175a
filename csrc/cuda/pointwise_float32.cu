#define FD_INSTANTIATES
#include "launch.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(float, float)
}  // namespace fused_dropout::cuda
