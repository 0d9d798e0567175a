// The operator dropout_add_norm and its backward on the CPU: memory, layouts and threads around the
// kernels.
#include "ops/norm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include "cpu/capability.h"
#include "cpu/column_sums.h"
#include "cpu/kernel_args.h"
#include "cpu/large_memory.h"
#include "ops/common/row_layout.h"

namespace fused_dropout::cpu {
namespace {

using norm::Gradient;
using norm::Kind;
using norm::NormCallParams;
using norm::Operands;
using norm::Saved;
using norm::Settings;
using norm::Types;

// The vectors along rows as the kernels expect them (see cpu/norm.h), and the arguments of the
// branch kernels made from them.
struct Vectors {
  Tensor bias, layer_scale, weight, norm_bias, row_scale;

  Vectors(const RowLayout& layout, at::ScalarType arithmetic, const OptionalTensor& bias_any,
          const OptionalTensor& layer_scale_any, const OptionalTensor& weight_any,
          const OptionalTensor& norm_bias_any, const OptionalTensor& row_scale_any)
      : bias(row_vector(bias_any, -0.0, layout.width, arithmetic)),
        layer_scale(row_vector(layer_scale_any, 1.0, layout.width, arithmetic)),
        weight(row_vector(weight_any, 1.0, layout.width, arithmetic)),
        norm_bias(row_vector(norm_bias_any, -0.0, layout.width, arithmetic)) {
    if (row_scale_any) {
      row_scale = in_layout(*row_scale_any, layout.strides_without_rows(), arithmetic);
    }
  }

