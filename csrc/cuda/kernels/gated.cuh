// The gated kernels: y = drop(act(gate + gate_bias) * (value + value_bias)), and its gradient.
#pragma once

#include <algorithm>

#include "cuda/device/column_loop.cuh"
#include "cuda/device/mask.cuh"
#include "cuda/device/operands.cuh"
#include "cuda/device/sums.cuh"
#include "cuda/gated.h"
#include "math/activation_dispatch.h"

namespace fused_dropout::cuda {

// The addresses in a half of x (gate or value) of the elements in a thread's column. A row of x is
// twice as long as a row of y. The element with offset i in y, at position c of its row, has offset
// 2 * i - c from the first element of the half. For one element of a group, c is the same in all
// rows.
struct HalfRows {
  int64_t width;
  int64_t first;  // the position in its row of the column's first element

  FD_HD HalfRows(const Layout& layout, int64_t column) {
    width = layout.channels;
    first = offset_in_repetition(layout, column * kGroup);
  }

  // The address of a group that lies within one row.
  template <class T>
  FD_HD T* group_at(T* half, int64_t base, uint32_t offset) const {
    constexpr int kBoth = 2 * kGroup;
    return half + (base * kBoth - first) + static_cast<uint64_t>(offset) * kBoth;
  }

  // Calls visit(k, index) for the first `count` elements of any group, with their offsets in the
  // half.
  template <class Visit>
  FD_HD void for_each(int64_t position, int count, Visit visit) const {
    int64_t column = first;
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      if (k < count) visit(k, 2 * (position + k) - column);
      if (++column == width) column = 0;
    }
  }
  template <class T, class C>
  FD_HD void load(const T* half, int64_t position, int count, C (&values)[kGroup]) const {
#pragma unroll
    for (int k = 0; k < kGroup; ++k) values[k] = C(0);
    for_each(position, count, [&](int k, int64_t index) { values[k] = widen(half[index]); });
  }
  template <class T, class C>
  FD_HD void store(T* half, int64_t position, int count, const C (&values)[kGroup]) const {
    for_each(position, count, [&](int k, int64_t index) { narrow(values[k], half[index]); });
  }
};

// The operands that forward and backward have in common.
template <class T, template <class> class Functor, class Args>
struct GatedOperands {
  using C = typename Arithmetic<T>::Scalar;
  using Function = Functor<typename PrecisionOf<T>::Type>;

  const Args& args;
  PhiloxState state;
  HalfRows rows;
  C gate_bias[kGroup], value_bias[kGroup];

  FD_HD GatedOperands(const Args& arguments, int64_t column)
      : args(arguments), state(resolve(args.random)), rows(args.layout, column) {
    load_bias<T>(args.gate_bias, args.layout, column * kGroup, gate_bias);
    load_bias<T>(args.value_bias, args.layout, column * kGroup, value_bias);
  }
  FD_HD const T* gate() const { return static_cast<const T*>(args.gate); }
  FD_HD const T* value() const { return static_cast<const T*>(args.value); }
};

// The work of one thread on the groups of its column.
template <class T, template <class> class Functor>
struct GatedForward : GatedOperands<T, Functor, GatedForwardArgs> {
  using Operands = GatedOperands<T, Functor, GatedForwardArgs>;
  using Operands::args, Operands::state, Operands::rows, Operands::gate, Operands::value;
  using Operands::gate_bias, Operands::value_bias;
  using typename Operands::C;
  using typename Operands::Function;

  FD_HD GatedForward(const GatedForwardArgs& arguments, int64_t column)
      : Operands(arguments, column) {}
  FD_HD T* y(int64_t base, uint32_t offset) const {
    return group_at(static_cast<T*>(args.y), base, offset);
  }

