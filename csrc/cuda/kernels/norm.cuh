// The normalised kernels: h = residual + branch, y = norm(h) * weight + norm_bias, where the branch
// is drop(act(x + bias)) * layer_scale * row_scale; and their gradients. A team of threads holds a
// row in its registers, so that each is read once.
#pragma once

#include "cuda/device/column_totals.cuh"
#include "cuda/device/launch.cuh"
#include "cuda/device/mask.cuh"
#include "cuda/device/operands.cuh"
#include "cuda/device/row_tensor.cuh"
#include "cuda/norm.h"
#include "math/activation_dispatch.h"

namespace fused_dropout::cuda {

// What a thread does for the groups of a row that it holds. T, H and Y are the types of x, of the
// stream (residual and h), and of y; without kIdentity the activation is chosen at run time, once
// for a group, the identity among them.
template <class T, class H, bool kIdentity, bool kVector, int kGroups>
struct RowOfGroups {
  using C = typename Arithmetic<T>::Scalar;
  using P = typename PrecisionOf<T>::Type;
  // The random bits of several groups would take too many registers.
  using Mask = std::conditional_t<kVector && kGroups == 1, GroupMask, AnyMask>;

  const NormArgs& args;
  PhiloxState state;
  RowTensor<T, kVector, kGroups> x;
  RowTensor<H, kVector, kGroups> stream;
  Mask masks[kGroups];

  // `a_stream`: the residual, or h where that was stored.
  FD_HD RowOfGroups(const NormArgs& arguments, const void* a_stream, Staging& staging)
      : args(arguments),
        state(resolve(args.branch.random)),
        x(args.branch.x, staging),
        stream(a_stream, staging) {}

  __device__ void fetch(const RowPart& part) {
    x.fetch(part);
    stream.fetch(part);
  }

  FD_HD void draw_masks(const RowPart& part) {
    if constexpr (kVector) {
      GroupMask drawn[kGroups];
      group_masks(args.branch.mask, state, part.first / kGroup, part.team.size, drawn);
#pragma unroll
      for (int g = 0; g < kGroups; ++g) masks[g] = Mask(drawn[g]);
    } else {
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        const int64_t position = part.first + g * part.team.size * kGroup;
        masks[g] = any_mask(args.branch.mask, state, position, part.count<kVector>(g));
      }
    }
  }

  FD_HD C row_scale(const RowPart& part) const {
    const Vector& scales = args.branch.row_scale;
    return scales.values && part.is_row ? number_at<T, C>(scales, part.row) : C(1);
  }

  // x + bias.
  FD_HD void argument(const RowPart& part, int group, C (&values)[kGroup]) const {
    C bias[kGroup];
    x.widen_to(part, group, values);
    load_along<T, kVector>(args.branch.bias, part.column(group), part.count<kVector>(group),
                           C(-0.0), bias);
#pragma unroll
    for (int k = 0; k < kGroup; ++k) values[k] = values[k] + bias[k];
  }

  // Calls visit with the activation's functor.
  template <class Visit>
  FD_HD void with_function(Visit visit) const {
    if constexpr (kIdentity) {
      visit(Identity<P>{});
    } else {
      with_functor(args.branch.activation,
                   [&](auto functor) { visit(typename decltype(functor)::template Of<P>{}); });
    }
  }

  // Puts visit(values[k], others[k], k) in the place of each of the values. With an activation that
  // is chosen at run time there is one copy of its code, not eight: the numbers pass by it in turn.
  template <class Visit>
  FD_HD void replace_each(C (&values)[kGroup], C (&others)[kGroup], Visit visit) const {
    if constexpr (kIdentity) {
#pragma unroll
      for (int k = 0; k < kGroup; ++k) values[k] = visit(values[k], others[k], k);
    } else {
#pragma unroll 1
      for (int k = 0; k < kGroup; ++k) {
        const C value = visit(values[0], others[0], k), other = others[0];
#pragma unroll
        for (int i = 0; i + 1 < kGroup; ++i) {
          values[i] = values[i + 1];
          others[i] = others[i + 1];
        }
        others[kGroup - 1] = other;
        values[kGroup - 1] = value;
      }
    }
  }

  // drop(act(x + bias))
  FD_HD void branch(const RowPart& part, int group, C (&values)[kGroup]) const {
    const BranchArgs& branch = args.branch;
    const C scale = number<C>(branch.scale), shift = number<C>(branch.shift);
    const C fill = number<C>(branch.fill), parameter = number<C>(branch.parameter);
    argument(part, group, values);
    with_function([&](auto function) {
      C none[kGroup] = {};
      replace_each(values, none, [&](C z, C, int k) {
        return forward_element<decltype(function)>(z, masks[group](k), scale, shift, fill,
                                                   parameter);
      });
    });
  }

