// The dispatch table of one instruction set. Each file in isa/ includes this header, and so all
// kernels, once.
#pragma once

#include "cpu/kernel_table.h"
#include "cpu/kernels/drop_block-inl.h"
#include "cpu/kernels/gated-inl.h"
#include "cpu/kernels/noise-inl.h"
#include "cpu/kernels/norm-inl.h"
#include "cpu/kernels/pointwise-inl.h"
#include "cpu/kernels/random-inl.h"

namespace fused_dropout::cpu::FD_ISA {

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
  return {name,         pointwise_table(),  random_table(), gated_table(),
          norm_table(), drop_block_table(), noise_table()};
}

}  // namespace fused_dropout::cpu::FD_ISA
