// The CPU operators: memory, layouts and threads around the kernels.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "cpu/bias_gradient.h"
#include "cpu/capability.h"
#include "cpu/kernel_args.h"
#include "cpu/kernel_table.h"
#include "cpu/large_memory.h"
#include "ops/common/arguments.h"

namespace fused_dropout::cpu {
namespace {

// Writes into `out` where it is given (it may be x), else into a new tensor.
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
  // A residual wider than 32 bits, or than a 32-bit x, widens x: kernels know fp32 beside 16 bits.
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
  const ForwardArgs args{x.const_data_ptr(),
                         data_of(residual),
                         y.mutable_data_ptr(),
                         bias_indexing,
                         mask_indexing(mask, constants.keep_count, state),
                         constants.scale,
                         constants.shift,
                         constants.fill,
                         call.parameter,
                         exceeds_cache(y.nbytes())};
  const Residual kind = !residual.defined()        ? Residual::kNone
                        : dtype == x.scalar_type() ? Residual::kSame
                                                   : Residual::kFloat32;
  const ForwardKernel kernel =
      kernels().forward(storage_of(x.scalar_type()), kind, call.activation);
  for_each_chunk(x.numel(), [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
  return y;
}

Tensor forward_cpu(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& residual,
                   const OptionalTensor& rng_state, const Options& options) {
  const CallParams call =
      check_arguments("bias_act_dropout", x, bias, residual, rng_state, options);
  return forward(call, x, bias, residual, rng_state, std::nullopt);
}

void inplace_cpu(Tensor x, const OptionalTensor& rng_state, const Options& options) {
  const CallParams call = check_arguments("dropout_", x, {}, {}, rng_state, options);
  if (x.is_non_overlapping_and_dense()) {
    forward(call, x, {}, {}, rng_state, x);
  } else {
    x.copy_(forward(call, x, {}, {}, rng_state, std::nullopt));
  }
}

Gradients backward_cpu(const Tensor& dy_any, const OptionalTensor& input_any,
                       const OptionalTensor& bias, const OptionalTensor& rng_state,
                       const Options& options, const Gradient& gradient) {
  const CallParams call =
      check_backward_arguments(dy_any, input_any, bias, rng_state, options, gradient);
  const auto strides = C10_AS_INTARRAYREF_SLOW(gradient.strides);
  const auto sizes = dy_any.sizes();
  const auto tensor_options = dy_any.options();

  DropConstants constants = call.constants();
  if (gradient.from_output && constants.keep_count > 0) {
    constants.keep_count = 65536;  // the output is zero wherever it was dropped
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
  const BackwardArgs args{dy.const_data_ptr(),
                          data_of(input),
                          gradient.output_mask[0] ? dx.mutable_data_ptr() : nullptr,
                          bias_indexing,
                          mask_indexing(mask, constants.keep_count, state),
                          constants.scale,
                          call.parameter,
                          gradient.output_mask[0] && exceeds_cache(dx.nbytes())};
  const BackwardKernel kernel =
      kernels().backward(storage_of(gradient.dtype), wide, sum_bias, call.activation);
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

Tensor mask_cpu(const Tensor& rng_state, at::SymIntArrayRef size, at::SymIntArrayRef strides,
                double p, at::IntArrayRef shared_dims, at::OptionalSymIntArrayRef mask_strides,
                c10::SymInt mask_offset) {
  const MaskParams call(rng_state, size, strides, p, shared_dims, mask_strides,
                        std::move(mask_offset));
  if (call.kept.numel() == 0) return call.kept;
  const MaskIndexing indexing =
      mask_indexing(call.layout, call.keep_count, read_rng_state(rng_state));
  bool* values = call.kept.mutable_data_ptr<bool>();
  for_each_chunk(call.kept.numel(),
                 [&](int64_t begin, int64_t end) { kernels().mask(indexing, values, begin, end); });
  return call.kept;
}

Tensor draw_cpu(const Tensor& token, const OptionalTensor& p_tensor,
                const OptionalGenerator& generator) {
  const Tensor state = at::empty({2}, at::TensorOptions().dtype(at::kLong));
  int64_t* values = state.mutable_data_ptr<int64_t>();
  values[0] = values[1] = 0;
  if (p_tensor) {
    const double p = check_probability("dropout", p_tensor->item<double>());
    if (p == 0 || p == 1) return state;  // nothing will be drawn with it
  }
  if (generator) {
    TORCH_CHECK(generator->device().is_cpu(), "dropout: generator is on ", generator->device(),
                ", but x is on ", token.device());
  }
  auto* source = at::get_generator_or_default<at::CPUGeneratorImpl>(
      generator, at::detail::getDefaultCPUGenerator());
  const std::lock_guard<std::mutex> lock(source->mutex_);
  uint64_t seed = source->random64();
  if (mutated(Mutation::kRepeatedState)) {
    static uint64_t calls = 0, previous = 0;
    if (calls++ % 2) seed = previous;
    previous = seed;
  }
  values[0] = static_cast<int64_t>(seed);
  return state;
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CPU, m) {
  m.impl("draw_rng_state", draw_cpu);
  m.impl("bias_act_dropout", forward_entry<forward_cpu>);
  m.impl("bias_act_dropout_backward", backward_entry<backward_cpu>);
  m.impl("dropout_", inplace_entry<inplace_cpu>);
  m.impl("dropout_mask", mask_cpu);
}

}  // namespace fused_dropout::cpu
