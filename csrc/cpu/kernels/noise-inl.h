// The kernel of the noise operators, for every functor of math/noise.h.
#pragma once

#include <utility>

#include "cpu/kernels/dispatch-inl.h"
#include "cpu/kernels/noise_draws-inl.h"
#include "cpu/kernels/registers-inl.h"
#include "cpu/noise.h"
#include "math/noise.h"

namespace fused_dropout::cpu::FD_ISA {

// Calls visit(position of the chunk, count) for every chunk.
template <class Visit>
FD_HD void for_each_chunk(int64_t begin, int64_t end, Visit visit) {
  for (int64_t position = begin; position < end; position += kChunk) {
    visit(position, end - position < kChunk ? static_cast<int>(end - position) : kChunk);
  }
}

// The loop of one kernel call. It keeps pointers and constants in registers.
template <class T, class Functor>
class NoiseLoop {
  using A = Arithmetic<T>;
  using V = typename A::Register;
  using C = typename A::Scalar;
  using Constants = typename Functor::template Constants<V>;
  using Inputs = std::make_index_sequence<Functor::kInputs>;
  using Outputs = std::make_index_sequence<Functor::kOutputs>;

 public:
  FD_HD explicit NoiseLoop(const NoiseArgs& args)
      : NoiseLoop(args, Inputs(), Outputs(), std::make_index_sequence<kNoiseConstants<Functor>>()) {
  }

  // Returns the sum over the elements from `begin` to `end` if the functor has one, else 0.
  FD_HD double run(const MaskIndexing& mask, int64_t begin, int64_t end) const {
    double total = 0;
    if constexpr (Functor::kDraw == NoiseDraw::kNone) {
      static_assert(!Functor::kSum);
      for_each_register<A::kWidth>(begin, end, [&](int64_t position, auto extent) FD_INLINE {
        compute(position, V(C(0)), extent, Inputs(), Outputs());
      });
    } else {
      ChunkNoise<Functor::kDraw, A> source(mask);
      for_each_chunk(begin, end, [&](int64_t position, int count) FD_INLINE {
        const auto* draws = source.at(position, count);
        V sum(C(0));
        for_each_register<A::kWidth>(0, count, [&](int64_t i, auto extent) FD_INLINE {
          prefetch(position + i + kChunk, Inputs());
          const V last = compute(position + i, source.template value<V>(draws + i), extent,
                                 Inputs(), Outputs());
          if constexpr (Functor::kSum) sum = sum + zero_past_end(last, extent);
        });
        if constexpr (Functor::kSum) total += sum_of_lanes(sum);
      });
    }
    return total;
  }

 private:
  template <size_t... i, size_t... j, size_t... k>
  FD_HD NoiseLoop(const NoiseArgs& args, std::index_sequence<i...>, std::index_sequence<j...>,
                  std::index_sequence<k...>)
      : inputs_{static_cast<const T*>(args.inputs[i])...},
        outputs_{static_cast<T*>(args.outputs[j])...},
        constants_{V(static_cast<C>(args.constants[k]))...} {}

  template <size_t... i>
  FD_HD void prefetch(int64_t position, std::index_sequence<i...>) const {
    (prefetch_register(inputs_[i] + position), ...);
  }

  // Stores one register of every output; returns the last result.
  template <class Draw, class Extent, size_t... i, size_t... j>
  FD_HD V compute(int64_t position, Draw draw, Extent extent, std::index_sequence<i...>,
                  std::index_sequence<j...>) const {
    const V inputs[] = {V(load_register(inputs_[i] + position, extent))...};
    V results[Functor::kResults];
    Functor::template element<typename A::Precision>(inputs, draw, constants_, results);
    (store_output(outputs_[j], position, results[j], extent), ...);
    return results[Functor::kResults - 1];
  }
  template <class Extent>
  static FD_HD void store_output(T* output, int64_t position, V result, Extent extent) {
    constexpr bool kAlwaysWanted = Functor::kResults == 1;
    if (kAlwaysWanted || output) store_register(output + position, result, extent);
  }

  const T* const inputs_[Functor::kInputs];
  T* const outputs_[Functor::kOutputs];
  const Constants constants_;
};

template <class T, class Functor>
double noise_kernel(const NoiseArgs& args, int64_t begin, int64_t end) {
  return NoiseLoop<T, Functor>(args).run(args.mask, begin, end);
}

template <class T, class... Functors>
NoiseKernel noise_kernel_in(NoiseList<Functors...>, int functor) {
  static constexpr NoiseKernel kKernels[] = {noise_kernel<T, Functors>...};
  return kKernels[functor];
}

inline NoiseKernel noise_kernel_of(Storage storage, int functor) {
  return with_type<NoiseKernel>(storage, [&](auto type) {
    return noise_kernel_in<typename decltype(type)::Type>(NoiseFunctors(), functor);
  });
}

constexpr NoiseTable noise_table() { return {noise_kernel_of}; }

}  // namespace fused_dropout::cpu::FD_ISA
