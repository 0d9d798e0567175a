// All noise kernels: Gaussian and Concrete dropout and Standout.
#pragma once

#include "cuda/kernels/concrete.cuh"
#include "cuda/kernels/gaussian.cuh"
#include "cuda/kernels/standout.cuh"

namespace fused_dropout::cuda {

// One translation unit for each type.
#define FD_INSTANTIATE(T)                                                     \
  template void gaussian_of<T>(const GaussianArgs&, Stream);                  \
  template void concrete_forward_of<T>(const ConcreteForwardArgs&, Stream);   \
  template void concrete_backward_of<T>(const ConcreteBackwardArgs&, Stream); \
  template void standout_of<T>(const StandoutArgs&, bool, Stream);            \
  template void standout_backward_of<T>(const StandoutBackwardArgs&, Stream);

}  // namespace fused_dropout::cuda
