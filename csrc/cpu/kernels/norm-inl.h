// The normalised kernels: h = residual + branch, y = norm(h) * weight + norm_bias, where the branch
// is drop(act(x + bias)) * layer_scale * row_scale; and their gradients.
#pragma once

#include "cpu/kernels/dispatch-inl.h"
#include "cpu/kernels/draws-inl.h"
#include "cpu/kernels/norm_branch-inl.h"
#include "cpu/kernels/registers-inl.h"
#include "cpu/norm.h"
#include "math/elementwise.h"

namespace fused_dropout::cpu::FD_ISA {

// What a row kernel keeps of one row, within its scratch memory.
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

// h of one row, and its mean up to rounding, in shares that cannot overflow. `values` may be where
// the branch is. Where h is a result, it is the rounded one that is normalised: backward knows no
// other, and in rows whose values hardly differ the rounding is much of what is normalised.
template <class T, class H, class C>
FD_HD double add_branch(const NormArgs& args, const void* residual, int64_t row, const C* branch,
                        C* values, void* h) {
  using A = Arithmetic<T>;
  using V = typename A::Register;
  const C* layer_scale = static_cast<const C*>(args.branch.layer_scale);
  const V row_scale(row_scale_of<C>(args.branch, row));
  const H* stream_in = static_cast<const H*>(residual) + (residual ? row * args.width : 0);
  H* stream_out = h ? static_cast<H*>(h) + row * args.width : nullptr;
  const V share(C(1) / static_cast<C>(args.width));
  double total = 0;
  for_each_chunk_of(args.width, [&](int64_t first, int64_t last) FD_INLINE {
    V sum(C(0));
    for_each_register<A::kWidth>(first, last, [&](int64_t i, auto some) FD_INLINE {
      V before(C(-0.0));
      if (stream_in) {
        prefetch_register(stream_in + i + kChunk);
        before = load_some(stream_in + i, some);
      }
      V value = only_some(stream_element(before, load_register(branch + i),
                                         load_register(layer_scale + i), row_scale),
                          some);
      if (stream_out) {
        store_some(stream_out + i, value, some);
        value = load_some(stream_out + i, some);
      }
      store(values + i, value);
      sum = add_product(sum, value, share);
    });
    total += sum_of_lanes(sum);
  });
  return total;
}

// T, H and Y are the types of x, of the stream (residual and h), and of y.
template <class T, class H, class Y>
void norm_forward_kernel(const NormForwardArgs& args, BranchKernel branch, int64_t first_row,
                         int64_t last_row, void* scratch) {
  using A = Arithmetic<T>;
  using V = typename A::Register;
  using C = typename A::Scalar;
  constexpr int kWidth = A::kWidth;

  const RowScratch<C> row_of(scratch, args.width);
  RowDraws draws(args.branch.mask, args.width, last_row * args.width, row_of.draws,
                 RowDraws::most_for(args.width));
  const C* weight = static_cast<const C*>(args.weight);
  const C* norm_bias = static_cast<const C*>(args.norm_bias);
  C* values = row_of.values;

  for (int64_t row = first_row; row < last_row; ++row) {
    branch(args.branch, row, args.width, draws.at(row * args.width, args.width), values);
    const double sum = add_branch<T, H>(args, args.residual, row, values, values, args.h);
    C mean = args.centered ? static_cast<C>(sum) : C(0);
    const V about(mean);
    double differences = 0, squares = 0;
    for_each_chunk_of(args.width, [&](int64_t first, int64_t last) FD_INLINE {
      V chunk_sum(C(0)), chunk_squares(C(0));
      for_each_register<kWidth>(first, last, [&](int64_t i, auto some) FD_INLINE {
        const V difference = only_some(load_register(values + i) - about, some);
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
    for_each_register<kWidth>(0, args.width, [&](int64_t i, auto some) FD_INLINE {
      store_some(y + i,
                 norm_element(load_register(values + i), center, factor, load_register(weight + i),
                              load_register(norm_bias + i)),
                 some, non_temporal);
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
  const RowScratch<C> row_of(scratch, width);
  RowDraws row_draws(args.branch.mask, width, last_row * width, row_of.draws,
                     RowDraws::most_for(width));
  const C* weight = static_cast<const C*>(args.weight);
  const C* layer_scale = static_cast<const C*>(args.branch.layer_scale);
  C* weight_sums = static_cast<C*>(sums.weight);
  C* norm_bias_sums = static_cast<C*>(sums.norm_bias);
  C* layer_scale_sums = static_cast<C*>(sums.layer_scale);

  for (int64_t row = first_row; row < last_row; ++row) {
    const uint16_t* draws = row_draws.at(row * width, width);
    if (layer_scale_sums || !args.h) {
      branch(args.branch, row, width, draws, row_of.branch);
    }
    if (!args.h) {
      add_branch<T, H>(args, args.residual, row, row_of.branch, row_of.values, nullptr);
    }
    const H* h = args.h ? static_cast<const H*>(args.h) + row * width : nullptr;
    const Y* dy = static_cast<const Y*>(args.dy) + row * width;
    const V center(args.centered ? static_cast<const C*>(args.mean)[row] : C(0));
    const V factor(static_cast<const C*>(args.rstd)[row]);

    // The normalised values, the gradients by them, and the two sums that the statistics pass on.
    double gradient_sum = 0, product_sum = 0;
    for_each_chunk_of(width, [&](int64_t first, int64_t last) FD_INLINE {
      V gradients(C(0)), products(C(0));
      for_each_register<kWidth>(first, last, [&](int64_t i, auto some) FD_INLINE {
        V value;
        if (h) {
          prefetch_register(h + i + kChunk);
          value = load_some(h + i, some);
        } else {
          value = load_register(row_of.values + i);
        }
        const V normal = normalised(value, center, factor);
        prefetch_register(dy + i + kChunk);
        const V upstream = load_some(dy + i, some);
        const V gradient = upstream * load_register(weight + i);
        gradients = gradients + gradient;
        products = add_product(products, gradient, normal);
        if (weight_sums) {
          store_some(weight_sums + i, add_product(load_register(weight_sums + i), upstream, normal),
                     some);
        }
        if (norm_bias_sums) {
          store_some(norm_bias_sums + i, load_register(norm_bias_sums + i) + upstream, some);
        }
        store(row_of.values + i, normal);
        store(row_of.gradients + i, gradient);
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
    for_each_register<kWidth>(0, width, [&](int64_t i, auto some) FD_INLINE {
      const V normal = load_register(row_of.values + i);
      V gradient = norm_backward_element(load_register(row_of.gradients + i), normal, mean_gradient,
                                         mean_product, factor);
      if (dh) {
        prefetch_register(dh + i + kChunk);
        gradient = gradient + load_some(dh + i, some);
      }
      if (dresidual) store_some(dresidual + i, gradient, some, non_temporal);
      gradient = gradient * row_scale;
      if (layer_scale_sums) {
        store_some(layer_scale_sums + i,
                   add_product(load_register(layer_scale_sums + i), gradient,
                               load_register(row_of.branch + i)),
                   some);
      }
      store(row_of.gradients + i, gradient * load_register(layer_scale + i));
    });
    if (args.dx || sums.bias) {
      branch_backward(args.branch, row, width, draws, row_of.gradients, args.dx, sums.bias);
    }
  }
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

constexpr NormTable norm_table() {
  return {norm_branch, norm_branch_backward, norm_forward, norm_backward};
}

}  // namespace fused_dropout::cpu::FD_ISA
