// Gaussian dropout: schema, checks of arguments, calls, results on the meta device, and the
// composition of plain torch operators.
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <torch/library.h>

#include "ops/common/composite.h"
#include "ops/common/operator_handle.h"
#include "ops/gaussian.h"
#include "ops/noise_composite.h"

namespace fused_dropout::gaussian {
namespace {

double check_scale(const char* function, double p) {
  TORCH_CHECK_VALUE(p < 1, function, ": p is ", p,
                    ", but expected less than 1, where the noise is infinite");
  return p;
}

}  // namespace

CallParams check(const char* function, const Tensor& x, const OptionalTensor& rng_state,
                 const Options& options, at::OptionalSymIntArrayRef strides) {
  CallParams call = check_arguments(function, x, {}, {}, rng_state, options);
  if (!call.p_tensor) check_scale(function, call.p);
  if (strides) check_dense(function, x.sym_sizes(), *strides);
  return call;
}

double scale_of(const CallParams& call) {
  const double p = check_scale(call.function, call.probability());
  return std::sqrt(p / (1 - p));
}

Tensor call(const Tensor& x, const Tensor& rng_state, const Options& o,
            at::OptionalSymIntArrayRef strides) {
  static const auto op = find_operator("fused_dropout::gaussian_dropout", &entry<compose>);
  return op.call(x, rng_state, o.p, o.p_tensor, FD_MASK_ARGUMENTS(o), strides);
}

Tensor eager_call(const EagerCall& eager, const Tensor& x, const OptionalTensor& rng_state,
                  const Options& options) {
  check(eager.function, x, rng_state, options);
  return eager.with_required_state(
      x, rng_state, [&](const Tensor& state) { return call(x, state, options, {}); });
}

Tensor compose(const Tensor& x, const Tensor& rng_state, const Options& options,
               at::OptionalSymIntArrayRef given_strides) {
  const CallParams call = check(kFunction, x, rng_state, options, given_strides);
  const auto strides = given_strides ? given_strides->vec() : strides_like(x);
  const Value normal = noise_draws(NoiseDraw::kNormal, call, rng_state, x, strides);
  const auto [y] = compose_noise<noise::Gaussian>({x}, normal, {Value(scale_of(call))});
  return y.to(x.scalar_type());
}

namespace {

Tensor meta(const Tensor& x, const Tensor& rng_state, const Options& options,
            at::OptionalSymIntArrayRef strides) {
  check(kFunction, x, rng_state, options, strides);
  return strides ? at::empty_strided_symint(x.sym_sizes(), *strides, x.options())
                 : at::empty_like(x);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fused_dropout, m) {
  m.def(c10::str("gaussian_dropout(Tensor x, Tensor rng_state, float p, Tensor? p_tensor, ",
                 kMaskOptions, ", SymInt[]? strides=None) -> Tensor")
            .c_str(),
        {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(fused_dropout, CompositeExplicitAutograd, m) {
  m.impl("gaussian_dropout", entry<compose>);
}

TORCH_LIBRARY_IMPL(fused_dropout, Meta, m) { m.impl("gaussian_dropout", entry<meta>); }

}  // namespace fused_dropout::gaussian
