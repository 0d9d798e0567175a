// Standout: autograd.
#include <torch/csrc/autograd/custom_function.h>

#include "ops/common/autograd.h"
#include "ops/common/saved_call.h"
#include "ops/standout.h"

namespace fused_dropout::standout {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct SavedCall {
  CallParams call;
  Settings settings;
  std::vector<c10::SymInt> strides;
  at::ScalarType z_dtype;
};

template <class Archive>
void list_fields(Archive& archive, SavedCall& s) {
  archive(s.call, s.settings.alpha, s.settings.beta, s.settings.training, s.strides, s.z_dtype);
}

struct Standout : torch::autograd::Function<Standout> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& z,
                        const OptionalTensor& rng_state, const Settings& settings,
                        const Options& options) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor y = call_forward(x, z, rng_state, settings, options);
    SavedCall saved{resolve("standout", options, x.dim(), /*has_bias=*/false), settings,
                    y.sym_strides().vec(), z.scalar_type()};
    save_call(ctx, saved);
    // In training the sampled mask is a constant, and the gradient does not depend on x.
    ctx->save_for_backward({settings.training ? Tensor() : x, z, or_undefined(rng_state)});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = read_call<SavedCall>(ctx);
    const auto tensors = ctx->get_saved_variables();
    const bool needs_x = ctx->needs_input_grad(0);
    const bool needs_z = ctx->needs_input_grad(1) && !saved.settings.training;
    Tensor dx, dz;
    if (needs_x || needs_z) {
      std::tie(dx, dz) = call_backward(
          grads[0], optional(tensors[0]), tensors[1], saved_state(tensors[2], grads[0]),
          saved.settings, saved.call.options(), {saved.strides, saved.z_dtype, {needs_x, needs_z}});
    }
    return {needs_x ? dx : Tensor(), needs_z ? dz : Tensor(), {}, {}, {}};
  }
};

Tensor forward_autograd(const Tensor& x, const Tensor& z, const OptionalTensor& rng_state,
                        const Settings& settings, const Options& options) {
  return route_forward([&] { return compose_forward(x, z, rng_state, settings, options); },
                       [&] { return Standout::apply(x, z, rng_state, settings, options); },
                       [&] { return call_forward(x, z, rng_state, settings, options); }, x, z);
}

Gradients backward_autograd(const Tensor& dy, const OptionalTensor& x, const Tensor& z,
                            const OptionalTensor& rng_state, const Settings& settings,
                            const Options& options, const Gradient& gradient) {
  return route_backward(
      [&] { return compose_backward(dy, x, z, rng_state, settings, options, gradient); },
      [&] { return call_backward(dy, x, z, rng_state, settings, options, gradient); }, dy, x, z);
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, Autograd, m) {
  m.impl("standout", forward_entry<forward_autograd>);
  m.impl("standout_backward", backward_entry<backward_autograd>);
}

}  // namespace fused_dropout::standout
