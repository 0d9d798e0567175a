// The table of one instruction set's kernels.
#pragma once

#include "gated.h"
#include "noise.h"
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

// ---- row kernels -----------------------------------------------------------------------------

template <class T>
struct TypeTag {
  using Type = T;
};
template <template <class> class Functor>
struct FunctorTag {
  template <class Precision>
  using Of = Functor<Precision>;
};

// See row_kernels.
constexpr bool kHasDouble = kLanes == 4;

// visit(TypeTag) for x's type.
template <class Kernel, class Visit>
Kernel with_type(Storage storage, Visit visit) {
  switch (storage) {
    case Storage::kFloat32:
      return visit(TypeTag<float>{});
    case Storage::kFloat64:
      if constexpr (kHasDouble) return visit(TypeTag<double>{});
      break;
    case Storage::kFloat16:
      return visit(TypeTag<Half>{});
    case Storage::kBFloat16:
      return visit(TypeTag<BFloat16>{});
  }
  return nullptr;
}

// visit(TypeTag, FunctorTag) for x's type and the activation.
template <class Kernel, class Visit>
Kernel with_type_and_functor(Storage storage, int activation, Visit visit) {
  return with_type<Kernel>(storage, [&](auto type) -> Kernel {
    static constexpr Kernel kKernels[] = {
#define FD_KERNEL(Functor, name) visit(decltype(type){}, FunctorTag<Functor>{}),
        FD_FOR_EACH_ACTIVATION(FD_KERNEL)
#undef FD_KERNEL
    };
    return kKernels[activation];
  });
}

inline GatedForwardKernel gated_forward(Storage storage, int activation) {
  return with_type_and_functor<GatedForwardKernel>(
      storage, activation, [](auto type, auto functor) {
        return gated_forward_kernel<typename decltype(type)::Type, decltype(functor)::template Of>;
      });
}

inline GatedBackwardKernel gated_backward(Storage storage, int activation) {
  return with_type_and_functor<GatedBackwardKernel>(
      storage, activation, [](auto type, auto functor) {
        return gated_backward_kernel<typename decltype(type)::Type, decltype(functor)::template Of>;
      });
}

inline BranchKernel branch(Storage storage, int activation) {
  return with_type_and_functor<BranchKernel>(storage, activation, [](auto type, auto functor) {
    return branch_kernel<typename decltype(type)::Type, decltype(functor)::template Of>;
  });
}

inline BranchBackwardKernel branch_backward(Storage storage, int activation) {
  return with_type_and_functor<BranchBackwardKernel>(
      storage, activation, [](auto type, auto functor) {
        return branch_backward_kernel<typename decltype(type)::Type,
                                      decltype(functor)::template Of>;
      });
}

// visit(TypeTag, TypeTag, TypeTag) for the types of x, of the stream and of y.
template <class Kernel, class Visit>
Kernel with_stream_types(Storage storage, bool wide_h, bool wide_y, Visit visit) {
  return with_type<Kernel>(storage, [&](auto type) -> Kernel {
    if constexpr (sizeof(typename decltype(type)::Type) == 2) {
      if (wide_y) return visit(type, TypeTag<float>{}, TypeTag<float>{});
      if (wide_h) return visit(type, TypeTag<float>{}, type);
    }
    return visit(type, type, type);
  });
}

inline NormForwardKernel norm_forward(Storage storage, bool wide_h, bool wide_y) {
  return with_stream_types<NormForwardKernel>(
      storage, wide_h, wide_y, [](auto x, auto h, auto y) -> NormForwardKernel {
        return norm_forward_kernel<typename decltype(x)::Type, typename decltype(h)::Type,
                                   typename decltype(y)::Type>;
      });
}

inline NormBackwardKernel norm_backward(Storage storage, bool wide_h, bool wide_y) {
  return with_stream_types<NormBackwardKernel>(
      storage, wide_h, wide_y, [](auto x, auto h, auto y) -> NormBackwardKernel {
        return norm_backward_kernel<typename decltype(x)::Type, typename decltype(h)::Type,
                                    typename decltype(y)::Type>;
      });
}

inline GaussianKernel gaussian(Storage storage) {
  return with_type<GaussianKernel>(
      storage, [](auto type) { return gaussian_kernel<typename decltype(type)::Type>; });
}

inline ConcreteForwardKernel concrete_forward(Storage storage) {
  return with_type<ConcreteForwardKernel>(
      storage, [](auto type) { return concrete_forward_kernel<typename decltype(type)::Type>; });
}

inline ConcreteBackwardKernel concrete_backward(Storage storage) {
  return with_type<ConcreteBackwardKernel>(
      storage, [](auto type) { return concrete_backward_kernel<typename decltype(type)::Type>; });
}

inline StandoutKernel standout(Storage storage, bool training) {
  return with_type<StandoutKernel>(storage, [&](auto type) {
    using T = typename decltype(type)::Type;
    return training ? standout_kernel<T> : standout_mean_kernel<T>;
  });
}

inline StandoutBackwardKernel standout_backward(Storage storage) {
  return with_type<StandoutBackwardKernel>(
      storage, [](auto type) { return standout_backward_kernel<typename decltype(type)::Type>; });
}

constexpr NoiseTable noise_table() {
  return {gaussian, concrete_forward, concrete_backward, standout, standout_backward};
}

constexpr KernelTable kernel_table(const char* name) {
  return {name,   forward,         backward,     mask_kernel,   gated_forward, gated_backward,
          branch, branch_backward, norm_forward, norm_backward, noise_table()};
}

}  // namespace fused_dropout::cpu::FD_ISA
