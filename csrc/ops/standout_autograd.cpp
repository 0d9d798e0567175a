// Standout: autograd.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

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
    SavedCall state{check("standout", x, z, rng_state, settings, options), settings,
                    y.sym_strides().vec(), z.scalar_type()};
    save_call(ctx, state);
    // In training the sampled mask is a constant, and what went through it does not matter.
    ctx->save_for_backward({settings.training ? Tensor() : x, z, rng_state.value_or(Tensor())});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto state = read_call<SavedCall>(ctx);
    const auto saved = ctx->get_saved_variables();
    const bool needs_x = ctx->needs_input_grad(0);
    const bool needs_z = ctx->needs_input_grad(1) && !state.settings.training;
    Tensor dx, dz;
    if (needs_x || needs_z) {
      std::tie(dx, dz) =
          call_backward(grads[0], optional(saved[0]), saved[1], optional(saved[2]), state.settings,
                        state.call.options(), {state.strides, state.z_dtype, {needs_x, needs_z}});
    }
    return {needs_x ? dx : Tensor(), needs_z ? dz : Tensor(), {}, {}, {}};
  }
};

Tensor forward_autograd(const Tensor& x, const Tensor& z, const OptionalTensor& rng_state,
                        const Settings& settings, const Options& options) {
  if (needs_composition({x, z})) return compose_forward(x, z, rng_state, settings, options);
  if (needs_graph({x, z})) return Standout::apply(x, z, rng_state, settings, options);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_forward(x, z, rng_state, settings, options);
}

Gradients backward_autograd(const Tensor& dy, const OptionalTensor& x, const Tensor& z,
                            const OptionalTensor& rng_state, const Settings& settings,
                            const Options& options, const Gradient& gradient) {
  if (needs_composition({dy, x, z}) || needs_graph({dy, x, z})) {
    return compose_backward(dy, x, z, rng_state, settings, options, gradient);
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_backward(dy, x, z, rng_state, settings, options, gradient);
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, Autograd, m) {
  m.impl("standout", forward_entry<forward_autograd>);
  m.impl("standout_backward", backward_entry<backward_autograd>);
}

}  // namespace fused_dropout::standout
