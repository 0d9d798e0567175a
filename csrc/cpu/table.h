// The table of one instruction set's kernels.
#pragma once

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

}  // namespace fused_dropout::cpu::FD_ISA
