// The kernel of the noise operators, for every functor of math/noise.h.
#pragma once

#include <utility>

#include "cuda/device/column_loop.cuh"
#include "cuda/device/operands.cuh"
#include "cuda/device/sums.cuh"
#include "cuda/kernels/noise_draws.cuh"
#include "cuda/noise.h"

namespace fused_dropout::cuda {

template <class T, class Functor>
struct NoiseWork {
  using C = typename Arithmetic<T>::Scalar;
  using Precision = typename PrecisionOf<T>::Type;
  using Constants = typename Functor::template Constants<C>;
  static constexpr NoiseDraw kDraw = Functor::kDraw;
  static constexpr int kInputs = Functor::kInputs, kOutputs = Functor::kOutputs;
  static constexpr int kUnroll = kNoiseUnroll<kDraw>;
  // The host calls a kernel with one result only if it wants that result.
  static constexpr bool kAlwaysWanted = Functor::kResults == 1;

  const NoiseArgs& args;
  PhiloxState state{};
  Constants constants;
  C sums[kGroup];  // if kSum

  FD_HD explicit NoiseWork(const NoiseArgs& arguments)
      : args(arguments),
        constants(constants_of(arguments, std::make_index_sequence<kNoiseConstants<Functor>>())) {
    if constexpr (kDraw != NoiseDraw::kNone) state = resolve(args.random);
    if constexpr (Functor::kSum) {
#pragma unroll
      for (int k = 0; k < kGroup; ++k) sums[k] = C(0);
    }
  }

  template <size_t... i>
  static FD_HD Constants constants_of(const NoiseArgs& args, std::index_sequence<i...>) {
    return Functor::with_scalar(Constants{number<C>(args.constants[i])...},
                                static_cast<const C*>(args.scalar));
  }

  // The loop is not unrolled, because formulas are long.
  FD_HD void element_by_element(int64_t base, uint32_t offset) {
    const int64_t first = (base + offset) * kGroup;
    const int count = count_in_group(args.layout.numel - first);
    ElementNoise<kDraw, Precision, C> draws(args, state);
#pragma unroll 1
    for (int k = 0; k < count; ++k) {
      const int64_t position = first + k;
      const auto draw = draws(position);
      C inputs[kInputs], results[Functor::kResults];
#pragma unroll
      for (int i = 0; i < kInputs; ++i) {
        inputs[i] = widen(static_cast<const T*>(args.inputs[i])[position]);
      }
      Functor::template element<Precision>(inputs, draw, constants, results);
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) {
        T* output = static_cast<T*>(args.outputs[i]);
        if (kAlwaysWanted || output) narrow(results[i], output[position]);
      }
      if constexpr (Functor::kSum) sums[0] = sums[0] + results[kOutputs];
    }
  }

  // All loads are issued first, so that they overlap.
  template <int kCount>
  FD_HD void full_groups(int64_t base, uint32_t offset, uint32_t step) {
    static_assert(kCount == kUnroll);
    Packed<T> packed[kUnroll][kInputs];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
      for (int i = 0; i < kInputs; ++i) {
        packed[u][i].load(group_at(static_cast<const T*>(args.inputs[i]), base, offset + u * step));
      }
    }
    const GroupNoise<kDraw, Precision, C> draws(args, state, base + offset, step);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      C inputs[kInputs][kGroup], outputs[kOutputs][kGroup];
#pragma unroll
      for (int i = 0; i < kInputs; ++i) packed[u][i].widen_to(inputs[i]);
#pragma unroll
      for (int k = 0; k < kGroup; ++k) {
        C element[kInputs], results[Functor::kResults];
#pragma unroll
        for (int i = 0; i < kInputs; ++i) element[i] = inputs[i][k];
        Functor::template element<Precision>(element, draws(u, k), constants, results);
#pragma unroll
        for (int i = 0; i < kOutputs; ++i) outputs[i][k] = results[i];
        if constexpr (Functor::kSum) sums[k] = sums[k] + results[kOutputs];
      }
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) {
        T* output = static_cast<T*>(args.outputs[i]);
        if (kAlwaysWanted || output) {
          Packed<T>::store(group_at(output, base, offset + u * step), outputs[i]);
        }
      }
    }
  }
};

template <class T, class Functor, bool kVectorised>
__global__ void __launch_bounds__(kThreads, kBlocksPerSM<T>)
    noise_kernel(const NoiseArgs args, const ColumnGrid grid) {
  using Work = NoiseWork<T, Functor>;
  ColumnLoop loop(grid, blockIdx.x, threadIdx.x);
  Work work(args);
  if constexpr (kVectorised) for_full_groups<Work::kUnroll>(loop, work);
  for_remaining_groups(loop, args.layout.numel, work);
  if constexpr (Functor::kSum) {
    if (args.partials) {
      write_partials(loop, grid, args.layout.period, work.sums,
                     static_cast<typename Work::C*>(args.partials));
    }
  }
}

// ---- launches ---------------------------------------------------------------------------------

template <class T, class Functor>
void launch_noise_kernel(const NoiseArgs& args, Stream stream) {
  bool vectorised = Functor::kDraw == NoiseDraw::kNone || is_vectorisable(args.mask);
  for (const void* input : args.inputs) vectorised = vectorised && are_aligned(input);
  for (const void* output : args.outputs) vectorised = vectorised && are_aligned(output);
  launch_column_loop(
      noise_kernel<T, Functor, kCanVectorise<T>>, noise_kernel<T, Functor, false>, vectorised,
      Functor::kSum ? backward_grid(args.layout) : forward_grid(args.layout), args, stream);
}

template <class T, class... Functors>
void launch_noise_in(NoiseList<Functors...>, int functor, const NoiseArgs& args, Stream stream) {
  using Launch = void (*)(const NoiseArgs&, Stream);
  static constexpr Launch kLaunches[] = {launch_noise_kernel<T, Functors>...};
  kLaunches[functor](args, stream);
}

template <class T>
void launch_noise_of(int functor, const NoiseArgs& args, Stream stream) {
  launch_noise_in<T>(NoiseFunctors(), functor, args, stream);
}

// Each type has a translation unit of its own: see cuda/instantiations.
#define FD_INSTANTIATE(T) template void launch_noise_of<T>(int, const NoiseArgs&, Stream);

}  // namespace fused_dropout::cuda
