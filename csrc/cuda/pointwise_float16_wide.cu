#define FD_INSTANTIATES
#include "launch.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(Half, float)
}  // namespace fused_dropout::cuda
