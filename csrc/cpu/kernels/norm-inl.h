// The normalised kernels: h = residual + branch, y = norm(h) * weight + norm_bias, where the branch
// is drop(act(x + bias)) * layer_scale * row_scale; and their gradients.
#pragma once

#include "cpu/kernels/registers-inl.h"

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
  for_each_register<A::kWidth>(0, width, [&](int64_t i, auto some) FD_INLINE {
    prefetch_register(x + i + kChunk);
    store(target + i, forward_element<Function>(load_some(x + i, some) + load_register(bias + i),
                                                keep_of<V>(draws + i, keep_count), scale, shift,
                                                fill, parameter));
  });
}

template <class T, template <class> class Functor>
void branch_backward_kernel(const BranchArgs& args, int64_t row, int64_t width,
                            const uint16_t* draws, const void* gradients, void* dx, void* sums) {
  using A = Arithmetic<T>;
  using V = typename A::Register;
  using C = typename A::Scalar;
  using Function = Functor<typename A::Precision>;

  const T* x = static_cast<const T*>(args.x) + row * width;
  const C* bias = static_cast<const C*>(args.bias);
  const C* upstream = static_cast<const C*>(gradients);
  T* target = dx ? static_cast<T*>(dx) + row * width : nullptr;
  C* columns = static_cast<C*>(sums);
  const uint32_t keep_count = args.mask.keep_count;
  const V scale(static_cast<C>(args.scale)), parameter(static_cast<C>(args.parameter));
  const bool non_temporal = args.non_temporal && is_register_aligned(target);
  for_each_register<A::kWidth>(0, width, [&](int64_t i, auto some) FD_INLINE {
    V value(C(0));
    if constexpr (!Function::kIdentity) {
      value = load_some(x + i, some) + load_register(bias + i);
    }
    const V dy = load_register(upstream + i);
    const V result =
        backward_element<Function>(dy, value, keep_of<V>(draws + i, keep_count), scale, parameter);
    if (target) store_some(target + i, result, some, non_temporal);
    if (columns) {
      const V term = mutated(Mutation::kUnmaskedBiasGradient) ? dy * scale : result;
      store_some(columns + i, load_register(columns + i) + term, some);
    }
  });
}

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

}  // namespace fused_dropout::cpu::FD_ISA
