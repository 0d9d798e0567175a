// The norm kernels, one row after another: h = residual + branch and
// y = norm(h) * weight + norm_bias, with branch = drop(act(x + bias)) * layer_scale * row_scale;
// and their gradients. In the dispatch table as `norm`.
#pragma once

#include "cpu/kernels/dispatch-inl.h"
#include "cpu/kernels/draws-inl.h"
#include "cpu/kernels/norm_branch-inl.h"
#include "cpu/kernels/registers-inl.h"
#include "cpu/norm.h"
#include "math/elementwise.h"

namespace fused_dropout::cpu::FD_ISA {

// The buffers of one row, within the scratch memory (see scratch_bytes).
template <class C>
struct RowScratch {
  C* values;
  C* branch;
  C* gradients;
  uint16_t* draws;

  RowScratch(void* scratch, int64_t width) {
    const int64_t length = width + 2 * kChunk + kPadding;
    values = static_cast<C*>(scratch);
    branch = values + length;
    gradients = branch + length;
    draws = reinterpret_cast<uint16_t*>(gradients + length);
  }
};

template <class C>
FD_HD C row_scale_of(const BranchArgs& args, int64_t row) {
  return args.row_scale ? static_cast<const C*>(args.row_scale)[row] : C(1);
}

// Writes h of one row to `values` (which may be `branch`), and to `h` if that is not null. Returns
// the mean of the row up to rounding; it is summed up in shares of 1 / width, which cannot
// overflow. If h is a result, `values` gets the rounded numbers: backward sees only those, and in
// rows whose values hardly differ, rounding is a large part of what is normalised.
template <class T, class H, class C>
FD_HD double add_branch(const NormArgs& args, const void* residual, int64_t row, const C* branch,
                        C* values, void* h) {
  using A = Arithmetic<T>;
  using V = typename A::Register;
  const C* layer_scale = static_cast<const C*>(args.branch.layer_scale);
  const V row_scale(row_scale_of<C>(args.branch, row));
  const H* residual_row = static_cast<const H*>(residual) + (residual ? row * args.width : 0);
  H* h_row = h ? static_cast<H*>(h) + row * args.width : nullptr;
  const V share(C(1) / static_cast<C>(args.width));
  double total = 0;
  for_each_row_chunk(args.width, [&](int64_t first, int64_t last) FD_INLINE {
    V sum(C(0));
    for_each_register<A::kWidth>(first, last, [&](int64_t i, auto extent) FD_INLINE {
      V residual_value(C(-0.0));
      if (residual_row) {
        prefetch_register(residual_row + i + kChunk);
        residual_value = load_register(residual_row + i, extent);
      }
      V value = zero_past_end(residual_element(residual_value, load_register(branch + i),
                                               load_register(layer_scale + i), row_scale),
                              extent);
      if (h_row) {
        store_register(h_row + i, value, extent);
        value = load_register(h_row + i, extent);
      }
      store(values + i, value);
      sum = add_product(sum, value, share);
    });
    total += sum_of_lanes(sum);
  });
  return total;
}

// T is the type of x, H that of the residual and h, Y that of y.
template <class T, class H, class Y>
void norm_forward_kernel(const NormForwardArgs& args, BranchKernel branch, int64_t first_row,
                         int64_t last_row, void* scratch) {
  using A = Arithmetic<T>;
  using V = typename A::Register;
  using C = typename A::Scalar;
  constexpr int kWidth = A::kWidth;

  const RowScratch<C> buffers(scratch, args.width);
  RowDraws draws(args.branch.mask, args.width, last_row * args.width, buffers.draws,
                 RowDraws::max_draws(args.width));
  const C* weight = static_cast<const C*>(args.weight);
  const C* norm_bias = static_cast<const C*>(args.norm_bias);
  C* values = buffers.values;

  for (int64_t row = first_row; row < last_row; ++row) {
    branch(args.branch, row, args.width, draws.at(row * args.width, args.width), values);
    const double sum = add_branch<T, H>(args, args.residual, row, values, values, args.h);
    C mean = args.centered ? static_cast<C>(sum) : C(0);
    const V rounded_mean(mean);
    double differences = 0, squares = 0;
    for_each_row_chunk(args.width, [&](int64_t first, int64_t last) FD_INLINE {
      V chunk_sum(C(0)), chunk_squares(C(0));
      for_each_register<kWidth>(first, last, [&](int64_t i, auto extent) FD_INLINE {
        const V difference = zero_past_end(load_register(values + i) - rounded_mean, extent);
        chunk_sum = chunk_sum + difference;
        chunk_squares = add_product(chunk_squares, difference, difference);
      });
      differences += sum_of_lanes(chunk_sum);
      squares += sum_of_lanes(chunk_squares);
    });
    double variance = squares / args.width;
    if (args.centered) correct_moments(differences / args.width, mean, variance);
    const V center(mean);
    const C rstd = static_cast<C>(1.0 / std::sqrt(variance + args.eps));
    if (args.centered) static_cast<C*>(args.mean)[row] = mean;
    static_cast<C*>(args.rstd)[row] = rstd;

    Y* y = static_cast<Y*>(args.y) + row * args.width;
    const bool non_temporal = args.non_temporal && is_register_aligned(y);
    const V factor(rstd);
    for_each_register<kWidth>(0, args.width, [&](int64_t i, auto extent) FD_INLINE {
      store_register(y + i,
                     norm_element(load_register(values + i), center, factor,
                                  load_register(weight + i), load_register(norm_bias + i)),
                     extent, non_temporal);
    });
  }
}

template <class T, class H, class Y>
void norm_backward_kernel(const NormBackwardArgs& args, BranchKernel branch,
                          BranchBackwardKernel branch_backward, const ColumnSums& sums,
                          int64_t first_row, int64_t last_row, void* scratch) {
  using A = Arithmetic<T>;
  using V = typename A::Register;
  using C = typename A::Scalar;
  constexpr int kWidth = A::kWidth;

  const int64_t width = args.width;
  const RowScratch<C> buffers(scratch, width);
  RowDraws row_draws(args.branch.mask, width, last_row * width, buffers.draws,
                     RowDraws::max_draws(width));
  const C* weight = static_cast<const C*>(args.weight);
  const C* layer_scale = static_cast<const C*>(args.branch.layer_scale);
  C* weight_sums = static_cast<C*>(sums.weight);
  C* norm_bias_sums = static_cast<C*>(sums.norm_bias);
  C* layer_scale_sums = static_cast<C*>(sums.layer_scale);

  for (int64_t row = first_row; row < last_row; ++row) {
    const uint16_t* draws = row_draws.at(row * width, width);
    if (layer_scale_sums || !args.h) {
      branch(args.branch, row, width, draws, buffers.branch);
    }
    if (!args.h) {
      add_branch<T, H>(args, args.residual, row, buffers.branch, buffers.values, nullptr);
    }
    const H* h = args.h ? static_cast<const H*>(args.h) + row * width : nullptr;
    const Y* dy = static_cast<const Y*>(args.dy) + row * width;
    const V center(args.centered ? static_cast<const C*>(args.mean)[row] : C(0));
    const V factor(static_cast<const C*>(args.rstd)[row]);

    // The normalised values, the gradients with respect to them, and the two sums through which the
    // gradient depends on the statistics.
    double gradient_sum = 0, product_sum = 0;
    for_each_row_chunk(width, [&](int64_t first, int64_t last) FD_INLINE {
      V gradients(C(0)), products(C(0));
      for_each_register<kWidth>(first, last, [&](int64_t i, auto extent) FD_INLINE {
        V value;
        if (h) {
          prefetch_register(h + i + kChunk);
          value = load_register(h + i, extent);
        } else {
          value = load_register(buffers.values + i);
        }
        const V normal = normalised(value, center, factor);
        prefetch_register(dy + i + kChunk);
        const V upstream = load_register(dy + i, extent);
        const V gradient = upstream * load_register(weight + i);
        gradients = gradients + gradient;
        products = add_product(products, gradient, normal);
        if (weight_sums) {
          store_register(weight_sums + i,
                         add_product(load_register(weight_sums + i), upstream, normal), extent);
        }
        if (norm_bias_sums) {
          store_register(norm_bias_sums + i, load_register(norm_bias_sums + i) + upstream, extent);
        }
        store(buffers.values + i, normal);
        store(buffers.gradients + i, gradient);
      });
      gradient_sum += sum_of_lanes(gradients);
      product_sum += sum_of_lanes(products);
    });

    const V mean_gradient(args.centered ? static_cast<C>(gradient_sum / width) : C(0));
    const V mean_product(static_cast<C>(product_sum / width));
    const V row_scale(row_scale_of<C>(args.branch, row));
    const H* dh = args.dh ? static_cast<const H*>(args.dh) + row * width : nullptr;
    H* dresidual = args.dresidual ? static_cast<H*>(args.dresidual) + row * width : nullptr;
    const bool non_temporal = args.non_temporal && is_register_aligned(dresidual);
    for_each_register<kWidth>(0, width, [&](int64_t i, auto extent) FD_INLINE {
      const V normal = load_register(buffers.values + i);
      V gradient = norm_backward_element(load_register(buffers.gradients + i), normal,
                                         mean_gradient, mean_product, factor);
      if (dh) {
        prefetch_register(dh + i + kChunk);
        gradient = gradient + load_register(dh + i, extent);
      }
      if (dresidual) store_register(dresidual + i, gradient, extent, non_temporal);
      gradient = gradient * row_scale;
      if (layer_scale_sums) {
        store_register(layer_scale_sums + i,
                       add_product(load_register(layer_scale_sums + i), gradient,
                                   load_register(buffers.branch + i)),
                       extent);
      }
      store(buffers.gradients + i, gradient * load_register(layer_scale + i));
    });
    if (args.dx || sums.bias) {
      branch_backward(args.branch, row, width, draws, buffers.gradients, args.dx, sums.bias);
    }
  }
}

// visit(TypeTag, TypeTag, TypeTag) for the types of x, of h and of y.
template <class Kernel, class Visit>
Kernel with_norm_types(Storage storage, bool wide_h, bool wide_y, Visit visit) {
  return with_type<Kernel>(storage, [&](auto type) -> Kernel {
    if constexpr (sizeof(typename decltype(type)::Type) == 2) {
      if (wide_y) return visit(type, TypeTag<float>{}, TypeTag<float>{});
      if (wide_h) return visit(type, TypeTag<float>{}, type);
    }
    return visit(type, type, type);
  });
}

inline NormForwardKernel norm_forward(Storage storage, bool wide_h, bool wide_y) {
  return with_norm_types<NormForwardKernel>(
      storage, wide_h, wide_y, [](auto x, auto h, auto y) -> NormForwardKernel {
        return norm_forward_kernel<typename decltype(x)::Type, typename decltype(h)::Type,
                                   typename decltype(y)::Type>;
      });
}

inline NormBackwardKernel norm_backward(Storage storage, bool wide_h, bool wide_y) {
  return with_norm_types<NormBackwardKernel>(
      storage, wide_h, wide_y, [](auto x, auto h, auto y) -> NormBackwardKernel {
        return norm_backward_kernel<typename decltype(x)::Type, typename decltype(h)::Type,
                                    typename decltype(y)::Type>;
      });
}

constexpr NormTable norm_table() {
  return {norm_branch, norm_branch_backward, norm_forward, norm_backward};
}

}  // namespace fused_dropout::cpu::FD_ISA
