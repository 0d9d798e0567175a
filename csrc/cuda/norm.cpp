// The normalised operator on CUDA: memory and streams around the kernels.
#include "ops/norm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "cuda/kernel_args.h"
#include "cuda/norm.h"
#include "ops/common/row_layout.h"

namespace fused_dropout::cuda {
namespace {

using norm::Kind;
using norm::NormCallParams;
using norm::Types;

bool fits(const RowLayout& layout) { return can_index(layout.mask) && layout.width <= kMaxWidth; }

// The tensors that a kernel's arguments point to, as it takes them.
struct Operands {
  Tensor x, residual, bias, layer_scale, row_scale, weight;

  Operands(const RowLayout& layout, const Types& types, const OptionalTensor& x_any,
           const OptionalTensor& residual_any, const OptionalTensor& bias_any,
           const OptionalTensor& layer_scale_any, const OptionalTensor& row_scale_any,
           const OptionalTensor& weight_any)
      : x(in_rows(x_any, layout, types.x)),
        residual(in_rows(residual_any, layout, types.h)),
        bias(vector_for(bias_any, types.x)),
        layer_scale(vector_for(layer_scale_any, types.x)),
        weight(vector_for(weight_any, types.x)) {
    if (row_scale_any) {
      row_scale = in_layout(*row_scale_any, layout.strides_without_rows(),
                            vector_dtype(row_scale_any->scalar_type(), types.x));
    }
  }

