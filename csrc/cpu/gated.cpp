// The operator bias_glu_dropout and its backward on the CPU: memory, layouts and threads around the
// kernels.
#include "ops/gated.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "cpu/capability.h"
#include "cpu/column_sums.h"
#include "cpu/kernel_args.h"
#include "cpu/large_memory.h"
#include "ops/common/row_layout.h"

namespace fused_dropout::cpu {
namespace {

GatedArgs arguments(const CallParams& call, const DropConstants& constants,
                    const PhiloxState& state, const RowLayout& layout, const Tensor& x,
                    const Tensor& bias, bool gate_first) {
  return {x.const_data_ptr(),
          bias.const_data_ptr(),
          layout.width,
          gate_first,
          mask_indexing(layout.mask, constants.keep_count, state),
          constants.scale,
          constants.shift,
          constants.fill,
          call.parameter,
          false};
}

Tensor forward_cpu(const Tensor& x_any, const OptionalTensor& bias_any,
                   const OptionalTensor& rng_state, bool gate_first, const Options& options) {
  const CallParams call = gated::check("bias_glu_dropout", x_any, bias_any, rng_state, options);
  const DropConstants constants = call.constants();
  const PhiloxState state = state_for(call, rng_state, constants, x_any);
  const gated::Output output(x_any, dense_strides(x_any));
  const RowLayout layout(call, output.sizes, output.strides);
  const RowOutput y(true, layout, 1, output.strides, x_any.options(), empty_large);
  if (x_any.numel() == 0 || constants.keep_count == 0) return y.zeros();

  const Tensor x = in_layout(x_any, layout.strides_of(2), x_any.scalar_type());
  const Tensor bias = row_vector(bias_any, -0.0, 2 * layout.width, arithmetic_of(x.scalar_type()));
  GatedForwardArgs args{arguments(call, constants, state, layout, x, bias, gate_first), y.data()};
  args.non_temporal = exceeds_cache(y.nbytes());
  const Storage storage = storage_of(x.scalar_type());
  const auto kernel = row_kernels(storage).gated.forward(storage, call.activation);
  for_each_row([&](void* const*, const RowRange& range, void*) { kernel(args, range); },
               layout.rows, layout.width, /*splits_columns=*/true);
  return y.finish();
}

Gradients backward_cpu(const Tensor& dy_any, const Tensor& x_any, const OptionalTensor& bias_any,
                       const OptionalTensor& rng_state, bool gate_first, const Options& options,
                       const gated::Gradient& gradient) {
  const CallParams call =
      gated::check_backward(dy_any, x_any, bias_any, rng_state, options, gradient);
  const DropConstants constants = call.constants();
  PhiloxState state = state_for(call, rng_state, constants, x_any);
  if (mutated(Mutation::kOtherBackwardMask)) ++state.seed;
  const auto [need_dx, need_dbias] = gradient.output_mask;
  const auto x_strides = C10_AS_INTARRAYREF_SLOW(gradient.strides);
  const gated::Output output(x_any, x_strides);
  const RowLayout layout(call, output.sizes, output.strides);
  const RowOutput dx(need_dx, layout, 2, x_strides, x_any.options(), empty_large);
  Tensor dbias = at::empty({0}, x_any.options().dtype(gradient.bias_dtype));
  if (x_any.numel() == 0 || constants.keep_count == 0) {
    if (need_dbias) dbias = at::zeros({x_any.size(-1)}, dbias.options());
    return {dx.zeros(), dbias};
  }

  const at::ScalarType dtype = x_any.scalar_type(), arithmetic = arithmetic_of(dtype);
  const Tensor x = in_layout(x_any, layout.strides_of(2), dtype);
  const Tensor dy = in_layout(dy_any, layout.strides, dtype);
  const Tensor bias = row_vector(bias_any, -0.0, 2 * layout.width, arithmetic);
  const GatedBackwardArgs args{arguments(call, constants, state, layout, x, bias, gate_first),
                               dy.const_data_ptr(), dx.data()};
  const Storage storage = storage_of(x.scalar_type());
  const auto kernel = row_kernels(storage).gated.backward(storage, call.activation);
  const RowTask task = [&](void* const* sums, const RowRange& range, void*) {
    ColumnSums columns;
    if (sums) {
      columns.bias = sums[0];
      columns.value_bias = sums[1];
    }
    kernel(args, columns, range);
  };
  if (need_dbias) {
    const auto halves = sum_columns(task, layout.rows, layout.width, 2, arithmetic, true);
    dbias = at::cat({halves[0], halves[1]}).to(gradient.bias_dtype);
  } else {
    for_each_row(task, layout.rows, layout.width, /*splits_columns=*/true);
  }
  return {dx.finish(), dbias};
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CPU, m) {
  m.impl("bias_glu_dropout", gated::forward_entry<forward_cpu>);
  m.impl("bias_glu_dropout_backward", gated::backward_entry<backward_cpu>);
}

}  // namespace fused_dropout::cpu
