// Launch functions of the gated kernels.
#include "cuda/device/storage_dispatch.cuh"
#include "cuda/gated.h"

namespace fused_dropout::cuda {

void launch_gated_forward(const GatedForwardArgs& args, Storage storage, int activation,
                          Stream stream) {
  with_type(storage,
            [&](auto element) { gated_forward_of<decltype(element)>(args, activation, stream); });
}

void launch_gated_backward(const GatedBackwardArgs& args, Storage storage, int activation,
                           Stream stream) {
  with_type(storage,
            [&](auto element) { gated_backward_of<decltype(element)>(args, activation, stream); });
}

}  // namespace fused_dropout::cuda
