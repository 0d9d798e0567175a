// The gated operator on CUDA: memory and streams around the kernels.
#include "ops/gated.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "cuda/gated.h"
#include "cuda/kernel_args.h"
#include "ops/common/row_layout.h"

namespace fused_dropout::cuda {
namespace {

// The halves of a row of twice `width` elements.
struct Halves {
  int64_t gate, value;  // where they begin
  Halves(int64_t width, bool gate_first)
      : gate(gate_first ? 0 : width), value(gate_first ? width : 0) {}
};

template <class Pointer>
Pointer advanced(Pointer data, int64_t elements, at::ScalarType dtype) {
  using Byte =
      std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const char, char>;
  return data ? static_cast<Byte*>(data) + elements * c10::elementSize(dtype) : nullptr;
}

// What forward and backward take alike. `x` and `bias` have to outlive the call.
template <class Args>
void set_operands(Args& args, const CallParams& call, const RowLayout& layout, const Halves& halves,
                  const Tensor& x, const Tensor& bias) {
  const at::ScalarType dtype = x.scalar_type();
  args.gate = advanced(x.const_data_ptr(), halves.gate, dtype);
  args.value = advanced(x.const_data_ptr(), halves.value, dtype);
  if (bias.defined()) {
    args.gate_bias = vector_argument(bias.narrow(0, halves.gate, layout.width), dtype);
    args.value_bias = vector_argument(bias.narrow(0, halves.value, layout.width), dtype);
  }
  args.layout = layout_for(layout.rows * layout.width, layout.width, 1);
  const DropConstants constants = call.constants();
  args.mask = mask_indexing(layout.mask, constants.keep_count);
  args.scale = constants.scale;
  args.parameter = call.parameter;
}

// The strides of the result of a call, and its rows.
struct OutputLayout {
  gated::Output output;
  RowLayout rows;
  OutputLayout(const CallParams& call, const Tensor& x, at::IntArrayRef x_strides)
      : output(x, x_strides), rows(call, output.sizes, output.strides) {}
};

Tensor forward(const CallParams& call, const OutputLayout& target, const Tensor& x_any,
               const OptionalTensor& bias_any, const RandomState& random, bool gate_first) {
  const DropConstants constants = call.constants();
  const RowLayout& layout = target.rows;
  const RowOutput y(true, layout, 1, target.output.strides, x_any.options(), at::empty_strided);
  if (x_any.numel() == 0 || constants.keep_count == 0) return y.zeros();

  const at::ScalarType dtype = x_any.scalar_type();
  const Tensor x = in_layout(x_any, layout.strides_of(2), dtype);
  const Tensor bias = vector_for(bias_any, dtype);
  GatedForwardArgs args;
  set_operands(args, call, layout, Halves(layout.width, gate_first), x, bias);
  args.y = y.data();
  args.random = random;
  args.shift = constants.shift;
  args.fill = constants.fill;
  launch_gated_forward(args, storage_of(dtype), call.activation, stream_of(x));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return y.finish();
}

Tensor forward_cuda(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& rng_state,
                    bool gate_first, const Options& options) {
  const CallParams call = gated::check("bias_glu_dropout", x, bias, rng_state, options);
  const c10::cuda::CUDAGuard guard(x.device());
  const OutputLayout target(call, x, dense_strides(x));
  if (!can_index(target.rows.mask)) {
    return gated::compose_forward(x, bias, rng_state, gate_first, options);
  }
  const RandomState random = state_for(call, rng_state, call.constants(), x);
  return forward(call, target, x, bias, random, gate_first);
}

Gradients backward_cuda(const Tensor& dy_any, const Tensor& x_any, const OptionalTensor& bias_any,
                        const OptionalTensor& rng_state, bool gate_first, const Options& options,
                        const gated::Gradient& gradient) {
  const CallParams call =
      gated::check_backward(dy_any, x_any, bias_any, rng_state, options, gradient);
  const c10::cuda::CUDAGuard guard(x_any.device());
  const DropConstants constants = call.constants();
  const auto x_strides = C10_AS_INTARRAYREF_SLOW(gradient.strides);
  const OutputLayout target(call, x_any, x_strides);
  const RowLayout& layout = target.rows;
  if (!can_index(layout.mask)) {
    return gated::compose_backward(dy_any, x_any, bias_any, rng_state, gate_first, options,
                                   gradient);
  }
  const auto [need_dx, need_dbias] = gradient.output_mask;
  const RowOutput dx(need_dx, layout, 2, x_strides, x_any.options(), at::empty_strided);
  const RandomState random = state_for(call, rng_state, constants, x_any);
  Tensor dbias =
      at::empty({need_dbias ? x_any.size(-1) : 0}, x_any.options().dtype(gradient.bias_dtype));
  if (x_any.numel() == 0 || constants.keep_count == 0) return {dx.zeros(), dbias.zero_()};

  const at::ScalarType dtype = x_any.scalar_type(), arithmetic = arithmetic_of(dtype);
  const Tensor x = in_layout(x_any, layout.strides_of(2), dtype);
  const Tensor dy = in_layout(dy_any, layout.strides, dtype);
  const Tensor bias = vector_for(bias_any, dtype);
  const Halves halves(layout.width, gate_first);
  GatedBackwardArgs args;
  set_operands(args, call, layout, halves, x, bias);
  args.random = random;
  args.dy = dy.const_data_ptr();
  args.dgate = advanced(dx.data(), halves.gate, dtype);
  args.dvalue = advanced(dx.data(), halves.value, dtype);
  // The kernel writes into dbias itself where each channel has one partial sum.
  const bool is_total = partials_are_totals(args.layout) && gradient.bias_dtype == arithmetic;
  Tensor partials;
  if (need_dbias && is_total) {
    args.gate_partials = advanced(dbias.mutable_data_ptr(), halves.gate, arithmetic);
    args.value_partials = advanced(dbias.mutable_data_ptr(), halves.value, arithmetic);
  } else if (need_dbias) {
    const int64_t rows = partial_rows(args.layout);
    partials = at::empty({2, rows, args.layout.period}, x.options().dtype(arithmetic));
    args.gate_partials = partials.mutable_data_ptr();
    args.value_partials = advanced(args.gate_partials, rows * args.layout.period, arithmetic);
  }
  launch_gated_backward(args, storage_of(dtype), call.activation, stream_of(x));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  if (need_dbias && !is_total) {
    ColumnSums sums{args.gate_partials, args.layout, partial_copies(args.layout), 2, {}};
    sums.targets[0] = advanced(dbias.mutable_data_ptr(), halves.gate, gradient.bias_dtype);
    sums.targets[1] = advanced(dbias.mutable_data_ptr(), halves.value, gradient.bias_dtype);
    launch_column_sums(sums, arithmetic == at::kDouble, storage_of(gradient.bias_dtype),
                       stream_of(x));
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {dx.finish(), dbias};
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CUDA, m) {
  m.impl("bias_glu_dropout", gated::forward_entry<forward_cuda>);
  m.impl("bias_glu_dropout_backward", gated::backward_entry<backward_cuda>);
}

}  // namespace fused_dropout::cuda
