#define FD_INSTANTIATES
#include "launch.cuh"

namespace fused_dropout::cuda {
FD_INSTANTIATE(double, double)
}  // namespace fused_dropout::cuda
