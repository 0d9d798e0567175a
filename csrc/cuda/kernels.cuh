// The pointwise kernels: y = residual + drop(act(x + bias)), its gradient, and the bias gradient.
//
// Memory is seen as rows of `period` elements over which the bias repeats, and a thread stays in
// one column of eight elements: its bias values, and the sums of its bias gradient, are registers,
// and no index is divided within the loop over rows.
#pragma once

#include "../activations.h"
#include "../fused_math.h"
#include "mask.cuh"

namespace fused_dropout::cuda {

constexpr int kThreads = 128;
// Thread blocks that fit on a processor together: six leave a thread 80 registers. Functions in
// fp64 need more than that.
template <class T>
constexpr int kBlocks = std::is_same_v<T, double> ? 1 : 6;

// Which groups a thread block works on. Its threads stand in rows of `width`, a power of two from
// 32 on; block b has the columns b % column_blocks and the rows b / column_blocks of the grid,
// `rows_per_block` rows of memory each.
struct Grid {
  int64_t groups;   // whole ones
  int64_t columns;  // groups in a row of memory
  uint32_t column_blocks;
  int width;
  int64_t rows_per_block;
};

// The host sees to it that a block has no more places, or one row only.
constexpr uint32_t kMostPlaces = 1u << 28;

// A thread's walk down its column. Groups are numbered from `base` on, which is the same for the
// whole block, so that what a thread keeps has 32 bits.
struct Walk {
  int64_t row_block, base;
  uint32_t column_block, place, step, whole, end;
  int64_t column;

  FD_HD Walk(const Grid& grid, uint32_t block, int thread) {
    row_block = block / grid.column_blocks;
    column_block = block - static_cast<uint32_t>(row_block) * grid.column_blocks;
    const int64_t first_column = static_cast<int64_t>(column_block) * grid.width;
    base = row_block * grid.rows_per_block * grid.columns + first_column;
    const uint32_t columns = bounded(grid.columns, kMostPlaces);
    const uint32_t lane = thread & (grid.width - 1);
    column = first_column + lane;
    place = thread / grid.width * columns + lane;
    step = kThreads / grid.width * columns;
    const uint32_t places =
        column < grid.columns
            ? bounded(grid.rows_per_block * grid.columns - first_column, kMostPlaces)
            : 0;
    whole = bounded(grid.groups - base, places);
    end = bounded(grid.groups + 1 - base, places);  // a cut group comes after the whole ones
  }

  static FD_HD uint32_t bounded(int64_t value, uint32_t most) {
    return value < 0 ? 0 : value < most ? static_cast<uint32_t>(value) : most;
  }
};

// A group of a tensor. The sum of what is the same for all threads is left to the compiler.
template <class T>
FD_HD T* group_at(T* tensor, int64_t base, uint32_t place) {
  return tensor + base * kGroup + static_cast<uint64_t>(place) * kGroup;
}

template <class T>
struct PrecisionOf {
  using Type = Reduced;
};
template <>
struct PrecisionOf<float> {
  using Type = Full;
};
template <>
struct PrecisionOf<double> {
  using Type = Full;
};

template <class C>
FD_HD C number(const Number& value) {
  if constexpr (std::is_same_v<C, double>) {
    return value.wide;
  } else {
    return value.single;
  }
}

template <class T, class C>
FD_HD C bias_value(const BiasRule& bias, int64_t channel) {
  return bias.wide ? static_cast<const float*>(bias.values)[channel]
                   : widen(static_cast<const T*>(bias.values)[channel]);
}

// The bias of the eight elements from `column` on.
template <class T, class C>
FD_HD void load_bias(const BiasRule& bias, const Layout& layout, int64_t column,
                     C (&values)[kGroup]) {
  // -0 is the one number whose addition changes nothing.
#pragma unroll
  for (int k = 0; k < kGroup; ++k) values[k] = C(-0.0);
  if (!bias.values || column >= layout.period) return;
  int64_t channel = column;
  int64_t left = layout.inner;  // elements until the next channel
  if (layout.period != layout.channels) {
    const int64_t place =
        column - layout.by_repetition.divide(column) * layout.channels * layout.inner;
    channel = layout.by_inner.divide(place);
    left = layout.inner - (place - channel * layout.inner);
  }
#pragma unroll
  for (int k = 0; k < kGroup; ++k) {
    values[k] = bias_value<T, C>(bias, channel);
    if (--left == 0) {
      left = layout.inner;
      channel = channel + 1 == layout.channels ? 0 : channel + 1;
    }
  }
}

template <class T, class Y, template <class> class Functor, bool kVector>
struct Forward {
  using C = typename Arithmetic<T>::Scalar;
  using Function = Functor<typename PrecisionOf<T>::Type>;

  const ForwardArgs& args;
  PhiloxState state;
  C bias[kGroup];

