// Gaussian dropout: schema, checks of arguments, calls, shapes of results, and autograd.
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "autograd.h"
#include "noise.h"
#include "operator_handle.h"

namespace fused_dropout::gaussian {
namespace {

double check_scale(const char* function, double p) {
  TORCH_CHECK_VALUE(p < 1, function, ": p is ", p,
                    ", but expected less than 1, where the noise is infinite");
  return p;
}

}  // namespace

Resolved check(const char* function, const Tensor& x, const OptionalTensor& rng_state,
               const Options& options, at::OptionalSymIntArrayRef strides) {
  Resolved call = check_arguments(function, x, {}, {}, rng_state, options);
  if (!call.p_tensor) check_scale(function, call.p);
  if (strides) check_dense(function, x.sym_sizes(), *strides);
  return call;
}

double scale_of(const Resolved& call) {
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

// The noise is drawn again in backward, which is the same operator. What is saved of the call is in
// lists, which compiled autograd takes for constants of its graph.
struct GaussianDropout : torch::autograd::Function<GaussianDropout> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& rng_state,
                        const Options& options, at::OptionalSymIntArrayRef strides) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor y = gaussian::call(x, rng_state, options, strides);
    const Resolved call = check(kFunction, x, rng_state, options, strides);
    ctx->saved_data["p"] = c10::List<double>({call.p});
    ctx->saved_data["shared_dims"] = call.shared_dims;
    std::vector<c10::SymInt> place{call.mask_offset};
    for (const auto& stride : y.sym_strides()) place.push_back(stride);
    if (call.mask_strides) {
      for (const auto& stride : *call.mask_strides) place.push_back(stride);
    }
    ctx->saved_data["place"] = c10::IValue(c10::SymIntArrayRef(place));
    ctx->save_for_backward({rng_state, options.p_tensor.value_or(Tensor())});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto shared_dims = ctx->saved_data["shared_dims"].toIntVector();
    const auto place = ctx->saved_data["place"].toSymIntVector();
    const auto saved = ctx->get_saved_variables();
    const size_t rank = grads[0].dim();
    const at::SymIntArrayRef numbers(place);
    Options options;
    options.p = ctx->saved_data["p"].toDoubleVector()[0];
    options.p_tensor = optional(saved[1]);
    options.shared_dims = shared_dims;
    options.mask_offset = numbers[0];
    if (place.size() > 1 + rank) options.mask_strides = numbers.slice(1 + rank);
    return {gaussian::call(grads[0], saved[0], options, numbers.slice(1, rank)), {}, {}, {}};
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
