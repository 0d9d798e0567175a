// The operators of DropBlock: schemas, checks of arguments, calls, and results on the meta device.
#include "ops/drop_block.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>

#include "ops/common/operator_handle.h"

namespace fused_dropout::drop_block {

double Params::probability() const {
  return p_tensor ? check_probability(function, p_tensor->item<double>()) : p;
}

Params resolve(const char* function, const Options& options) {
  if (options.p_tensor) {
    check_probability_tensor(function, *options.p_tensor);
  } else {
    check_probability(function, options.p);
  }
  TORCH_CHECK_VALUE(options.block_size > 0 && options.block_size % 2 == 1, function,
                    ": block_size is ", options.block_size,
                    ", but expected an odd number from 1 on");
  TORCH_CHECK_VALUE(options.mode == "inverted" || options.mode == "classic", function,
                    ": mode is '", options.mode, "', but expected 'inverted' or 'classic'");
  return {function,
          options.p,
          options.p_tensor,
          options.block_size,
          options.shared_channels,
          options.mode == "classic",
          options.training};
}

Params check(const char* function, const Tensor& x, const OptionalTensor& rng_state,
             const OptionalTensor& kept, const Options& options) {
  check_operand(function, "x", x, x);
  TORCH_CHECK(x.dim() >= 3 && x.dim() <= 5, function, ": x has ", x.dim(),
              " dimensions, but expected 3 to 5: (N, C, L), (N, C, H, W) or (N, C, D, H, W)");
  if (rng_state) check_rng_state(function, *rng_state, x.device());
  if (kept) {
    TORCH_CHECK_TYPE(kept->scalar_type() == at::kLong && kept->dim() == 0, function,
                     ": kept has dtype ", kept->scalar_type(), " and ", kept->dim(),
                     " dimensions, but expected int64 and 0");
    TORCH_CHECK(kept->device() == x.device(), function, ": kept is on ", kept->device(),
                ", but x is on ", x.device());
  }
  return resolve(function, options);
}

void check_state(const Params& call, const OptionalTensor& rng_state, const OptionalTensor& kept) {
  TORCH_CHECK_VALUE(rng_state, call.function, ": rng_state is None, but training needs one");
  TORCH_CHECK_VALUE(kept || !call.scales(), call.function,
                    ": kept is None, but the scale is made of it");
}

Tensor call_kept(const Tensor& x, const Tensor& rng_state, const Options& o) {
  static const auto op = find_operator("fused_dropout::drop_block_kept", &kept_entry<compose_kept>);
  return op.call(x, rng_state, o.p, o.p_tensor, o.block_size, o.shared_channels);
}

Tensor call_apply(const Tensor& x, const OptionalTensor& rng_state, const OptionalTensor& kept,
                  at::OptionalSymIntArrayRef strides, const Options& o) {
  static const auto op = find_operator("fused_dropout::drop_block", &apply_entry<compose_apply>);
  return op.call(x, rng_state, kept, strides, o.p, o.p_tensor, o.block_size, o.shared_channels,
                 o.mode, o.training);
}

Tensor eager_apply(const EagerCall& eager, const Tensor& x, const OptionalTensor& rng_state,
                   const OptionalTensor& kept, at::OptionalSymIntArrayRef strides,
                   const Options& options) {
  const Params call = check(eager.function, x, rng_state, kept, options);
  return eager.with_state(x, /*is_part=*/false, rng_state, [&](const OptionalTensor& state) {
    OptionalTensor count;
    if (state && call.scales()) count = call_kept(x, *state, options);
    return call_apply(x, state, count, strides, options);
  });
}

namespace {

Tensor kept_meta(const Tensor& x, const Tensor& rng_state, const Options& options) {
  check("drop_block_kept", x, rng_state, {}, options);
  return at::empty({}, x.options().dtype(at::kLong));
}

Tensor apply_meta(const Tensor& x, const OptionalTensor& rng_state, const OptionalTensor& kept,
                  at::OptionalSymIntArrayRef strides, const Options& options) {
  check("drop_block", x, rng_state, kept, options);
  if (!strides) return at::empty_like(x);
  check_dense("drop_block", x.sym_sizes(), *strides);
  return at::empty_strided_symint(x.sym_sizes(), *strides, x.options());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fused_dropout, m) {
  m.def(
      "drop_block_kept(Tensor x, Tensor rng_state, float p, Tensor? p_tensor, int block_size, "
      "bool shared_channels) -> Tensor",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "drop_block(Tensor x, Tensor? rng_state, Tensor? kept, SymInt[]? strides, float p, "
      "Tensor? p_tensor, int block_size, bool shared_channels, str dropout_mode, bool training) "
      "-> Tensor",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(fused_dropout, Meta, m) {
  m.impl("drop_block_kept", kept_entry<kept_meta>);
  m.impl("drop_block", apply_entry<apply_meta>);
}

}  // namespace fused_dropout::drop_block
