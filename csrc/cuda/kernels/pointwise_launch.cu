// Launch functions of the pointwise kernels.
#include "cuda/device/storage_dispatch.cuh"
#include "cuda/pointwise.h"

namespace fused_dropout::cuda {

void launch_pointwise_forward(const PointwiseForwardArgs& args, Storage storage, bool wide_y,
                              int activation, Stream stream) {
  with_type(storage, [&](auto element) {
    using T = decltype(element);
    if constexpr (kIsHalf<T>) {
      if (wide_y) return pointwise_forward_of<T, float>(args, activation, stream);
    }
    pointwise_forward_of<T, T>(args, activation, stream);
  });
}

void launch_pointwise_backward(const PointwiseBackwardArgs& args, Storage storage, bool wide_dy,
                               int activation, Stream stream) {
  with_type(storage, [&](auto element) {
    using T = decltype(element);
    if constexpr (kIsHalf<T>) {
      if (wide_dy) return pointwise_backward_of<T, float>(args, activation, stream);
    }
    pointwise_backward_of<T, T>(args, activation, stream);
  });
}

}  // namespace fused_dropout::cuda
