// The operators bias_act_dropout, its backward and dropout_ on the CPU: memory, layouts and threads
// around the kernels.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "cpu/bias_gradient.h"
#include "cpu/capability.h"
#include "cpu/kernel_args.h"
#include "cpu/large_memory.h"
#include "ops/pointwise.h"

namespace fused_dropout::cpu {
namespace {

// Writes to `out` if it is given (it may be x), else to a new tensor.
Tensor forward(const CallParams& call, const Tensor& x_any, const OptionalTensor& bias,
               const OptionalTensor& residual_any, const OptionalTensor& rng_state,
               OptionalTensor out) {
  const DropConstants constants = call.constants();
  const PhiloxState state = state_for(call, rng_state, constants, x_any);
  const Tensor x = dense(x_any);
  const at::ScalarType dtype = output_dtype(x, residual_any);
  const Tensor y = out ? *out : empty_large(x, dtype);
  if (x.numel() == 0) return y;
  if (constants.keep_count == 0) {
    residual_any ? y.copy_(*residual_any) : y.zero_();
    return y;
  }
  // The only mixed kernels are those for a 16-bit x with an fp32 residual. In any other mix, x is
  // converted to the dtype of the result first.
  if (dtype != x.scalar_type() && dtype != at::kFloat) {
    return forward(call, x.to(dtype), bias, residual_any, rng_state, y);
  }
  Tensor residual;
  if (residual_any) residual = in_layout(*residual_any, x.strides(), dtype);
  Tensor values;
  BiasIndexing bias_indexing;
  if (bias) {
    const BiasLayout layout(x.sizes(), x.strides(), call.bias_dim);
    values = layout.expand(*bias, arithmetic_of(x.scalar_type()));
    bias_indexing = layout.indexing(values);
  }
  const MaskLayout mask(call, x.sizes(), x.strides());
  const PointwiseForwardArgs args{x.const_data_ptr(),
                                  data_of(residual),
                                  y.mutable_data_ptr(),
                                  bias_indexing,
                                  mask_indexing(mask, constants.keep_count, state),
                                  constants.scale,
                                  constants.shift,
                                  constants.fill,
                                  call.parameter,
                                  exceeds_cache(y.nbytes())};
  const ResidualType kind = !residual.defined()        ? ResidualType::kNone
                            : dtype == x.scalar_type() ? ResidualType::kSame
                                                       : ResidualType::kFloat32;
  const PointwiseForwardKernel kernel =
      kernels().pointwise.forward(storage_of(x.scalar_type()), kind, call.activation);
  for_each_chunk(x.numel(), [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
  return y;
}

Tensor forward_cpu(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& residual,
                   const OptionalTensor& rng_state, const Options& options) {
  const CallParams call =
      pointwise::check("bias_act_dropout", x, bias, residual, rng_state, options);
  return forward(call, x, bias, residual, rng_state, std::nullopt);
}

void inplace_cpu(Tensor x, const OptionalTensor& rng_state, const Options& options) {
  const CallParams call = pointwise::check("dropout_", x, {}, {}, rng_state, options);
  if (x.is_non_overlapping_and_dense()) {
    forward(call, x, {}, {}, rng_state, x);
  } else {
    x.copy_(forward(call, x, {}, {}, rng_state, std::nullopt));
  }
}

Gradients backward_cpu(const Tensor& dy_any, const OptionalTensor& input_any,
                       const OptionalTensor& bias, const OptionalTensor& rng_state,
                       const Options& options, const pointwise::Gradient& gradient) {
  const CallParams call =
      pointwise::check_backward(dy_any, input_any, bias, rng_state, options, gradient);
  const auto strides = C10_AS_INTARRAYREF_SLOW(gradient.strides);
  const auto sizes = dy_any.sizes();
  const auto tensor_options = dy_any.options();

  DropConstants constants = call.constants();
  if (gradient.from_output && constants.keep_count > 0) {
    constants.keep_count = 65536;  // the output is zero where dropped: no mask is needed
  }
  PhiloxState state = state_for(call, rng_state, constants, dy_any);
  if (mutated(Mutation::kOtherBackwardMask)) ++state.seed;
  Tensor dx = at::empty({0}, tensor_options.dtype(gradient.dtype));
  Tensor dbias = at::empty({0}, tensor_options.dtype(gradient.bias_dtype.value_or(at::kFloat)));
  if (gradient.output_mask[0]) {
    dx = empty_large(sizes, strides, tensor_options.dtype(gradient.dtype));
  }
  const bool sum_bias = gradient.output_mask[1];
  if (dy_any.numel() == 0 || constants.keep_count == 0) {
    if (gradient.output_mask[0]) dx.zero_();
    if (sum_bias) dbias = at::zeros({sizes[call.bias_dim]}, dbias.options());
    return {dx, dbias};
  }

  const bool wide = dy_any.scalar_type() == at::kFloat && gradient.dtype != at::kFloat &&
                    gradient.dtype != at::kDouble;
  const Tensor dy = in_layout(dy_any, strides, wide ? at::kFloat : gradient.dtype);
  Tensor input;
  if (input_any) input = in_layout(*input_any, strides, gradient.dtype);
  Tensor values;
  BiasIndexing bias_indexing;
  std::optional<BiasLayout> layout;
  if (gradient.bias_dtype) {
    layout.emplace(sizes, strides, call.bias_dim);
    if (bias) values = layout->expand(*bias, arithmetic_of(gradient.dtype));
    bias_indexing = layout->indexing(values);
  }
  const MaskLayout mask(call, sizes, strides);
  const PointwiseBackwardArgs args{dy.const_data_ptr(),
                                   data_of(input),
                                   gradient.output_mask[0] ? dx.mutable_data_ptr() : nullptr,
                                   bias_indexing,
                                   mask_indexing(mask, constants.keep_count, state),
                                   constants.scale,
                                   call.parameter,
                                   gradient.output_mask[0] && exceeds_cache(dx.nbytes())};
  const PointwiseBackwardKernel kernel =
      kernels().pointwise.backward(storage_of(gradient.dtype), wide, sum_bias, call.activation);
  if (sum_bias) {
    const auto arithmetic = arithmetic_of(gradient.dtype);
    dbias =
        sum_bias_gradient(kernel, args, *layout, dy.numel(), arithmetic).to(*gradient.bias_dtype);
  } else {
    for_each_chunk(dy.numel(),
                   [&](int64_t begin, int64_t end) { kernel(args, nullptr, begin, end); });
  }
  return {dx, dbias};
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CPU, m) {
  m.impl("bias_act_dropout", pointwise::forward_entry<forward_cpu>);
  m.impl("bias_act_dropout_backward", pointwise::backward_entry<backward_cpu>);
  m.impl("dropout_", pointwise::inplace_entry<inplace_cpu>);
}

}  // namespace fused_dropout::cpu
