// What a thread of a norm kernel computes for its groups of a row: mask, branch, and their sum with
// the residual.
#pragma once

#include "cuda/device/mask.cuh"
#include "cuda/device/operands.cuh"
#include "cuda/device/row_tensor.cuh"
#include "cuda/norm.h"
#include "math/activation_dispatch.h"

namespace fused_dropout::cuda {

// The computations of a thread for the groups of a row that it holds. T is the type of x, H that of
// residual and h. With kIdentity the activation is the identity. Otherwise it is any activation,
// chosen at run time once for each group.
template <class T, class H, bool kIdentity, bool kVectorised, int kGroups>
struct NormRow {
  using C = typename Arithmetic<T>::Scalar;
  using P = typename PrecisionOf<T>::Type;
  // A GroupMask needs four registers: too many for several groups.
  using Mask = std::conditional_t<kVectorised && kGroups == 1, GroupMask, MaskBits>;

  const NormArgs& args;
  PhiloxState state;
  RowTensor<T, kVectorised, kGroups> x;
  RowTensor<H, kVectorised, kGroups> residual_or_h;
  Mask masks[kGroups];

  // `a_residual_or_h`: in backward it is h if that was stored, otherwise the residual.
  FD_HD NormRow(const NormArgs& arguments, const void* a_residual_or_h, Staging& staging)
      : args(arguments),
        state(resolve(args.branch.random)),
        x(args.branch.x, staging),
        residual_or_h(a_residual_or_h, staging) {}

  __device__ void prefetch(const RowSlice& slice) {
    x.prefetch(slice);
    residual_or_h.prefetch(slice);
  }

  FD_HD void draw_masks(const RowSlice& slice) {
    if constexpr (kVectorised) {
      GroupMask drawn[kGroups];
      group_masks(args.branch.mask, state, slice.first / kGroup, slice.row_group.size, drawn);
#pragma unroll
      for (int g = 0; g < kGroups; ++g) masks[g] = Mask(drawn[g]);
    } else {
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        const int64_t position = slice.first + g * slice.row_group.size * kGroup;
        masks[g] = mask_bits(args.branch.mask, state, position, slice.count<kVectorised>(g));
      }
    }
  }

  FD_HD C row_scale(const RowSlice& slice) const {
    const VectorOperand& scales = args.branch.row_scale;
    return scales.values && slice.row_exists ? number_at<T, C>(scales, slice.row) : C(1);
  }

  // x + bias
  FD_HD void preactivation(const RowSlice& slice, int group, C (&values)[kGroup]) const {
    C bias[kGroup];
    x.widen_to(slice, group, values);
    load_vector<T, kVectorised>(args.branch.bias, slice.column(group),
                                slice.count<kVectorised>(group), C(-0.0), bias);
#pragma unroll
    for (int k = 0; k < kGroup; ++k) values[k] = values[k] + bias[k];
  }

  // Calls visit with the functor of the activation.
  template <class Visit>
  FD_HD void with_function(Visit visit) const {
    if constexpr (kIdentity) {
      visit(Identity<P>{});
    } else {
      with_functor(args.branch.activation,
                   [&](auto functor) { visit(typename decltype(functor)::template Of<P>{}); });
    }
  }

  // Replaces each value by visit(values[k], others[k], k). If the activation is chosen at run time,
  // its code exists once, not eight times: the loop is not unrolled, and each iteration rotates the
  // arrays by one, so that they stay in registers.
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
  FD_HD void branch(const RowSlice& slice, int group, C (&values)[kGroup]) const {
    const BranchArgs& branch = args.branch;
    const C scale = number<C>(branch.scale), shift = number<C>(branch.shift);
    const C fill = number<C>(branch.fill), parameter = number<C>(branch.parameter);
    preactivation(slice, group, values);
    with_function([&](auto function) {
      C none[kGroup] = {};
      replace_each(values, none, [&](C z, C, int k) {
        return forward_element<decltype(function)>(z, masks[group](k), scale, shift, fill,
                                                   parameter);
      });
    });
  }

  // h before it is rounded to H.
  FD_HD void sum_with_residual(const RowSlice& slice, int group, C (&values)[kGroup]) const {
    C scales[kGroup], residual[kGroup];
    branch(slice, group, values);
    load_vector<T, kVectorised>(args.branch.layer_scale, slice.column(group),
                                slice.count<kVectorised>(group), C(1), scales);
#pragma unroll
    for (int k = 0; k < kGroup; ++k) residual[k] = C(-0.0);
    if (args.residual) residual_or_h.widen_to(slice, group, residual);
    const C row_factor = row_scale(slice);
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      values[k] = residual_element(residual[k], values[k], scales[k], row_factor);
    }
  }

  // Turns the gradient of drop(act(x + bias)) into that of x + bias, in place.
  FD_HD void differentiate(const RowSlice& slice, int group, C (&gradient)[kGroup]) const {
    const C scale = number<C>(args.branch.scale), parameter = number<C>(args.branch.parameter);
    C values[kGroup] = {};
    if (!kIdentity && args.branch.x)
      preactivation(slice, group, values);  // the identity needs no x
    with_function([&](auto function) {
      replace_each(gradient, values, [&](C dy, C z, int k) {
        return backward_element<decltype(function)>(dy, z, masks[group](k), scale, parameter);
      });
    });
  }
};

}  // namespace fused_dropout::cuda
