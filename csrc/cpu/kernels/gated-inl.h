// The gated kernels: y = drop(act(x1 + b1) * (x2 + b2)), and its gradient. In the dispatch table as
// `gated`.
#pragma once

#include "cpu/gated.h"
#include "cpu/kernels/dispatch-inl.h"
#include "cpu/kernels/draws-inl.h"
#include "cpu/kernels/registers-inl.h"
#include "math/elementwise.h"

namespace fused_dropout::cpu::FD_ISA {

// The offsets within a row at which the gate and the value begin.
struct Halves {
  int64_t gate, value;
  FD_HD explicit Halves(const GatedArgs& args)
      : gate(args.gate_first ? 0 : args.width), value(args.width - gate) {}
};

// Calls visit(row, first, last, draws) for every chunk of the rows and columns of `range`.
template <class Visit>
FD_HD void for_each_chunk_with_draws(const GatedArgs& args, const RowRange& range, Visit visit) {
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

  for_each_chunk_with_draws(
      args, range, [&](int64_t row, int64_t first, int64_t last, const uint16_t* draws) FD_INLINE {
        const T* x = static_cast<const T*>(args.x) + row * 2 * args.width;
        T* y = static_cast<T*>(args.y) + row * args.width;
        const bool non_temporal = args.non_temporal && is_register_aligned(y + first);
        for_each_register<A::kWidth>(first, last, [&](int64_t i, auto extent) FD_INLINE {
          prefetch_register(x + halves.gate + i + kChunk);
          prefetch_register(x + halves.value + i + kChunk);
          const V gate =
              load_register(x + halves.gate + i, extent) + load_register(bias + halves.gate + i);
          const V value =
              load_register(x + halves.value + i, extent) + load_register(bias + halves.value + i);
          store_register(
              y + i,
              gated_element<Function>(gate, value, keep_of<V>(draws + (i - first), keep_count),
                                      scale, shift, fill, parameter),
              extent, non_temporal);
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

  for_each_chunk_with_draws(
      args, range, [&](int64_t row, int64_t first, int64_t last, const uint16_t* draws) FD_INLINE {
        const T* x = static_cast<const T*>(args.x) + row * 2 * args.width;
        const T* dy = static_cast<const T*>(args.dy) + row * args.width;
        T* dx = args.dx ? static_cast<T*>(args.dx) + row * 2 * args.width : nullptr;
        for_each_register<A::kWidth>(first, last, [&](int64_t i, auto extent) FD_INLINE {
          prefetch_register(x + halves.gate + i + kChunk);
          prefetch_register(x + halves.value + i + kChunk);
          prefetch_register(dy + i + kChunk);
          const V gate =
              load_register(x + halves.gate + i, extent) + load_register(bias + halves.gate + i);
          const V value =
              load_register(x + halves.value + i, extent) + load_register(bias + halves.value + i);
          V dgate, dvalue;
          gated_backward_element<Function>(load_register(dy + i, extent), gate, value,
                                           keep_of<V>(draws + (i - first), keep_count), scale,
                                           parameter, dgate, dvalue);
          if (dx) {
            store_register(dx + halves.gate + i, dgate, extent);
            store_register(dx + halves.value + i, dvalue, extent);
          }
          if (gate_sums) {
            store_register(gate_sums + i, load_register(gate_sums + i) + dgate, extent);
            store_register(value_sums + i, load_register(value_sums + i) + dvalue, extent);
          }
        });
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

constexpr GatedTable gated_table() { return {gated_forward, gated_backward}; }

}  // namespace fused_dropout::cpu::FD_ISA
