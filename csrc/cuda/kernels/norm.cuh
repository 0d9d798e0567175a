// The norm kernels: h = residual + branch, y = norm(h) * weight + norm_bias, and their gradients.
// The branch is drop(act(x + bias)) * layer_scale * row_scale. A row group of threads keeps a row
// in registers, so that each tensor is read once.
#pragma once

#include "cuda/device/column_totals.cuh"
#include "cuda/device/launch.cuh"
#include "cuda/kernels/norm_row.cuh"

namespace fused_dropout::cuda {

// Thread blocks per multiprocessor. With one group per thread they are two: 32 warps, and 64
// registers per thread.
template <bool kVectorised, int kGroups>
constexpr int kRowBlocksPerSM = kVectorised && kGroups == 1 ? 2 : 1;

template <class T, class H, class Y, bool kIdentity, bool kVectorised, int kGroups>
__global__ void __launch_bounds__(kMaxRowGroup, kRowBlocksPerSM<kVectorised, kGroups>)
    norm_forward_kernel(const NormForwardArgs args, const RowGrid grid) {
  using C = typename Arithmetic<T>::Scalar;
  constexpr int kRowStages = kStages<T, kVectorised, kGroups>;
  FD_DYNAMIC_SHARED(shared);
  RowGroup row_group(grid, threadIdx.x);
  RowGroupSums<C, 1> mean_sum(row_group);
  RowGroupSums<C, 2> moment_sums(row_group);
  Staging staging(shared, args.staged_words, grid.threads(), threadIdx.x);
  NormRow<T, H, kIdentity, kVectorised, kGroups> row(args, args.residual_or_h(), staging);
  const C inverse_width = C(1) / static_cast<C>(args.width);

  for_each_row<kRowStages>(
      grid, args.rows, args.width, row_group, staging,
      [&](const RowSlice& slice) { row.prefetch(slice); },
      [&](const RowSlice& slice) {
        C weight[kGroup], norm_bias[kGroup];
        const auto load_weights = [&](int g) {
          const int column = slice.column(g), count = slice.count<kVectorised>(g);
          load_vector<T, kVectorised>(args.weight, column, count, C(1), weight);
          load_vector<T, kVectorised>(args.norm_bias, column, count, C(-0.0), norm_bias);
        };
        // The loads overlap with the sums. With several groups they would need too many registers.
        if constexpr (kGroups == 1) load_weights(0);
        row.draw_masks(slice);
        wait_for_row<kRowStages>();
        C values[kGroups][kGroup], mean[1] = {C(0)};
#pragma unroll
        for (int g = 0; g < kGroups; ++g) row.sum_with_residual(slice, g, values[g]);
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
          // If h is a result, its rounded value is normalised, because backward reads that value.
          if (args.h) {
            H* h = slice.group_in(static_cast<H*>(args.h), g);
            store_group<kVectorised>(h, slice.count<kVectorised>(g), values[g]);
#pragma unroll
            for (int k = 0; k < kGroup; ++k) values[g][k] = rounded<H>(values[g][k]);
          }
#pragma unroll
          for (int k = 0; k < kGroup; ++k)
            if (k < slice.count<kVectorised>(g))
              mean[0] = add_product(mean[0], values[g][k], inverse_width);
        }
        if (args.centered) {
          mean_sum.add_up(mean);
        } else {
          mean[0] = C(0);
        }
        C moments[2] = {C(0), C(0)};
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
#pragma unroll
          for (int k = 0; k < kGroup; ++k) {
            const C difference = k < slice.count<kVectorised>(g) ? values[g][k] - mean[0] : C(0);
            moments[0] = moments[0] + difference;
            moments[1] = add_product(moments[1], difference, difference);
          }
        }
        moment_sums.add_up(moments);
        C variance = moments[1] * inverse_width;
        if (args.centered) correct_moments(moments[0] * inverse_width, mean[0], variance);
        const C rstd = C(1) / std::sqrt(variance + number<C>(args.eps));
        if (row_group.rank == 0 && slice.row_exists) {
          if (args.centered) static_cast<C*>(args.mean)[slice.row] = mean[0];
          static_cast<C*>(args.rstd)[slice.row] = rstd;
        }
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
          if constexpr (kGroups > 1) load_weights(g);
#pragma unroll
          for (int k = 0; k < kGroup; ++k) {
            values[g][k] = norm_element(values[g][k], mean[0], rstd, weight[k], norm_bias[k]);
          }
          store_group<kVectorised>(slice.group_in(static_cast<Y*>(args.y), g),
                                   slice.count<kVectorised>(g), values[g]);
        }
      });
}

