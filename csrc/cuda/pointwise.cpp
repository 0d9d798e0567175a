// The pointwise operator on CUDA: memory and streams around the kernels.
#include "ops/pointwise.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "cuda/kernel_args.h"
#include "cuda/pointwise.h"

namespace fused_dropout::cuda {
namespace {

// How memory is cut for a bias along `dim` of a dense tensor.
Layout layout_along(at::IntArrayRef sizes, at::IntArrayRef strides, int64_t dim) {
  return layout_for(c10::multiply_integers(sizes), sizes[dim], strides[dim]);
}

// Writes into `out` where it is given (it may be x), else into a new tensor.
Tensor forward(const CallParams& call, const Tensor& x_any, const OptionalTensor& bias_any,
               const OptionalTensor& residual_any, const RandomState& random,
               const OptionalTensor& out) {
  const DropConstants constants = call.constants();
  const Tensor x = dense(x_any);
  const at::ScalarType dtype = output_dtype(x, residual_any);
  const Tensor y = out ? *out : at::empty_like(x, x.options().dtype(dtype));
  if (x.numel() == 0) return y;
  if (constants.keep_count == 0) {
    residual_any ? y.copy_(*residual_any) : y.zero_();
    return y;
  }
  // A residual wider than 32 bits, or than a 32-bit x, widens x: kernels know fp32 beside 16 bits.
  if (dtype != x.scalar_type() && dtype != at::kFloat) {
    return forward(call, x.to(dtype), bias_any, residual_any, random, y);
  }
  Tensor residual;
  if (residual_any) residual = in_layout(*residual_any, x.strides(), dtype);
  const Tensor bias = vector_for(bias_any, x.scalar_type());
  const MaskLayout mask(call, x.sizes(), x.strides());
  PointwiseForwardArgs args;
  args.x = x.const_data_ptr();
  args.residual = data_of(residual);
  args.y = y.mutable_data_ptr();
  args.bias = vector_argument(bias, x.scalar_type());
  args.layout = bias.defined() ? layout_along(x.sizes(), x.strides(), call.bias_dim)
                               : layout_for(x.numel(), 1, 1);
  args.random = random;
  args.mask = mask_indexing(mask, constants.keep_count);
  args.scale = constants.scale;
  args.shift = constants.shift;
  args.fill = constants.fill;
  args.parameter = call.parameter;
  launch_pointwise_forward(args, storage_of(x.scalar_type()), dtype != x.scalar_type(),
                           call.activation, stream_of(x));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y;
}

bool fits(const CallParams& call, const Tensor& x) {
  return can_index(MaskLayout(call, x.sizes(), dense_strides(x)));
}

Tensor forward_cuda(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& residual,
                    const OptionalTensor& rng_state, const Options& options) {
  const CallParams call =
      pointwise::check("bias_act_dropout", x, bias, residual, rng_state, options);
  const c10::cuda::CUDAGuard guard(x.device());
  if (!fits(call, x)) return pointwise::compose_forward(x, bias, residual, rng_state, options);
  const RandomState random = state_for(call, rng_state, call.constants(), x);
  return forward(call, x, bias, residual, random, std::nullopt);
}

void inplace_cuda(Tensor x, const OptionalTensor& rng_state, const Options& options) {
  const CallParams call = pointwise::check("dropout_", x, {}, {}, rng_state, options);
  const c10::cuda::CUDAGuard guard(x.device());
  if (!fits(call, x)) {
    x.copy_(pointwise::compose_forward(x, {}, {}, rng_state, options));
    return;
  }
  const RandomState random = state_for(call, rng_state, call.constants(), x);
  if (x.is_non_overlapping_and_dense()) {
    forward(call, x, {}, {}, random, x);
  } else {
    x.copy_(forward(call, x, {}, {}, random, std::nullopt));
  }
}

Gradients backward_cuda(const Tensor& dy_any, const OptionalTensor& input_any,
                        const OptionalTensor& bias_any, const OptionalTensor& rng_state,
                        const Options& options, const pointwise::Gradient& gradient) {
  const CallParams call =
      pointwise::check_backward(dy_any, input_any, bias_any, rng_state, options, gradient);
  const c10::cuda::CUDAGuard guard(dy_any.device());
  const auto strides = C10_AS_INTARRAYREF_SLOW(gradient.strides);
  const auto sizes = dy_any.sizes();
  const MaskLayout mask(call, sizes, strides);
  if (!can_index(mask)) {
    return pointwise::compose_backward(dy_any, input_any, bias_any, rng_state, options, gradient);
  }

  DropConstants constants = call.constants();
  if (gradient.from_output && constants.keep_count > 0) {
    constants.keep_count = 65536;  // the output is zero wherever it was dropped
  }
  const RandomState random = state_for(call, rng_state, constants, dy_any);
  const auto tensor_options = dy_any.options();
  const auto [need_dx, need_dbias] = gradient.output_mask;
  Tensor dx = at::empty({0}, tensor_options.dtype(gradient.dtype));
  Tensor dbias = at::empty({0}, tensor_options.dtype(gradient.bias_dtype.value_or(at::kFloat)));
  if (need_dx) dx = at::empty_strided(sizes, strides, dx.options());
  if (need_dbias) dbias = at::empty({sizes[call.bias_dim]}, dbias.options());
  if (dy_any.numel() == 0 || constants.keep_count == 0) return {dx.zero_(), dbias.zero_()};

  const bool wide = dy_any.scalar_type() == at::kFloat && gradient.dtype != at::kFloat &&
                    gradient.dtype != at::kDouble;
  const Tensor dy = in_layout(dy_any, strides, wide ? at::kFloat : gradient.dtype);
  Tensor input, partials;
  if (input_any) input = in_layout(*input_any, strides, gradient.dtype);
  const Tensor bias = vector_for(bias_any, gradient.dtype);

  PointwiseBackwardArgs args;
  args.dy = dy.const_data_ptr();
  args.x = data_of(input);
  args.dx = need_dx ? dx.mutable_data_ptr() : nullptr;
  args.bias = vector_argument(bias, gradient.dtype);
  args.layout = gradient.bias_dtype ? layout_along(sizes, strides, call.bias_dim)
                                    : layout_for(dy.numel(), 1, 1);
  args.random = random;
  args.mask = mask_indexing(mask, constants.keep_count);
  args.scale = constants.scale;
  args.parameter = call.parameter;
  args.partials = nullptr;
  const at::ScalarType arithmetic = arithmetic_of(gradient.dtype);
  const bool is_total =
      need_dbias && partials_are_totals(args.layout) && dbias.scalar_type() == arithmetic;
  if (need_dbias) {
    partials = is_total ? dbias
                        : at::empty({partial_rows(args.layout), args.layout.period},
                                    tensor_options.dtype(arithmetic));
    args.partials = partials.mutable_data_ptr();
  }
  launch_pointwise_backward(args, storage_of(gradient.dtype), wide, call.activation, stream_of(dy));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  if (need_dbias && !is_total) {
    const ColumnSums sums{
        args.partials, args.layout, partial_copies(args.layout), 1, {dbias.mutable_data_ptr()}};
    launch_column_sums(sums, arithmetic == at::kDouble, storage_of(*gradient.bias_dtype),
                       stream_of(dy));
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {dx, dbias};
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CUDA, m) {
  m.impl("bias_act_dropout", pointwise::forward_entry<forward_cuda>);
  m.impl("bias_act_dropout_backward", pointwise::backward_entry<backward_cuda>);
  m.impl("dropout_", pointwise::inplace_entry<inplace_cuda>);
}

}  // namespace fused_dropout::cuda
