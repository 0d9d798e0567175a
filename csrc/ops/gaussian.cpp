// Gaussian dropout: schema, checks of arguments, calls, shapes of results, and autograd.
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "ops/common/autograd.h"
#include "ops/common/operator_handle.h"
#include "ops/common/saved_call.h"
#include "ops/noise.h"

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
  return op.call(x, rng_state, o.p, o.p_tensor, FD_PLACE_ARGUMENTS(o), strides);
}

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor meta(const Tensor& x, const Tensor& rng_state, const Options& options,
            at::OptionalSymIntArrayRef strides) {
  check(kFunction, x, rng_state, options, strides);
  return strides ? at::empty_strided_symint(x.sym_sizes(), *strides, x.options())
                 : at::empty_like(x);
}

struct SavedCall {
  CallParams call;
  std::vector<c10::SymInt> strides;
};

template <class Archive>
void list_fields(Archive& archive, SavedCall& s) {
  archive(s.call, s.strides);
}

// The noise is drawn again in backward, which is the same operator.
struct GaussianDropout : torch::autograd::Function<GaussianDropout> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& rng_state,
                        const Options& options, at::OptionalSymIntArrayRef strides) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor y = gaussian::call(x, rng_state, options, strides);
    SavedCall state{check(kFunction, x, rng_state, options, strides), y.sym_strides().vec()};
    save_call(ctx, state);
    ctx->save_for_backward({rng_state, options.p_tensor.value_or(Tensor())});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto state = read_call<SavedCall>(ctx);
    const auto saved = ctx->get_saved_variables();
    Options options = state.call.options();
    options.p_tensor = optional(saved[1]);
    return {
        gaussian::call(grads[0], saved[0], options, at::SymIntArrayRef(state.strides)), {}, {}, {}};
  }
};

Tensor autograd(const Tensor& x, const Tensor& rng_state, const Options& options,
                at::OptionalSymIntArrayRef strides) {
  if (needs_composition({x})) return compose(x, rng_state, options, strides);
  if (needs_graph({x})) return GaussianDropout::apply(x, rng_state, options, strides);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return gaussian::call(x, rng_state, options, strides);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fused_dropout, m) {
  m.def(c10::str("gaussian_dropout(Tensor x, Tensor rng_state, float p, Tensor? p_tensor, ",
                 kPlaceOptions, ", SymInt[]? strides=None) -> Tensor")
            .c_str(),
        {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(fused_dropout, Meta, m) { m.impl("gaussian_dropout", entry<meta>); }

TORCH_LIBRARY_IMPL(fused_dropout, Autograd, m) { m.impl("gaussian_dropout", entry<autograd>); }

}  // namespace fused_dropout::gaussian