  FD_HD Forward(const ForwardArgs& arguments, int64_t column) : args(arguments) {
    state = resolve(args.random);
    load_bias<T>(args.bias, args.layout, column * kGroup, bias);
  }
  FD_HD const T* x(int64_t base, uint32_t place) const {
    return group_at(static_cast<const T*>(args.x), base, place);
  }
  FD_HD const Y* residual(int64_t base, uint32_t place) const {
    return group_at(static_cast<const Y*>(args.residual), base, place);
  }
  FD_HD Y* y(int64_t base, uint32_t place) const {
    return group_at(static_cast<Y*>(args.y), base, place);
  }

  // In place.
  template <class Keep>
  FD_HD void apply(C (&values)[kGroup], const Keep& keep) const {
    const C scale = number<C>(args.scale), shift = number<C>(args.shift);
    const C fill = number<C>(args.fill), parameter = number<C>(args.parameter);
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      values[k] =
          forward_element<Function>(values[k] + bias[k], keep(k), scale, shift, fill, parameter);
    }
  }
  FD_HD void add(C (&values)[kGroup], const C (&others)[kGroup]) const {
#pragma unroll
    for (int k = 0; k < kGroup; ++k) values[k] = others[k] + values[k];
  }

  FD_HD void element_by_element(int64_t base, uint32_t place) const {
    const int64_t position = (base + place) * kGroup;
    const int64_t left = args.layout.numel - position;
    const int count = left < kGroup ? static_cast<int>(left) : kGroup;
    const AnyMask mask = any_mask(args.mask, state, position, count);
    C values[kGroup];
    Single<T>::load(x(base, place), count, values);
    apply(values, mask);
    if (args.has_residual) {
      C others[kGroup];
      Single<Y>::load(residual(base, place), count, others);
      add(values, others);
    }
    Single<Y>::store(y(base, place), count, values);
  }

  // Several whole groups at a time, `step` apart, so that their loads overlap.
  template <int kUnroll>
  FD_HD void vector(int64_t base, uint32_t place, uint32_t step) const {
    Packed<T> packed[kUnroll];
    Packed<Y> others[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) packed[u].load(x(base, place + u * step));
    if (args.has_residual) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) others[u].load(residual(base, place + u * step));
    }
    GroupMask masks[kUnroll];
    group_masks(args.mask, state, base + place, step, masks);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      C values[kGroup];
      packed[u].widen_to(values);
      apply(values, masks[u]);
      if (args.has_residual) {
        C wide[kGroup];
        others[u].widen_to(wide);
        add(values, wide);
      }
      Packed<Y>::store(y(base, place + u * step), values);
    }
  }
};

template <class T, class Y, template <class> class Functor, bool kVector>
__global__ void __launch_bounds__(kThreads, kBlocks<T>)
    forward_kernel(const ForwardArgs args, const Grid grid) {
  Walk walk(grid, blockIdx.x, threadIdx.x);
  const Forward<T, Y, Functor, kVector> work(args, walk.column);
  if (args.random.written_to && blockIdx.x == 0 && threadIdx.x == 0) {
    args.random.written_to[0] = static_cast<int64_t>(work.state.seed);
    args.random.written_to[1] = static_cast<int64_t>(work.state.offset);
  }
  if constexpr (kVector) {
    constexpr int kUnroll = 2;
    const uint32_t further = (kUnroll - 1) * walk.step;
    const uint32_t last = walk.whole > further ? walk.whole - further : 0;
#pragma unroll 1
    for (; walk.place < last; walk.place += kUnroll * walk.step) {
      work.template vector<kUnroll>(walk.base, walk.place, walk.step);
    }
  }
#pragma unroll 1
  for (; walk.place < walk.end; walk.place += walk.step) {
    const int64_t position = (walk.base + walk.place) * kGroup;
    if (position < args.layout.numel) work.element_by_element(walk.base, walk.place);
  }
}

template <class T, class DY, template <class> class Functor, bool kVector>
struct Backward {
  using C = typename Arithmetic<T>::Scalar;
  using Function = Functor<typename PrecisionOf<T>::Type>;

  const BackwardArgs& args;
  PhiloxState state;
  C bias[kGroup];
  C sums[kGroup];

  FD_HD Backward(const BackwardArgs& arguments, int64_t column) : args(arguments) {
    state = resolve(args.random);
    load_bias<T>(args.bias, args.layout, column * kGroup, bias);
#pragma unroll
    for (int k = 0; k < kGroup; ++k) sums[k] = C(0);
  }
  FD_HD const DY* dy(int64_t base, uint32_t place) const {
    return group_at(static_cast<const DY*>(args.dy), base, place);
  }
  FD_HD const T* x(int64_t base, uint32_t place) const {
    return group_at(static_cast<const T*>(args.x), base, place);
  }
  FD_HD T* dx(int64_t base, uint32_t place) const {
    return group_at(static_cast<T*>(args.dx), base, place);
  }