  // Overwrites `gates` with the result.
  template <class Keep>
  FD_HD void apply(C (&gates)[kGroup], const C (&values)[kGroup], const Keep& keep) const {
    const C scale = number<C>(args.scale), shift = number<C>(args.shift);
    const C fill = number<C>(args.fill), parameter = number<C>(args.parameter);
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      gates[k] = gated_element<Function>(gates[k] + gate_bias[k], values[k] + value_bias[k],
                                         keep(k), scale, shift, fill, parameter);
    }
  }

  FD_HD void element_by_element(int64_t base, uint32_t offset) const {
    const int64_t position = (base + offset) * kGroup;
    const int count = count_in_group(args.layout.numel - position);
    const MaskBits mask = mask_bits(args.mask, state, position, count);
    C gates[kGroup], values[kGroup];
    rows.load(gate(), position, count, gates);
    rows.load(value(), position, count, values);
    apply(gates, values, mask);
    Elementwise<T>::store(y(base, offset), count, gates);
  }

  template <int kUnroll>
  FD_HD void full_groups(int64_t base, uint32_t offset, uint32_t step) const {
    Packed<T> packed_gates[kUnroll], packed_values[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      packed_gates[u].load(rows.group_at(gate(), base, offset + u * step));
      packed_values[u].load(rows.group_at(value(), base, offset + u * step));
    }
    GroupMask masks[kUnroll];
    group_masks(args.mask, state, base + offset, step, masks);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      C gates[kGroup], values[kGroup];
      packed_gates[u].widen_to(gates);
      packed_values[u].widen_to(values);
      apply(gates, values, masks[u]);
      Packed<T>::store(y(base, offset + u * step), gates);
    }
  }
};

// Without 16-byte accesses a thread holds the addresses of single elements. Five thread blocks on a
// multiprocessor leave it 96 registers.
template <class T, bool kVectorised>
constexpr int kForwardBlocksPerSM = kVectorised ? kBlocksPerSM<T> : std::min(kBlocksPerSM<T>, 5);

template <class T, template <class> class Functor, bool kVectorised>
__global__ void __launch_bounds__(kThreads, kForwardBlocksPerSM<T, kVectorised>)
    gated_forward_kernel(const GatedForwardArgs args, const ColumnGrid grid) {
  ColumnLoop loop(grid, blockIdx.x, threadIdx.x);
  const GatedForward<T, Functor> work(args, loop.column);
  if constexpr (kVectorised) {                   // all groups are full
    for_full_groups<4 / sizeof(T)>(loop, work);  // 64 bytes of loads in flight
    for_full_groups<1>(loop, work);
  } else {
    for_remaining_groups(loop, args.layout.numel, work);
  }
}

// A thread keeps two biases and two sums for each element. Five thread blocks on a multiprocessor
// leave it 96 registers, three leave 168.
template <class T, bool kVectorised>
constexpr int kBackwardBlocksPerSM = std::is_same_v<T, double> ? 1
                                     : kVectorised             ? 5
                                                               : 3;

// The same for the gradients. The sums are the thread's share of the bias gradients.
template <class T, template <class> class Functor>
struct GatedBackward : GatedOperands<T, Functor, GatedBackwardArgs> {
  using Operands = GatedOperands<T, Functor, GatedBackwardArgs>;
  using Operands::args, Operands::state, Operands::rows, Operands::gate, Operands::value;
  using Operands::gate_bias, Operands::value_bias;
  using typename Operands::C;
  using typename Operands::Function;

  C gate_sums[kGroup], value_sums[kGroup];

  FD_HD GatedBackward(const GatedBackwardArgs& arguments, int64_t column)
      : Operands(arguments, column) {
#pragma unroll
    for (int k = 0; k < kGroup; ++k) gate_sums[k] = value_sums[k] = C(0);
  }
  FD_HD const T* dy(int64_t base, uint32_t offset) const {
    return group_at(static_cast<const T*>(args.dy), base, offset);
  }
  FD_HD T* dgate() const { return static_cast<T*>(args.dgate); }
  FD_HD T* dvalue() const { return static_cast<T*>(args.dvalue); }

