// States drawn from the generators of torch.
#pragma once

#include "cuda/kernel_args.h"

namespace fused_dropout::cuda {

// Numbers from the generator of the device that `token` is on, and memory for them: the kernel that
// uses them writes them down there.
struct Draw {
  Draw(const Tensor& token, const OptionalGenerator& generator);

  RandomState random;
  Tensor rng_state;
};

// Whether a kernel will run that draws, and so can write the state down.
inline bool draws_in_kernel(const CallParams& call, const Tensor& x) {
  return x.numel() > 0 && draws(call.constants());
}

// The operator draw_rng_state.
Tensor draw_cuda(const Tensor& token, const OptionalTensor& p_tensor,
                 const OptionalGenerator& generator);

}  // namespace fused_dropout::cuda