  // `gradient` comes in as dy and leaves as the gradient by x + bias.
  template <class Keep>
  FD_HD void apply(C (&gradient)[kGroup], const C (&values)[kGroup], const Keep& keep) {
    const C scale = number<C>(args.scale), parameter = number<C>(args.parameter);
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      gradient[k] =
          backward_element<Function>(gradient[k], values[k] + bias[k], keep(k), scale, parameter);
      sums[k] = sums[k] + gradient[k];
    }
  }

  FD_HD void element_by_element(int64_t base, uint32_t place) {
    const int64_t position = (base + place) * kGroup;
    const int64_t left = args.layout.numel - position;
    const int count = left < kGroup ? static_cast<int>(left) : kGroup;
    const AnyMask mask = any_mask(args.mask, state, position, count);
    C gradient[kGroup], values[kGroup] = {};
    Single<DY>::load(dy(base, place), count, gradient);
    if constexpr (!Function::kIdentity) Single<T>::load(x(base, place), count, values);
    apply(gradient, values, mask);
    if (args.dx) Single<T>::store(dx(base, place), count, gradient);
  }

  template <int kUnroll>
  FD_HD void vector(int64_t base, uint32_t place, uint32_t step) {
    Packed<DY> upstream[kUnroll];
    Packed<T> packed[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      upstream[u].load(dy(base, place + u * step));
      if constexpr (!Function::kIdentity) packed[u].load(x(base, place + u * step));
    }
    GroupMask masks[kUnroll];
    group_masks(args.mask, state, base + place, step, masks);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      C gradient[kGroup], values[kGroup] = {};
      upstream[u].widen_to(gradient);
      if constexpr (!Function::kIdentity) packed[u].widen_to(values);
      apply(gradient, values, masks[u]);
      if (args.dx) Packed<T>::store(dx(base, place + u * step), gradient);
    }
  }
};

template <class T, class DY, template <class> class Functor, bool kVector>
__global__ void __launch_bounds__(kThreads, kBlocks<T>)
    backward_kernel(const BackwardArgs args, const Grid grid) {
  using C = typename Arithmetic<T>::Scalar;
  Walk walk(grid, blockIdx.x, threadIdx.x);
  Backward<T, DY, Functor, kVector> work(args, walk.column);
  if constexpr (kVector) {
    constexpr int kUnroll = 2;
    const uint32_t further = (kUnroll - 1) * walk.step;
    const uint32_t last = walk.whole > further ? walk.whole - further : 0;
#pragma unroll 1
    for (; walk.place < last; walk.place += kUnroll * walk.step) {
      work.template vector<kUnroll>(walk.base, walk.place, walk.step);
    }
  }
#pragma unroll 1
  for (; walk.place < walk.end; walk.place += walk.step) {
    const int64_t position = (walk.base + walk.place) * kGroup;
    if (position < args.layout.numel) work.element_by_element(walk.base, walk.place);
  }
  if (!args.partials) return;

  // The rows of the block are added up in the order of their threads.
  __shared__ C sums[kThreads * kGroup];
#pragma unroll
  for (int k = 0; k < kGroup; ++k) sums[threadIdx.x * kGroup + k] = work.sums[k];
  __syncthreads();
  const int width = grid.width * kGroup;  // in elements
  const int64_t first_column = static_cast<int64_t>(walk.column_block) * width;
  C* partials = static_cast<C*>(args.partials) + walk.row_block * args.layout.period;
#pragma unroll 1
  for (int i = threadIdx.x; i < width && first_column + i < args.layout.period; i += kThreads) {
    C sum = sums[i];
    for (int k = i + width; k < kThreads * kGroup; k += width) sum += sums[k];
    partials[first_column + i] = sum;
  }
}

// Adds up `copies` partial sums of each value of the bias. A block has `width` channels; the
// threads of a channel take its numbers in turn, and one of them adds their sums up in order.
template <class C, class T>
__global__ void __launch_bounds__(kThreads)
    bias_sum_kernel(const C* partials, const Layout layout, int64_t copies, int width, T* dbias) {
  __shared__ double sums[kThreads];
  const int lanes = kThreads / width;
  const int lane = threadIdx.x / width;
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * width + threadIdx.x % width;
  double sum = 0;
  if (channel < layout.channels) {
    const int64_t once = layout.channels * layout.inner;
#pragma unroll 1
    for (int64_t i = lane; i < copies * layout.inner; i += lanes) {
      const int64_t copy = layout.by_inner.divide(i);
      sum += partials[copy * once + channel * layout.inner + (i - copy * layout.inner)];
    }
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (lane != 0 || channel >= layout.channels) return;
#pragma unroll 1
  for (int i = 1; i < lanes; ++i) sum += sums[i * width + threadIdx.x];
  narrow(static_cast<typename Arithmetic<T>::Scalar>(sum), dbias[channel]);
}

static __global__ void __launch_bounds__(kThreads)
    mask_kernel(const MaskRule rule, const RandomState random, int64_t numel, bool* kept) {
  const int64_t position = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kGroup;
  if (position >= numel) return;
  const int64_t left = numel - position;
  const int count = left < kGroup ? static_cast<int>(left) : kGroup;
  const AnyMask mask = any_mask(rule, resolve(random), position, count);
  for (int k = 0; k < count; ++k) kept[position + k] = mask(k);
}

static __global__ void state_kernel(const RandomState random) {
  const PhiloxState state = resolve(random);
  random.written_to[0] = static_cast<int64_t>(state.seed);
  random.written_to[1] = static_cast<int64_t>(state.offset);
}

}  // namespace fused_dropout::cuda
