// Gaussian dropout: autograd.
#include <torch/csrc/autograd/custom_function.h>

#include "ops/common/autograd.h"
#include "ops/common/saved_call.h"
#include "ops/gaussian.h"

namespace fused_dropout::gaussian {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct SavedCall {
  CallParams call;
  std::vector<c10::SymInt> strides;
};

template <class Archive>
void list_fields(Archive& archive, SavedCall& s) {
  archive(s.call, s.strides);
}

// Backward is the same operator: it draws the noise again.
struct GaussianDropout : torch::autograd::Function<GaussianDropout> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& rng_state,
                        const Options& options, at::OptionalSymIntArrayRef strides) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor y = gaussian::call(x, rng_state, options, strides);
    SavedCall saved{resolve(kFunction, options, x.dim(), /*has_bias=*/false),
                    y.sym_strides().vec()};
    save_call(ctx, saved);
    ctx->save_for_backward({rng_state, or_undefined(options.p_tensor)});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = read_call<SavedCall>(ctx);
    const auto tensors = ctx->get_saved_variables();
    Options options = saved.call.options();
    options.p_tensor = optional(tensors[1]);
    Tensor dx = gaussian::call(grads[0], *saved_state(tensors[0], grads[0]), options,
                               at::SymIntArrayRef(saved.strides));
    return {dx, {}, {}, {}};
  }
};

Tensor autograd(const Tensor& x, const Tensor& rng_state, const Options& options,
                at::OptionalSymIntArrayRef strides) {
  return route_forward([&] { return compose(x, rng_state, options, strides); },
                       [&] { return GaussianDropout::apply(x, rng_state, options, strides); },
                       [&] { return gaussian::call(x, rng_state, options, strides); }, x);
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, Autograd, m) { m.impl("gaussian_dropout", entry<autograd>); }

}  // namespace fused_dropout::gaussian