  BranchArgs branch(const NormCallParams& call, const DropConstants& constants,
                    const PhiloxState& state, const RowLayout& layout, const Tensor& x) const {
    BranchArgs args{data_of(x),
                    bias.const_data_ptr(),
                    layer_scale.const_data_ptr(),
                    data_of(row_scale),
                    mask_indexing(layout.mask, constants.keep_count, state),
                    constants.scale,
                    constants.shift,
                    constants.fill,
                    call.parameter};
    // If everything is dropped, x and the bias are zeros (see the callers), and there is nothing to
    // draw.
    if (constants.keep_count == 0) args.mask.keep_count = 65536;
    return args;
  }
};

norm::Results forward_cpu(const Tensor& x_any, const Operands& operands,
                          const OptionalTensor& rng_state, const Settings& settings,
                          const Options& options) {
  const NormCallParams call =
      norm::check("dropout_add_norm", x_any, operands, rng_state, settings, options);
  const DropConstants constants = call.constants();
  const PhiloxState state = state_for(call, rng_state, constants, x_any);
  const auto strides = dense_strides(x_any);
  const RowLayout layout(call, x_any.sizes(), strides);
  const Types types(x_any.scalar_type(), call.h_dtype, call.y_dtype);
  const bool centered = call.kind == Kind::kLayer;

  const RowOutput y(true, layout, 1, strides, x_any.options().dtype(types.y), empty_large);
  const RowOutput h(settings.prenorm, layout, 1, strides, x_any.options().dtype(types.h),
                    empty_large);
  const Tensor statistics =
      at::empty({centered ? 2 : 1, layout.rows}, x_any.options().dtype(types.arithmetic()));
  if (x_any.numel() == 0) {
    return {y.finish().to(call.y_dtype), h.finish(),
            statistics.to(arithmetic_of(x_any.scalar_type()))};
  }

  // If everything is dropped, the branch is computed from zeros: NaN and infinities of x must not
  // reach the result.
  const bool drops_all = constants.keep_count == 0;
  const Tensor x = in_rows(drops_all ? at::zeros_like(x_any) : x_any, layout, types.x);
  const Tensor residual = in_rows(operands.residual, layout, types.h);
  const Vectors vectors(layout, types.arithmetic(), drops_all ? std::nullopt : operands.bias,
                        operands.layer_scale, operands.weight, operands.norm_bias,
                        operands.row_scale);
  NormForwardArgs args;
  args.branch = vectors.branch(call, constants, state, layout, x);
  args.width = layout.width;
  args.weight = vectors.weight.const_data_ptr();
  args.centered = centered;
  args.eps = settings.eps;
  args.non_temporal = exceeds_cache(y.nbytes());
  args.residual = data_of(residual);
  args.norm_bias = vectors.norm_bias.const_data_ptr();
  args.y = y.data();
  args.h = h.data();
  args.mean = norm::statistic(statistics, 0);
  args.rstd = norm::statistic(statistics, centered);

  const Storage storage = storage_of(types.x);
  const KernelTable& table = row_kernels(storage);
  const auto kernel = table.norm.forward(storage, types.wide_h(), types.wide_y());
  const auto branch = table.norm.branch(storage, call.activation);
  for_each_row(
      [&](void* const*, const RowRange& range, void* scratch) {
        kernel(args, branch, range.first_row, range.last_row, scratch);
      },
      layout.rows, layout.width, /*splits_columns=*/false);
  return {y.finish().to(call.y_dtype), h.finish(),
          statistics.to(arithmetic_of(x_any.scalar_type()))};
}

norm::Gradients backward_cpu(const Tensor& dy_any, const OptionalTensor& dh_any, const Saved& saved,
                             const OptionalTensor& rng_state, const Settings& settings,
                             const Options& options, const Gradient& gradient) {
  const NormCallParams call =
      norm::check_backward(dy_any, dh_any, saved, rng_state, settings, options, gradient);
  const DropConstants constants = call.constants();
  PhiloxState state = state_for(call, rng_state, constants, dy_any);
  if (mutated(Mutation::kOtherBackwardMask)) ++state.seed;
  const auto strides = C10_AS_INTARRAYREF_SLOW(gradient.strides);
  const RowLayout layout(call, dy_any.sizes(), strides);
  const Types types = gradient.types(dy_any.scalar_type());
  const at::ScalarType vector_dtype = arithmetic_of(gradient.dtype);
  const auto& wanted = gradient.output_mask;

  const RowOutput dx(wanted[norm::kDx], layout, 1, strides, dy_any.options().dtype(types.x),
                     empty_large);
  const RowOutput dresidual(wanted[norm::kDresidual], layout, 1, strides,
                            dy_any.options().dtype(types.h), empty_large);
  // The gradients of vectors in the order of the results, and the sums that each of them takes.
  constexpr norm::Output kVectors[] = {norm::kDbias, norm::kDlayerScale, norm::kDweight,
                                       norm::kDnormBias};
  constexpr void* ColumnSums::* kSums[] = {&ColumnSums::bias, &ColumnSums::layer_scale,
                                           &ColumnSums::weight, &ColumnSums::norm_bias};
  const bool drops_all = constants.keep_count == 0;
  Tensor sums[4];
  std::vector<int> summed;
  for (int i = 0; i < 4; ++i) {
    sums[i] =
        at::zeros({wanted[kVectors[i]] ? layout.width : 0}, dy_any.options().dtype(vector_dtype));
    const bool is_zero = dy_any.numel() == 0 || (drops_all && i < 2);
    if (wanted[kVectors[i]] && !is_zero) summed.push_back(i);
  }
  const auto results = [&]() -> norm::Gradients {
    return {(drops_all ? dx.zeros() : dx.finish()).to(gradient.dtype),
            dresidual.finish().to(gradient.h_dtype),
            sums[0],
            sums[1],
            sums[2],
            sums[3]};
  };
  if (dy_any.numel() == 0) return results();

  const bool centered = call.kind == Kind::kLayer;
  const Tensor dy = in_rows(dy_any, layout, types.y);
  const Tensor dh = in_rows(dh_any, layout, types.h);
  const Tensor h = in_rows(saved.h, layout, types.h);
  const Tensor residual = saved.h ? Tensor() : in_rows(saved.residual, layout, types.h);
  OptionalTensor x_any = saved.x;
  if (drops_all && x_any) x_any = at::zeros_like(*x_any);
  const Tensor x = in_rows(x_any, layout, types.x);
  const Vectors vectors(layout, types.arithmetic(), drops_all ? std::nullopt : saved.bias,
                        saved.layer_scale, saved.weight, {}, saved.row_scale);
  const Tensor statistics = saved.statistics.to(types.arithmetic()).contiguous();
  NormBackwardArgs args;
  args.branch = vectors.branch(call, constants, state, layout, x);
  args.width = layout.width;
  args.weight = vectors.weight.const_data_ptr();
  args.centered = centered;
  args.eps = settings.eps;
  // Measured: stores past the cache save a sixth of the time in fp32, and nothing with 16 bits,
  // where arithmetic sets the speed.
  args.non_temporal = types.x == at::kFloat && exceeds_cache(dresidual.nbytes());
  args.branch.non_temporal = types.x == at::kFloat && exceeds_cache(dx.nbytes());
  args.dy = dy.const_data_ptr();
  args.dh = data_of(dh);
  args.h = data_of(h);
  args.residual = data_of(residual);
  args.mean = norm::statistic(statistics, 0);
  args.rstd = norm::statistic(statistics, centered);
  args.dx = drops_all ? nullptr : dx.data();
  args.dresidual = dresidual.data();

  const Storage storage = storage_of(types.x);
  const KernelTable& table = row_kernels(storage);
  const auto kernel = table.norm.backward(storage, types.wide_h(), types.wide_y());
  const auto branch = table.norm.branch(storage, call.activation);
  const auto branch_backward = table.norm.branch_backward(storage, call.activation);
  const RowTask task = [&](void* const* columns, const RowRange& range, void* scratch) {
    ColumnSums column_sums;
    for (size_t i = 0; columns && i < summed.size(); ++i)
      column_sums.*kSums[summed[i]] = columns[i];
    kernel(args, branch, branch_backward, column_sums, range.first_row, range.last_row, scratch);
  };
  if (summed.empty()) {
    for_each_row(task, layout.rows, layout.width, /*splits_columns=*/false);
  } else {
    const auto totals = sum_columns(task, layout.rows, layout.width,
                                    static_cast<int>(summed.size()), types.arithmetic(),
                                    /*splits_columns=*/false);
    for (size_t i = 0; i < summed.size(); ++i) sums[summed[i]] = totals[i].to(vector_dtype);
  }
  return results();
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CPU, m) {
  m.impl("dropout_add_norm", norm::forward_entry<forward_cpu>);
  m.impl("dropout_add_norm_backward", norm::backward_entry<backward_cpu>);
}

}  // namespace fused_dropout::cpu
