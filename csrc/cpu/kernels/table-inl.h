// The table of one instruction set's kernels.
#pragma once

#include "cpu/kernels/drop_block-inl.h"
#include "cpu/kernels/gated-inl.h"
#include "cpu/kernels/noise-inl.h"
#include "cpu/kernels/norm-inl.h"
#include "cpu/kernels/pointwise-inl.h"
#include "math/activation_dispatch.h"

namespace fused_dropout::cpu::FD_ISA {

template <class T>
struct TypeTag {
  using Type = T;
};

// The row kernels of fp64 are compiled once: see row_kernels.
constexpr bool kHasDoubleRows = kLanes == 4;

// visit(TypeTag) for x's type; null where kernels for it are not compiled.
template <class Kernel, bool kHasDouble = kHasDoubleRows, class Visit>
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
template <class Kernel, bool kHasDouble = kHasDoubleRows, class Visit>
Kernel with_type_and_functor(Storage storage, int activation, Visit visit) {
  return with_type<Kernel, kHasDouble>(storage, [&](auto type) {
    return with_functor(activation, [&](auto functor) -> Kernel { return visit(type, functor); });
  });
}

inline ForwardKernel forward(Storage storage, Residual residual, int activation) {
  return with_type_and_functor<ForwardKernel, true>(
      storage, activation, [&](auto type, auto functor) -> ForwardKernel {
        using T = typename decltype(type)::Type;
        if (residual == Residual::kNone) {
          return forward_kernel<T, void, decltype(functor)::template Of>;
        }
        if constexpr (sizeof(T) == 2) {
          if (residual == Residual::kFloat32) {
            return forward_kernel<T, float, decltype(functor)::template Of>;
          }
        }
        return forward_kernel<T, T, decltype(functor)::template Of>;
      });
}

inline BackwardKernel backward(Storage storage, bool wide_gradient, bool sum_bias, int activation) {
  return with_type_and_functor<BackwardKernel, true>(
      storage, activation, [&](auto type, auto functor) -> BackwardKernel {
        using T = typename decltype(type)::Type;
        if constexpr (sizeof(T) == 2) {
          if (wide_gradient) {
            return sum_bias ? backward_kernel<T, float, decltype(functor)::template Of, true>
                            : backward_kernel<T, float, decltype(functor)::template Of, false>;
          }
        }
        return sum_bias ? backward_kernel<T, T, decltype(functor)::template Of, true>
                        : backward_kernel<T, T, decltype(functor)::template Of, false>;
      });
}

// ---- row kernels -----------------------------------------------------------------------------

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
  return {name,
          forward,
          backward,
          mask_kernel,
          gated_forward,
          gated_backward,
          branch,
          branch_backward,
          norm_forward,
          norm_backward,
          drop_block_count_kernel,
          drop_block_apply,
          noise_table()};
}

}  // namespace fused_dropout::cpu::FD_ISA
