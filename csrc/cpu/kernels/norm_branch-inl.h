// The branch of the norm kernels, one row at a time: drop(act(x + bias)), and its gradient. The
// norm kernels call these kernels through pointers.
#pragma once

#include "cpu/kernels/dispatch-inl.h"
#include "cpu/kernels/registers-inl.h"
#include "cpu/norm.h"
#include "math/elementwise.h"

namespace fused_dropout::cpu::FD_ISA {

template <class T, template <class> class Functor>
void branch_kernel(const BranchArgs& args, int64_t row, int64_t width, const uint16_t* draws,
                   void* values) {
  using A = Arithmetic<T>;
  using V = typename A::Register;
  using C = typename A::Scalar;
  using Function = Functor<typename A::Precision>;

  const T* x = static_cast<const T*>(args.x) + row * width;
  const C* bias = static_cast<const C*>(args.bias);
  C* target = static_cast<C*>(values);
  const uint32_t keep_count = args.mask.keep_count;
  const V scale(static_cast<C>(args.scale)), shift(static_cast<C>(args.shift)),
      fill(static_cast<C>(args.fill)), parameter(static_cast<C>(args.parameter));
  for_each_register<A::kWidth>(0, width, [&](int64_t i, auto extent) FD_INLINE {
    prefetch_register(x + i + kChunk);
    store(target + i, forward_element<Function>(
                          load_register(x + i, extent) + load_register(bias + i),
                          keep_of<V>(draws + i, keep_count), scale, shift, fill, parameter));
  });
}

template <class T, template <class> class Functor>
void branch_backward_kernel(const BranchArgs& args, int64_t row, int64_t width,
                            const uint16_t* draws, const void* gradients, void* dx,
                            void* bias_sums) {
  using A = Arithmetic<T>;
  using V = typename A::Register;
  using C = typename A::Scalar;
  using Function = Functor<typename A::Precision>;

  const T* x = static_cast<const T*>(args.x) + row * width;
  const C* bias = static_cast<const C*>(args.bias);
  const C* upstream = static_cast<const C*>(gradients);
  T* target = dx ? static_cast<T*>(dx) + row * width : nullptr;
  C* columns = static_cast<C*>(bias_sums);
  const uint32_t keep_count = args.mask.keep_count;
  const V scale(static_cast<C>(args.scale)), parameter(static_cast<C>(args.parameter));
  const bool non_temporal = args.non_temporal && is_register_aligned(target);
  for_each_register<A::kWidth>(0, width, [&](int64_t i, auto extent) FD_INLINE {
    V value(C(0));
    if constexpr (!Function::kIdentity) {
      value = load_register(x + i, extent) + load_register(bias + i);
    }
    const V dy = load_register(upstream + i);
    const V result =
        backward_element<Function>(dy, value, keep_of<V>(draws + i, keep_count), scale, parameter);
    if (target) store_register(target + i, result, extent, non_temporal);
    if (columns) {
      const V term = mutated(Mutation::kUnmaskedBiasGradient) ? dy * scale : result;
      store_register(columns + i, load_register(columns + i) + term, extent);
    }
  });
}

inline BranchKernel norm_branch(Storage storage, int activation) {
  return with_type_and_functor<BranchKernel>(storage, activation, [](auto type, auto functor) {
    return branch_kernel<typename decltype(type)::Type, decltype(functor)::template Of>;
  });
}

inline BranchBackwardKernel norm_branch_backward(Storage storage, int activation) {
  return with_type_and_functor<BranchBackwardKernel>(
      storage, activation, [](auto type, auto functor) {
        return branch_backward_kernel<typename decltype(type)::Type,
                                      decltype(functor)::template Of>;
      });
}

}  // namespace fused_dropout::cpu::FD_ISA