template <class T, class H, class Y, bool kIdentity, bool kVectorised, int kGroups>
__global__ void __launch_bounds__(kMaxRowGroup, kRowBlocksPerSM<kVectorised, kGroups>)
    norm_backward_kernel(const NormBackwardArgs args, const RowGrid grid) {
  using C = typename Arithmetic<T>::Scalar;
  constexpr int kRowStages = kStages<T, kVectorised, kGroups>;
  FD_DYNAMIC_SHARED(shared);
  const int threads = grid.threads();
  const int64_t numbers = ColumnTotals<C, kGroups>::numbers(args.vectors, threads);
  const ColumnTotals<C, kGroups> totals(
      args.scratch ? static_cast<C*>(args.scratch) + blockIdx.x * numbers : static_cast<C*>(shared),
      args.vectors, threads, threadIdx.x);
  const int bias_index = args.index_of[kBias], layer_scale_index = args.index_of[kLayerScale];
  const int weight_index = args.index_of[kWeight], norm_bias_index = args.index_of[kNormBias];

  RowGroup row_group(grid, threadIdx.x);
  RowGroupSums<C, 2> gradient_sums(row_group);
  Staging staging(static_cast<C*>(shared) + (args.scratch ? 0 : numbers), args.staged_words,
                  threads, threadIdx.x);
  NormRow<T, H, kIdentity, kVectorised, kGroups> row(args, args.residual_or_h(), staging);
  RowTensor<Y, kVectorised, kGroups> dy(args.dy, staging);
  RowTensor<H, kVectorised, kGroups> dh(args.dh, staging);
  for_each_row<kRowStages>(
      grid, args.rows, args.width, row_group, staging,
      [&](const RowSlice& slice) {
        dy.prefetch(slice);
        row.prefetch(slice);
        dh.prefetch(slice);
      },
      [&](const RowSlice& slice) {
        C mean = C(0), rstd = C(0);
        if (slice.row_exists) {
          if (args.centered) mean = static_cast<const C*>(args.mean)[slice.row];
          rstd = static_cast<const C*>(args.rstd)[slice.row];
        }
        row.draw_masks(slice);
        wait_for_row<kRowStages>();
        // The normalised values, their gradients, and the two sums over the row that the gradient
        // through mean and variance needs.
        C normal[kGroups][kGroup], gradients[kGroups][kGroup], sums[2] = {C(0), C(0)};
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
          const int count = slice.count<kVectorised>(g);
          C upstream[kGroup], weight[kGroup], products[kGroup];
          load_vector<T, kVectorised>(args.weight, slice.column(g), count, C(1), weight);
          if (args.h) {
            row.residual_or_h.widen_to(slice, g, normal[g]);
          } else {
            row.sum_with_residual(slice, g, normal[g]);
          }
          dy.widen_to(slice, g, upstream);
#pragma unroll
          for (int k = 0; k < kGroup; ++k) {
            normal[g][k] = normalised(normal[g][k], mean, rstd);
            products[k] = upstream[k] * normal[g][k];
            gradients[g][k] = upstream[k] * weight[k];
            if (k < count) {
              sums[0] = sums[0] + gradients[g][k];
              sums[1] = add_product(sums[1], gradients[g][k], normal[g][k]);
            }
          }
          if (weight_index >= 0 && slice.row_exists) totals.add(weight_index, g, products);
          if (norm_bias_index >= 0 && slice.row_exists) totals.add(norm_bias_index, g, upstream);
        }
        gradient_sums.add_up(sums);
        row_group.hide_rank();
        const C width = static_cast<C>(args.width);
        const C mean_gradient = args.centered ? sums[0] / width : C(0);
        const C mean_product = sums[1] / width;
        const C row_factor = row.row_scale(slice);
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
          const int count = slice.count<kVectorised>(g);
          C others[kGroup];
#pragma unroll
          for (int k = 0; k < kGroup; ++k) {
            gradients[g][k] = norm_backward_element(gradients[g][k], normal[g][k], mean_gradient,
                                                    mean_product, rstd);
          }
          if (args.dh) {
            dh.widen_to(slice, g, others);
#pragma unroll
            for (int k = 0; k < kGroup; ++k) gradients[g][k] = gradients[g][k] + others[k];
          }
          if (args.dresidual) {
            store_group<kVectorised>(slice.group_in(static_cast<H*>(args.dresidual), g), count,
                                     gradients[g]);
          }
#pragma unroll
          for (int k = 0; k < kGroup; ++k) gradients[g][k] = gradients[g][k] * row_factor;
          if (layer_scale_index >= 0) {
            row.branch(slice, g, others);
#pragma unroll
            for (int k = 0; k < kGroup; ++k) others[k] = gradients[g][k] * others[k];
            if (slice.row_exists) totals.add(layer_scale_index, g, others);
          }
          load_vector<T, kVectorised>(args.branch.layer_scale, slice.column(g), count, C(1),
                                      others);
#pragma unroll
          for (int k = 0; k < kGroup; ++k) gradients[g][k] = gradients[g][k] * others[k];
          if (args.dx || bias_index >= 0) row.differentiate(slice, g, gradients[g]);
          if (args.dx) {
            store_group<kVectorised>(slice.group_in(static_cast<T*>(args.dx), g), count,
                                     gradients[g]);
          }
          if (bias_index >= 0 && slice.row_exists) totals.add(bias_index, g, gradients[g]);
        }
      });

  __syncthreads();
