// The gated kernels: y = drop(act(x1 + b1) * (x2 + b2)), and its gradient.
#pragma once

#include "cpu/kernels/registers-inl.h"

namespace fused_dropout::cpu::FD_ISA {

// Where the halves of a row begin: of the gate, and of what it is multiplied with.
struct Halves {
  int64_t gate, value;
  FD_HD explicit Halves(const GatedArgs& args)
      : gate(args.gate_first ? 0 : args.width), value(args.width - gate) {}
};

// Calls visit(row, first, last, draws) for every part of a row within one block.
template <class Visit>
FD_HD void for_each_part(const GatedArgs& args, const RowRange& range, Visit visit) {
  alignas(64) uint16_t buffer[draw_capacity(kChunk)];
  RowDraws draws(args.mask, args.width, range.last_row * args.width, buffer, kChunk);
  for (int64_t row = range.first_row; row < range.last_row; ++row) {
    for (int64_t first = range.first_column; first < range.last_column; first += kChunk) {
      const int64_t last = first + kChunk < range.last_column ? first + kChunk : range.last_column;
      visit(row, first, last, draws.at(row * args.width + first, last - first));
    }
  }
}

template <class T, template <class> class Functor>
void gated_forward_kernel(const GatedForwardArgs& args, const RowRange& range) {
  using A = Arithmetic<T>;
  using V = typename A::Register;
  using C = typename A::Scalar;
  using Function = Functor<typename A::Precision>;

  const Halves halves(args);
  const C* bias = static_cast<const C*>(args.bias);
  const uint32_t keep_count = args.mask.keep_count;
  const V scale(static_cast<C>(args.scale)), shift(static_cast<C>(args.shift)),
      fill(static_cast<C>(args.fill)), parameter(static_cast<C>(args.parameter));

  for_each_part(
      args, range, [&](int64_t row, int64_t first, int64_t last, const uint16_t* draws) FD_INLINE {
        const T* x = static_cast<const T*>(args.x) + row * 2 * args.width;
        T* y = static_cast<T*>(args.y) + row * args.width;
        const bool non_temporal = args.non_temporal && is_register_aligned(y + first);
        for_each_register<A::kWidth>(first, last, [&](int64_t i, auto some) FD_INLINE {
          prefetch_register(x + halves.gate + i + kChunk);
          prefetch_register(x + halves.value + i + kChunk);
          const V gate =
              load_some(x + halves.gate + i, some) + load_register(bias + halves.gate + i);
          const V value =
              load_some(x + halves.value + i, some) + load_register(bias + halves.value + i);
          store_some(
              y + i,
              gated_element<Function>(gate, value, keep_of<V>(draws + (i - first), keep_count),
                                      scale, shift, fill, parameter),
              some, non_temporal);
        });
      });
}

template <class T, template <class> class Functor>
void gated_backward_kernel(const GatedBackwardArgs& args, const ColumnSums& sums,
                           const RowRange& range) {
  using A = Arithmetic<T>;
  using V = typename A::Register;
  using C = typename A::Scalar;
  using Function = Functor<typename A::Precision>;

  const Halves halves(args);
  const C* bias = static_cast<const C*>(args.bias);
  C* gate_sums = static_cast<C*>(args.gate_first ? sums.bias : sums.value_bias);
  C* value_sums = static_cast<C*>(args.gate_first ? sums.value_bias : sums.bias);
  const uint32_t keep_count = args.mask.keep_count;
  const V scale(static_cast<C>(args.scale)), parameter(static_cast<C>(args.parameter));

  for_each_part(
      args, range, [&](int64_t row, int64_t first, int64_t last, const uint16_t* draws) FD_INLINE {
        const T* x = static_cast<const T*>(args.x) + row * 2 * args.width;
        const T* dy = static_cast<const T*>(args.dy) + row * args.width;
        T* dx = args.dx ? static_cast<T*>(args.dx) + row * 2 * args.width : nullptr;
        for_each_register<A::kWidth>(first, last, [&](int64_t i, auto some) FD_INLINE {
          prefetch_register(x + halves.gate + i + kChunk);
          prefetch_register(x + halves.value + i + kChunk);
          prefetch_register(dy + i + kChunk);
          const V gate =
              load_some(x + halves.gate + i, some) + load_register(bias + halves.gate + i);
          const V value =
              load_some(x + halves.value + i, some) + load_register(bias + halves.value + i);
          V dgate, dvalue;
          gated_backward_element<Function>(load_some(dy + i, some), gate, value,
                                           keep_of<V>(draws + (i - first), keep_count), scale,
                                           parameter, dgate, dvalue);
          if (dx) {
            store_some(dx + halves.gate + i, dgate, some);
            store_some(dx + halves.value + i, dvalue, some);
          }
          if (gate_sums) {
            store_some(gate_sums + i, load_register(gate_sums + i) + dgate, some);
            store_some(value_sums + i, load_register(value_sums + i) + dvalue, some);
          }
        });
      });
}

}  // namespace fused_dropout::cpu::FD_ISA