  // h, not yet rounded.
  FD_HD void sum_with_residual(const RowPart& part, int group, C (&values)[kGroup]) const {
    C scales[kGroup], residual[kGroup];
    branch(part, group, values);
    load_along<T, kVector>(args.branch.layer_scale, part.column(group), part.count<kVector>(group),
                           C(1), scales);
#pragma unroll
    for (int k = 0; k < kGroup; ++k) residual[k] = C(-0.0);
    if (args.residual) stream.widen_to(part, group, residual);
    const C row_factor = row_scale(part);
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      values[k] = stream_element(residual[k], values[k], scales[k], row_factor);
    }
  }

  // From the gradient by the branch to that by x + bias, in place.
  FD_HD void differentiate(const RowPart& part, int group, C (&gradient)[kGroup]) const {
    const C scale = number<C>(args.branch.scale), parameter = number<C>(args.branch.parameter);
    C values[kGroup] = {};
    if (!kIdentity && args.branch.x) argument(part, group, values);  // identity: no x needed
    with_function([&](auto function) {
      replace_each(gradient, values, [&](C dy, C z, int k) {
        return backward_element<decltype(function)>(dy, z, masks[group](k), scale, parameter);
      });
    });
  }
};

// Kernels that hold one group have 32 warps on a processor: 64 registers for each thread.
template <bool kVector, int kGroups>
constexpr int kRowBlocks = kVector && kGroups == 1 ? 2 : 1;

template <class T, class H, class Y, bool kIdentity, bool kVector, int kGroups>
__global__ void __launch_bounds__(kMostTeam, kRowBlocks<kVector, kGroups>)
    norm_forward_kernel(const NormForwardArgs args, const RowGrid grid) {
  using C = typename Arithmetic<T>::Scalar;
  constexpr int kDepth = kStages<T, kVector, kGroups>;
  FD_DYNAMIC_SHARED(shared);
  Team team(grid, threadIdx.x);
  TeamSums<C, 1> team_mean(team);
  TeamSums<C, 2> team_moments(team);
  Staging staging(shared, args.staged_words, grid.threads(), threadIdx.x);
  RowOfGroups<T, H, kIdentity, kVector, kGroups> row(args, args.residual_stream(), staging);
  write_down(args.branch.random, row.state);
  const C share = C(1) / static_cast<C>(args.width);

  for_each_row<kDepth>(
      grid, args.rows, args.width, team, staging, [&](const RowPart& part) { row.fetch(part); },
      [&](const RowPart& part) {
        C weight[kGroup], norm_bias[kGroup];
        const auto load_weights = [&](int g) {
          const int column = part.column(g), count = part.count<kVector>(g);
          load_along<T, kVector>(args.weight, column, count, C(1), weight);
          load_along<T, kVector>(args.norm_bias, column, count, C(-0.0), norm_bias);
        };
        // On their way while the sums are made. More than one group would take too many registers.
        if constexpr (kGroups == 1) load_weights(0);
        row.draw_masks(part);
        wait_for_row<kDepth>();
        C values[kGroups][kGroup], mean[1] = {C(0)};
#pragma unroll
        for (int g = 0; g < kGroups; ++g) row.sum_with_residual(part, g, values[g]);
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
          // It is the rounded h that is normalised where it is a result: backward knows no other.
          if (args.h) {
            H* h = part.of(static_cast<H*>(args.h), g);
            store_group<kVector>(h, part.count<kVector>(g), values[g]);
#pragma unroll
            for (int k = 0; k < kGroup; ++k) values[g][k] = rounded<H>(values[g][k]);
          }
#pragma unroll
          for (int k = 0; k < kGroup; ++k)
            if (k < part.count<kVector>(g)) mean[0] = add_product(mean[0], values[g][k], share);
        }
        if (args.centered) {
          team_mean.add_up(mean);
        } else {
          mean[0] = C(0);
        }
        C moments[2] = {C(0), C(0)};
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
#pragma unroll
          for (int k = 0; k < kGroup; ++k) {
            const C difference = k < part.count<kVector>(g) ? values[g][k] - mean[0] : C(0);
            moments[0] = moments[0] + difference;
            moments[1] = add_product(moments[1], difference, difference);
          }
        }
        team_moments.add_up(moments);
        C variance = moments[1] * share;
        if (args.centered) correct_moments(moments[0] * share, mean[0], variance);
        const C rstd = C(1) / std::sqrt(variance + number<C>(args.eps));
        if (team.lane == 0 && part.is_row) {
          if (args.centered) static_cast<C*>(args.mean)[part.row] = mean[0];
          static_cast<C*>(args.rstd)[part.row] = rstd;
        }
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
          if constexpr (kGroups > 1) load_weights(g);
#pragma unroll
          for (int k = 0; k < kGroup; ++k) {
            values[g][k] = norm_element(values[g][k], mean[0], rstd, weight[k], norm_bias[k]);
          }
          store_group<kVector>(part.of(static_cast<Y*>(args.y), g), part.count<kVector>(g),
                               values[g]);
        }
      });
}

