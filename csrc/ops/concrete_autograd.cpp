// Concrete dropout: autograd.
#include <torch/csrc/autograd/custom_function.h>

#include "ops/common/autograd.h"
#include "ops/common/saved_call.h"
#include "ops/concrete.h"

namespace fused_dropout::concrete {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct SavedCall {
  CallParams call;
  double temperature;
  std::vector<c10::SymInt> strides;
};

template <class Archive>
void list_fields(Archive& archive, SavedCall& s) {
  archive(s.call, s.temperature, s.strides);
}

struct ConcreteDropout : torch::autograd::Function<ConcreteDropout> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& logit,
                        const Tensor& rng_state, double temperature, const Options& options) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor y = call_forward(x, logit, rng_state, temperature, options);
    SavedCall saved{resolve("concrete_dropout", options, x.dim(), /*has_bias=*/false), temperature,
                    y.sym_strides().vec()};
    save_call(ctx, saved);
    ctx->save_for_backward({x, logit, rng_state});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = read_call<SavedCall>(ctx);
    const auto tensors = ctx->get_saved_variables();
    const bool needs_x = ctx->needs_input_grad(0), needs_logit = ctx->needs_input_grad(1);
    auto [dx, dlogit] = call_backward(
        grads[0], tensors[0], tensors[1], *saved_state(tensors[2], grads[0]), saved.temperature,
        saved.call.options(), {saved.strides, {needs_x, needs_logit}});
    return {needs_x ? dx : Tensor(), needs_logit ? dlogit : Tensor(), {}, {}, {}};
  }
};

Tensor forward_autograd(const Tensor& x, const Tensor& logit, const Tensor& rng_state,
                        double temperature, const Options& options) {
  return route_forward(
      [&] { return compose_forward(x, logit, rng_state, temperature, options); },
      [&] { return ConcreteDropout::apply(x, logit, rng_state, temperature, options); },
      [&] { return call_forward(x, logit, rng_state, temperature, options); }, x, logit);
}

Gradients backward_autograd(const Tensor& dy, const Tensor& x, const Tensor& logit,
                            const Tensor& rng_state, double temperature, const Options& options,
                            const Gradient& gradient) {
  return route_backward(
      [&] { return compose_backward(dy, x, logit, rng_state, temperature, options, gradient); },
      [&] { return call_backward(dy, x, logit, rng_state, temperature, options, gradient); }, dy, x,
      logit);
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, Autograd, m) {
  m.impl("concrete_dropout", forward_entry<forward_autograd>);
  m.impl("concrete_dropout_backward", backward_entry<backward_autograd>);
}

}  // namespace fused_dropout::concrete
