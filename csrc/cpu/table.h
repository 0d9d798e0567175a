// The table of one instruction set's kernels.
#pragma once

#include "gated.h"
#include "norm.h"
#include "pointwise.h"

namespace fused_dropout::cpu::FD_ISA {

template <template <class> class Functor>
ForwardKernel forward_of(Storage storage, Residual residual) {
  switch (storage) {
    case Storage::kFloat32:
      return residual == Residual::kNone ? forward_kernel<float, void, Functor>
                                         : forward_kernel<float, float, Functor>;
    case Storage::kFloat64:
      return residual == Residual::kNone ? forward_kernel<double, void, Functor>
                                         : forward_kernel<double, double, Functor>;
    case Storage::kFloat16:
      return residual == Residual::kNone   ? forward_kernel<Half, void, Functor>
             : residual == Residual::kSame ? forward_kernel<Half, Half, Functor>
                                           : forward_kernel<Half, float, Functor>;
    case Storage::kBFloat16:
      return residual == Residual::kNone   ? forward_kernel<BFloat16, void, Functor>
             : residual == Residual::kSame ? forward_kernel<BFloat16, BFloat16, Functor>
                                           : forward_kernel<BFloat16, float, Functor>;
  }
  return nullptr;
}

template <template <class> class Functor, bool kSumBias>
BackwardKernel backward_of(Storage storage, bool wide_gradient) {
  switch (storage) {
    case Storage::kFloat32:
      return backward_kernel<float, float, Functor, kSumBias>;
    case Storage::kFloat64:
      return backward_kernel<double, double, Functor, kSumBias>;
    case Storage::kFloat16:
      return wide_gradient ? backward_kernel<Half, float, Functor, kSumBias>
                           : backward_kernel<Half, Half, Functor, kSumBias>;
    case Storage::kBFloat16:
      return wide_gradient ? backward_kernel<BFloat16, float, Functor, kSumBias>
                           : backward_kernel<BFloat16, BFloat16, Functor, kSumBias>;
  }
  return nullptr;
}

inline ForwardKernel forward(Storage storage, Residual residual, int activation) {
  using Choose = ForwardKernel (*)(Storage, Residual);
  static constexpr Choose kRows[] = {
#define FD_ROW(Functor, name) forward_of<Functor>,
      FD_FOR_EACH_ACTIVATION(FD_ROW)
#undef FD_ROW
  };
  return kRows[activation](storage, residual);
}

inline BackwardKernel backward(Storage storage, bool wide_gradient, bool sum_bias, int activation) {
  using Choose = BackwardKernel (*)(Storage, bool);
  static constexpr Choose kRows[][2] = {
#define FD_ROW(Functor, name) {backward_of<Functor, false>, backward_of<Functor, true>},
      FD_FOR_EACH_ACTIVATION(FD_ROW)
#undef FD_ROW
  };
  return kRows[activation][sum_bias](storage, wide_gradient);
}

// The kernels that are told apart by x's type and the activation.
#define FD_TABLE(function, Kernel, kernel)                                     \
  template <template <class> class Functor>                                    \
  Kernel function##_of(Storage storage) {                                      \
    switch (storage) {                                                         \
      case Storage::kFloat32:                                                  \
        return kernel<float, Functor>;                                         \
      case Storage::kFloat64:                                                  \
        return kernel<double, Functor>;                                        \
      case Storage::kFloat16:                                                  \
        return kernel<Half, Functor>;                                          \
      case Storage::kBFloat16:                                                 \
        return kernel<BFloat16, Functor>;                                      \
    }                                                                          \
    return nullptr;                                                            \
  }                                                                            \
  inline Kernel function(Storage storage, int activation) {                    \
    using Choose = Kernel (*)(Storage);                                        \
    static constexpr Choose kRows[] = {FD_FOR_EACH_ACTIVATION(FD_##function)}; \
    return kRows[activation](storage);                                         \
  }
#define FD_gated_forward(Functor, name) gated_forward_of<Functor>,
#define FD_gated_backward(Functor, name) gated_backward_of<Functor>,
#define FD_branch(Functor, name) branch_of<Functor>,
#define FD_branch_backward(Functor, name) branch_backward_of<Functor>,
FD_TABLE(gated_forward, GatedForwardKernel, gated_forward_kernel)
FD_TABLE(gated_backward, GatedBackwardKernel, gated_backward_kernel)
FD_TABLE(branch, BranchKernel, branch_kernel)
FD_TABLE(branch_backward, BranchBackwardKernel, branch_backward_kernel)
#undef FD_gated_forward
#undef FD_gated_backward
#undef FD_branch
#undef FD_branch_backward
#undef FD_TABLE

// Those that are told apart by the types of x, of the stream and of y.
#define FD_TABLE(function, Kernel, kernel)                            \
  inline Kernel function(Storage storage, bool wide_h, bool wide_y) { \
    switch (storage) {                                                \
      case Storage::kFloat32:                                         \
        return kernel<float, float, float>;                           \
      case Storage::kFloat64:                                         \
        return kernel<double, double, double>;                        \
      case Storage::kFloat16:                                         \
        return wide_y   ? kernel<Half, float, float>                  \
               : wide_h ? kernel<Half, float, Half>                   \
                        : kernel<Half, Half, Half>;                   \
      case Storage::kBFloat16:                                        \
        return wide_y   ? kernel<BFloat16, float, float>              \
               : wide_h ? kernel<BFloat16, float, BFloat16>           \
                        : kernel<BFloat16, BFloat16, BFloat16>;       \
    }                                                                 \
    return nullptr;                                                   \
  }
FD_TABLE(norm_forward, NormForwardKernel, norm_forward_kernel)
FD_TABLE(norm_backward, NormBackwardKernel, norm_backward_kernel)
#undef FD_TABLE

constexpr KernelTable kernel_table(const char* name) {
  return {name,           forward, backward,        mask_kernel,  gated_forward,
          gated_backward, branch,  branch_backward, norm_forward, norm_backward};
}

}  // namespace fused_dropout::cpu::FD_ISA
