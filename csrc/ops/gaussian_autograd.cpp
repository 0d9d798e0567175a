// Gaussian dropout: autograd.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

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

TORCH_LIBRARY_IMPL(fused_dropout, Autograd, m) { m.impl("gaussian_dropout", entry<autograd>); }

}  // namespace fused_dropout::gaussian