#pragma unroll 1
  for (int vector = 0; vector < args.vectors; ++vector) {
    C* partials = static_cast<C*>(args.partials) + (vector * grid.blocks + blockIdx.x) * args.width;
#pragma unroll 1
    for (int column = threadIdx.x; column < args.width; column += threads) {
      partials[column] = totals.total(row_group, threadIdx.x, grid.row_groups, vector, column);
    }
  }
}

// True if a thread block has enough shared memory for the copies of its rows.
template <class T>
bool can_be_staged(const NormArgs& args, const RowGrid& grid) {
  const int stages = stages_of(sizeof(T), grid.groups_per_thread);
  return Staging::bytes(args.staged_words, grid.threads(), stages) <= max_shared_bytes();
}

// True if all groups are full and aligned in the tensors, in the vectors and in the mask.
template <class... Pointers>
bool rows_are_vectorisable(const NormArgs& args, Pointers... pointers) {
  const BranchArgs& branch = args.branch;
  return args.width % kGroup == 0 && is_vectorisable(branch.mask) &&
         are_aligned(branch.x, branch.bias.values, branch.layer_scale.values, args.weight.values,
                     args.residual, pointers...);
}

template <class T, class H, class Y, bool kIdentity, bool kVectorised, int kGroups>
void norm_forward_of_groups(NormForwardArgs args, const RowGrid& grid, Stream stream) {
  constexpr int kRowStages = kStages<T, kVectorised, kGroups>;
  FD_LAUNCH_SHARED((norm_forward_kernel<T, H, Y, kIdentity, kVectorised, kGroups>), grid.blocks,
                   grid.threads(), Staging::bytes(args.staged_words, grid.threads(), kRowStages),
                   stream, args, grid);
}

template <class T, class H, class Y, bool kIdentity, bool kVectorised>
void norm_forward_with(const NormForwardArgs& args, const RowGrid& grid, Stream stream) {
  grid.groups_per_thread == 1
      ? norm_forward_of_groups<T, H, Y, kIdentity, kVectorised, 1>(args, grid, stream)
      : norm_forward_of_groups<T, H, Y, kIdentity, kVectorised, kManyGroups>(args, grid, stream);
}

template <class T, class H, class Y, bool kIdentity, bool kVectorised, int kGroups>
void norm_backward_of_groups(NormBackwardArgs args, const RowGrid& grid, Stream stream) {
  constexpr int kRowStages = kStages<T, kVectorised, kGroups>;
  const int64_t bytes =
      (args.scratch ? 0 : sums_bytes(grid, args.vectors, sizeof(typename Arithmetic<T>::Scalar))) +
      Staging::bytes(args.staged_words, grid.threads(), kRowStages);
  FD_LAUNCH_SHARED((norm_backward_kernel<T, H, Y, kIdentity, kVectorised, kGroups>), grid.blocks,
                   grid.threads(), bytes, stream, args, grid);
}

template <class T, class H, class Y, bool kIdentity, bool kVectorised>
void norm_backward_with(const NormBackwardArgs& args, const RowGrid& grid, Stream stream) {
  grid.groups_per_thread == 1
      ? norm_backward_of_groups<T, H, Y, kIdentity, kVectorised, 1>(args, grid, stream)
      : norm_backward_of_groups<T, H, Y, kIdentity, kVectorised, kManyGroups>(args, grid, stream);
}

template <class T, class H, class Y>
void norm_forward_of(const NormForwardArgs& args, Stream stream) {
  const RowGrid grid = norm_grid(args.rows, args.width, /*sums=*/false);
  if constexpr (kCanVectorise<T>) {
    if (rows_are_vectorisable(args, args.norm_bias.values, args.y, args.h) &&
        can_be_staged<T>(args, grid)) {
      const bool is_identity = args.branch.activation == static_cast<int>(Activation::kIdentity);
      return is_identity ? norm_forward_with<T, H, Y, true, true>(args, grid, stream)
                         : norm_forward_with<T, H, Y, false, true>(args, grid, stream);
    }
  }
  norm_forward_with<T, H, Y, false, false>(args, grid, stream);
}

template <class T, class H, class Y>
void norm_backward_of(const NormBackwardArgs& args, Stream stream) {
  const RowGrid grid = norm_grid(args.rows, args.width, args.vectors > 0);
  if constexpr (kCanVectorise<T>) {
    if (rows_are_vectorisable(args, args.dy, args.dh, args.h, args.dx, args.dresidual) &&
        can_be_staged<T>(args, grid)) {
      const bool is_identity = args.branch.activation == static_cast<int>(Activation::kIdentity);
      return is_identity ? norm_backward_with<T, H, Y, true, true>(args, grid, stream)
                         : norm_backward_with<T, H, Y, false, true>(args, grid, stream);
    }
  }
  norm_backward_with<T, H, Y, false, false>(args, grid, stream);
}

// Each type of x has a translation unit of its own in instantiations/.
#define FD_INSTANTIATE(T, H, Y)                                           \
  template void norm_forward_of<T, H, Y>(const NormForwardArgs&, Stream); \
  template void norm_backward_of<T, H, Y>(const NormBackwardArgs&, Stream);

}  // namespace fused_dropout::cuda