template <class T, class H, class Y, bool kIdentity, bool kVector, int kGroups>
__global__ void __launch_bounds__(kMostTeam, kRowBlocks<kVector, kGroups>)
    norm_backward_kernel(const NormBackwardArgs args, const RowGrid grid) {
  using C = typename Arithmetic<T>::Scalar;
  constexpr int kDepth = kStages<T, kVector, kGroups>;
  FD_DYNAMIC_SHARED(shared);
  const int threads = grid.threads();
  const int64_t numbers = ColumnTotals<C, kGroups>::numbers(args.vectors, threads);
  const ColumnTotals<C, kGroups> totals(
      args.scratch ? static_cast<C*>(args.scratch) + blockIdx.x * numbers : static_cast<C*>(shared),
      args.vectors, threads, threadIdx.x);
  const int of_bias = args.place_of[kBias], of_layer_scale = args.place_of[kLayerScale];
  const int of_weight = args.place_of[kWeight], of_norm_bias = args.place_of[kNormBias];

  Team team(grid, threadIdx.x);
  TeamSums<C, 2> team_sums(team);
  Staging staging(static_cast<C*>(shared) + (args.scratch ? 0 : numbers), args.staged_words,
                  threads, threadIdx.x);
  RowOfGroups<T, H, kIdentity, kVector, kGroups> row(args, args.residual_stream(), staging);
  RowTensor<Y, kVector, kGroups> dy(args.dy, staging);
  RowTensor<H, kVector, kGroups> dh(args.dh, staging);
  for_each_row<kDepth>(
      grid, args.rows, args.width, team, staging,
      [&](const RowPart& part) {
        dy.fetch(part);
        row.fetch(part);
        dh.fetch(part);
      },
      [&](const RowPart& part) {
        C mean = C(0), rstd = C(0);
        if (part.is_row) {
          if (args.centered) mean = static_cast<const C*>(args.mean)[part.row];
          rstd = static_cast<const C*>(args.rstd)[part.row];
        }
        row.draw_masks(part);
        wait_for_row<kDepth>();
        // The normalised values, the gradients by them, and the two sums that the statistics pass
        // on.
        C normal[kGroups][kGroup], gradients[kGroups][kGroup], sums[2] = {C(0), C(0)};
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
          const int count = part.count<kVector>(g);
          C upstream[kGroup], weight[kGroup], products[kGroup];
          load_along<T, kVector>(args.weight, part.column(g), count, C(1), weight);
          if (args.h) {
            row.stream.widen_to(part, g, normal[g]);
          } else {
            row.sum_with_residual(part, g, normal[g]);
          }
          dy.widen_to(part, g, upstream);
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
          if (of_weight >= 0 && part.is_row) totals.add(of_weight, g, products);
          if (of_norm_bias >= 0 && part.is_row) totals.add(of_norm_bias, g, upstream);
        }
        team_sums.add_up(sums);
        team.hide_lane();
        const C width = static_cast<C>(args.width);
        const C mean_gradient = args.centered ? sums[0] / width : C(0);
        const C mean_product = sums[1] / width;
        const C row_factor = row.row_scale(part);
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
          const int count = part.count<kVector>(g);
          C others[kGroup];
#pragma unroll
          for (int k = 0; k < kGroup; ++k) {
            gradients[g][k] = norm_backward_element(gradients[g][k], normal[g][k], mean_gradient,
                                                    mean_product, rstd);
          }
          if (args.dh) {
            dh.widen_to(part, g, others);
#pragma unroll
            for (int k = 0; k < kGroup; ++k) gradients[g][k] = gradients[g][k] + others[k];
          }
          if (args.dresidual) {
            store_group<kVector>(part.of(static_cast<H*>(args.dresidual), g), count, gradients[g]);
          }
#pragma unroll
          for (int k = 0; k < kGroup; ++k) gradients[g][k] = gradients[g][k] * row_factor;
          if (of_layer_scale >= 0) {
            row.branch(part, g, others);
#pragma unroll
            for (int k = 0; k < kGroup; ++k) others[k] = gradients[g][k] * others[k];
            if (part.is_row) totals.add(of_layer_scale, g, others);
          }
          load_along<T, kVector>(args.branch.layer_scale, part.column(g), count, C(1), others);
#pragma unroll
          for (int k = 0; k < kGroup; ++k) gradients[g][k] = gradients[g][k] * others[k];
          if (args.dx || of_bias >= 0) row.differentiate(part, g, gradients[g]);
          if (args.dx) {
            store_group<kVector>(part.of(static_cast<T*>(args.dx), g), count, gradients[g]);
          }
          if (of_bias >= 0 && part.is_row) totals.add(of_bias, g, gradients[g]);
        }
      });

  __syncthreads();