  void set(NormArgs& args, const NormCallParams& call, const RowLayout& layout,
           const RandomState& random, const Types& types) const {
    const DropConstants constants = call.constants();
    args.branch = {data_of(x),
                   vector_argument(bias, types.x),
                   vector_argument(layer_scale, types.x),
                   vector_argument(row_scale, types.x),
                   random,
                   mask_indexing(layout.mask, constants.keep_count),
                   constants.scale,
                   constants.shift,
                   constants.fill,
                   call.parameter,
                   call.activation};
    args.rows = layout.rows;
    args.width = static_cast<int>(layout.width);
    args.centered = call.kind == Kind::kLayer;
    args.weight = vector_argument(weight, types.x);
    args.residual = data_of(residual);
  }
};

NormTypes kernel_types(const Types& types) {
  return {storage_of(types.x), types.wide_h(), types.wide_y()};
}

norm::Results forward(const NormCallParams& call, const RowLayout& layout, const Tensor& x_any,
                      const norm::Operands& given, const RandomState& random,
                      const norm::Settings& settings) {
  const Types types(x_any.scalar_type(), call.h_dtype, call.y_dtype);
  const bool centered = call.kind == Kind::kLayer;
  const auto strides = dense_strides(x_any);
  const RowOutput y(true, layout, 1, strides, x_any.options().dtype(types.y), at::empty_strided);
  const RowOutput h(settings.prenorm, layout, 1, strides, x_any.options().dtype(types.h),
                    at::empty_strided);
  const Tensor statistics =
      at::empty({centered ? 2 : 1, layout.rows}, x_any.options().dtype(types.arithmetic()));
  if (x_any.numel() > 0) {
    const Operands operands(layout, types, x_any, given.residual, given.bias, given.layer_scale,
                            given.row_scale, given.weight);
    const Tensor norm_bias = vector_for(given.norm_bias, types.x);
    NormForwardArgs args;
    operands.set(args, call, layout, random, types);
    args.eps = settings.eps;
    args.norm_bias = vector_argument(norm_bias, types.x);
    args.y = y.data();
    args.h = h.data();
    args.mean = norm::statistic(statistics, 0);
    args.rstd = norm::statistic(statistics, centered);
    launch_norm_forward(args, kernel_types(types), stream_of(x_any));
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {y.finish().to(call.y_dtype), h.finish(),
          statistics.to(arithmetic_of(x_any.scalar_type()))};
}

norm::Results forward_cuda(const Tensor& x, const norm::Operands& given,
                           const OptionalTensor& rng_state, const norm::Settings& settings,
                           const Options& options) {
  const NormCallParams call =
      norm::check("dropout_add_norm", x, given, rng_state, settings, options);
  const c10::cuda::CUDAGuard guard(x.device());
  const RowLayout layout(call, x.sizes(), dense_strides(x));
  if (!fits(layout)) return norm::compose_forward(x, given, rng_state, settings, options);
  const RandomState random = state_for(call, rng_state, call.constants(), x);
  return forward(call, layout, x, given, random, settings);
}

norm::Gradients backward_cuda(const Tensor& dy_any, const OptionalTensor& dh_any,
                              const norm::Saved& saved, const OptionalTensor& rng_state,
                              const norm::Settings& settings, const Options& options,
                              const norm::Gradient& gradient) {
  const NormCallParams call =
      norm::check_backward(dy_any, dh_any, saved, rng_state, settings, options, gradient);
  const c10::cuda::CUDAGuard guard(dy_any.device());
  const auto strides = C10_AS_INTARRAYREF_SLOW(gradient.strides);
  const RowLayout layout(call, dy_any.sizes(), strides);
  if (!fits(layout)) {
    return norm::compose_backward(dy_any, dh_any, saved, rng_state, settings, options, gradient);
  }
  const RandomState random = state_for(call, rng_state, call.constants(), dy_any);
  const Types types = gradient.types(dy_any.scalar_type());
  const at::ScalarType given = arithmetic_of(gradient.dtype);
  const auto& wanted = gradient.output_mask;

  const RowOutput dx(wanted[norm::kDx], layout, 1, strides, dy_any.options().dtype(types.x),
                     at::empty_strided);
  const RowOutput dresidual(wanted[norm::kDresidual], layout, 1, strides,
                            dy_any.options().dtype(types.h), at::empty_strided);
  NormBackwardArgs args;
  // The vectors in the order of the results.
  constexpr NormVector kVectors[] = {kBias, kLayerScale, kWeight, kNormBias};
  Tensor sums[kNormVectors];
  ColumnSums totals{};
  totals.vectors = 0;
  for (int i = 0; i < kNormVectors; ++i) {
    const bool is_wanted = wanted[norm::kDbias + i];
    sums[i] = at::empty({is_wanted ? layout.width : 0}, dy_any.options().dtype(given));
    args.index_of[kVectors[i]] = is_wanted ? totals.vectors : -1;
    if (is_wanted) totals.targets[totals.vectors++] = sums[i].mutable_data_ptr();
  }
  const auto results = [&]() -> norm::Gradients {
    return {dx.finish().to(gradient.dtype),
            dresidual.finish().to(gradient.h_dtype),
            sums[0],
            sums[1],
            sums[2],
            sums[3]};
  };
  if (dy_any.numel() == 0) {
    for (const Tensor& sum : sums) sum.zero_();
    return results();
  }

  const Tensor dy = in_rows(dy_any, layout, types.y);
  const Tensor dh = in_rows(dh_any, layout, types.h);
  const Tensor h = in_rows(saved.h, layout, types.h);
  const Operands operands(layout, types, saved.x, saved.h ? std::nullopt : saved.residual,
                          saved.bias, saved.layer_scale, saved.row_scale, saved.weight);
  const Tensor statistics = saved.statistics.to(types.arithmetic()).contiguous();
  operands.set(args, call, layout, random, types);
  args.dy = dy.const_data_ptr();
  args.dh = data_of(dh);
  args.h = data_of(h);
  args.mean = norm::statistic(statistics, 0);
  args.rstd = norm::statistic(statistics, args.centered);
  args.dx = dx.data();
  args.dresidual = dresidual.data();
  args.vectors = totals.vectors;
  Tensor partials, scratch;
  args.partials = args.scratch = nullptr;
  if (args.vectors > 0) {
    totals.copies = norm_partial_rows(args.rows, args.width);
    partials = at::empty({args.vectors, totals.copies, layout.width},
                         dy.options().dtype(types.arithmetic()));
    args.partials = partials.mutable_data_ptr();
    const int64_t bytes = norm_scratch_bytes(args, kernel_types(types));
    if (bytes > 0) {
      scratch = at::empty({bytes}, dy.options().dtype(at::kByte));
      args.scratch = scratch.mutable_data_ptr();
    }
  }
  launch_norm_backward(args, kernel_types(types), stream_of(dy));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  if (args.vectors > 0) {
    totals.partials = args.partials;
    totals.layout = layout_for(dy.numel(), layout.width, 1);
    launch_column_sums(totals, types.arithmetic() == at::kDouble, storage_of(given), stream_of(dy));
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return results();
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CUDA, m) {
  m.impl("dropout_add_norm", norm::forward_entry<forward_cuda>);
  m.impl("dropout_add_norm_backward", norm::backward_entry<backward_cuda>);
}

}  // namespace fused_dropout::cuda