  // Overwrites `gates` and `values` with their gradients.
  template <class Keep>
  FD_HD void apply(const C (&upstream)[kGroup], C (&gates)[kGroup], C (&values)[kGroup],
                   const Keep& keep) {
    const C scale = number<C>(args.scale), parameter = number<C>(args.parameter);
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      gated_backward_element<Function>(upstream[k], gates[k] + gate_bias[k],
                                       values[k] + value_bias[k], keep(k), scale, parameter,
                                       gates[k], values[k]);
      gate_sums[k] = gate_sums[k] + gates[k];
      value_sums[k] = value_sums[k] + values[k];
    }
  }

  FD_HD void element_by_element(int64_t base, uint32_t offset) {
    const int64_t position = (base + offset) * kGroup;
    const int count = count_in_group(args.layout.numel - position);
    const MaskBits mask = mask_bits(args.mask, state, position, count);
    C upstream[kGroup], gates[kGroup], values[kGroup];
    Elementwise<T>::load(dy(base, offset), count, upstream);
    rows.load(gate(), position, count, gates);
    rows.load(value(), position, count, values);
    apply(upstream, gates, values, mask);
    if (!args.dgate) return;
    rows.store(dgate(), position, count, gates);
    rows.store(dvalue(), position, count, values);
  }

  template <int kUnroll>
  FD_HD void full_groups(int64_t base, uint32_t offset, uint32_t step) {
    Packed<T> packed_dy[kUnroll], packed_gates[kUnroll], packed_values[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      packed_dy[u].load(dy(base, offset + u * step));
      packed_gates[u].load(rows.group_at(gate(), base, offset + u * step));
      packed_values[u].load(rows.group_at(value(), base, offset + u * step));
    }
    GroupMask masks[kUnroll];
    group_masks(args.mask, state, base + offset, step, masks);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      C upstream[kGroup], gates[kGroup], values[kGroup];
      packed_dy[u].widen_to(upstream);
      packed_gates[u].widen_to(gates);
      packed_values[u].widen_to(values);
      apply(upstream, gates, values, masks[u]);
      if (!args.dgate) continue;
      Packed<T>::store(rows.group_at(dgate(), base, offset + u * step), gates);
      Packed<T>::store(rows.group_at(dvalue(), base, offset + u * step), values);
    }
  }
};

template <class T, template <class> class Functor, bool kVectorised>
__global__ void __launch_bounds__(kThreads, kBackwardBlocksPerSM<T, kVectorised>)
    gated_backward_kernel(const GatedBackwardArgs args, const ColumnGrid grid) {
  using C = typename Arithmetic<T>::Scalar;
  ColumnLoop loop(grid, blockIdx.x, threadIdx.x);
  GatedBackward<T, Functor> work(args, loop.column);
  if constexpr (kVectorised) {
    for_full_groups<1>(loop, work);
  } else {
    for_remaining_groups(loop, args.layout.numel, work);
  }
  if (args.gate_partials) {
    const int64_t period = args.layout.period;
    write_partials(loop, grid, period, work.gate_sums, static_cast<C*>(args.gate_partials));
    write_partials(loop, grid, period, work.value_sums, static_cast<C*>(args.value_partials));
  }
}

// True if every group of eight elements lies within one row and is aligned in the mask.
inline bool has_full_groups(const Layout& layout, const MaskIndexing& mask) {
  return layout.channels % kGroup == 0 && is_vectorisable(mask);
}

template <class T, template <class> class Functor>
void gated_forward_with(FunctorTag<Functor>, const GatedForwardArgs& args, Stream stream) {
  launch_column_loop(
      gated_forward_kernel<T, Functor, kCanVectorise<T>>, gated_forward_kernel<T, Functor, false>,
      has_full_groups(args.layout, args.mask) && are_aligned(args.gate, args.value, args.y),
      forward_grid(args.layout), args, stream);
}

template <class T, template <class> class Functor>
void gated_backward_with(FunctorTag<Functor>, const GatedBackwardArgs& args, Stream stream) {
  launch_column_loop(gated_backward_kernel<T, Functor, kCanVectorise<T>>,
                     gated_backward_kernel<T, Functor, false>,
                     has_full_groups(args.layout, args.mask) &&
                         are_aligned(args.dy, args.gate, args.value, args.dgate, args.dvalue),
                     backward_grid(args.layout), args, stream);
}

template <class T>
void gated_forward_of(GatedForwardArgs args, int activation, Stream stream) {
  args.gate_bias = bias_operand<T>(args.gate_bias, args.layout);
  args.value_bias = bias_operand<T>(args.value_bias, args.layout);
  with_functor(activation, [&](auto functor) { gated_forward_with<T>(functor, args, stream); });
}

template <class T>
void gated_backward_of(GatedBackwardArgs args, int activation, Stream stream) {
  args.gate_bias = bias_operand<T>(args.gate_bias, args.layout);
  args.value_bias = bias_operand<T>(args.value_bias, args.layout);
  with_functor(activation, [&](auto functor) { gated_backward_with<T>(functor, args, stream); });
}

// Each type has a translation unit of its own in instantiations/.
#define FD_INSTANTIATE(T)                                           \
  template void gated_forward_of<T>(GatedForwardArgs, int, Stream); \
  template void gated_backward_of<T>(GatedBackwardArgs, int, Stream);

}  // namespace fused_dropout::cuda