#pragma unroll 1
  for (int vector = 0; vector < args.vectors; ++vector) {
    C* partials = static_cast<C*>(args.partials) + (vector * grid.blocks + blockIdx.x) * args.width;
#pragma unroll 1
    for (int column = threadIdx.x; column < args.width; column += threads) {
      partials[column] = totals.total(team, threadIdx.x, grid.teams, vector, column);
    }
  }
}

// Whether a block has the memory that rows are copied to.
template <class T>
bool can_be_staged(const NormArgs& args, const RowGrid& grid) {
  const int stages = stages_of(sizeof(T), grid.groups);
  return Staging::bytes(args.staged_words, grid.threads(), stages) <= most_shared();
}

// Whether groups are whole and aligned in all tensors, in the vectors and in the mask.
template <class... Pointers>
bool rows_are_vectorisable(const NormArgs& args, Pointers... pointers) {
  const BranchArgs& branch = args.branch;
  return args.width % kGroup == 0 && is_vectorisable(branch.mask) &&
         are_aligned(branch.x, branch.bias.values, branch.layer_scale.values, args.weight.values,
                     args.residual, pointers...);
}

template <class T, class H, class Y, bool kIdentity, bool kVector, int kGroups>
void norm_forward_in_groups(NormForwardArgs args, const RowGrid& grid, Stream stream) {
  constexpr int kDepth = kStages<T, kVector, kGroups>;
  FD_LAUNCH_SHARED((norm_forward_kernel<T, H, Y, kIdentity, kVector, kGroups>), grid.blocks,
                   grid.threads(), Staging::bytes(args.staged_words, grid.threads(), kDepth),
                   stream, args, grid);
}

template <class T, class H, class Y, bool kIdentity, bool kVector>
void norm_forward_with(const NormForwardArgs& args, const RowGrid& grid, Stream stream) {
  grid.groups == 1
      ? norm_forward_in_groups<T, H, Y, kIdentity, kVector, 1>(args, grid, stream)
      : norm_forward_in_groups<T, H, Y, kIdentity, kVector, kManyGroups>(args, grid, stream);
}

template <class T, class H, class Y, bool kIdentity, bool kVector, int kGroups>
void norm_backward_in_groups(NormBackwardArgs args, const RowGrid& grid, Stream stream) {
  constexpr int kDepth = kStages<T, kVector, kGroups>;
  const int64_t bytes =
      (args.scratch ? 0 : sums_bytes(grid, args.vectors, sizeof(typename Arithmetic<T>::Scalar))) +
      Staging::bytes(args.staged_words, grid.threads(), kDepth);
  FD_LAUNCH_SHARED((norm_backward_kernel<T, H, Y, kIdentity, kVector, kGroups>), grid.blocks,
                   grid.threads(), bytes, stream, args, grid);
}

template <class T, class H, class Y, bool kIdentity, bool kVector>
void norm_backward_with(const NormBackwardArgs& args, const RowGrid& grid, Stream stream) {
  grid.groups == 1
      ? norm_backward_in_groups<T, H, Y, kIdentity, kVector, 1>(args, grid, stream)
      : norm_backward_in_groups<T, H, Y, kIdentity, kVector, kManyGroups>(args, grid, stream);
}

template <class T, class H, class Y>
void norm_forward_of(const NormForwardArgs& args, Stream stream) {
  const RowGrid grid = norm_grid(args.rows, args.width, /*sums=*/false);
  if constexpr (kHasVectors<T>) {
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
  if constexpr (kHasVectors<T>) {
    if (rows_are_vectorisable(args, args.dy, args.dh, args.h, args.dx, args.dresidual) &&
        can_be_staged<T>(args, grid)) {
      const bool is_identity = args.branch.activation == static_cast<int>(Activation::kIdentity);
      return is_identity ? norm_backward_with<T, H, Y, true, true>(args, grid, stream)
                         : norm_backward_with<T, H, Y, false, true>(args, grid, stream);
    }
  }
  norm_backward_with<T, H, Y, false, false>(args, grid, stream);
}

// One translation unit for each type of x.
#define FD_INSTANTIATE(T, H, Y)                                           \
  template void norm_forward_of<T, H, Y>(const NormForwardArgs&, Stream); \
  template void norm_backward_of<T, H, Y>(const NormBackwardArgs&, Stream);

}  // namespace fused_dropout::cuda
