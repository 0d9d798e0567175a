// Autograd of DropBlock.
#include <torch/csrc/autograd/custom_function.h>

#include "ops/common/autograd.h"
#include "ops/common/saved_call.h"
#include "ops/drop_block.h"

namespace fused_dropout::drop_block {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct SavedCall {
  Params call;
  std::vector<c10::SymInt> strides;
};

template <class Archive>
void list_fields(Archive& archive, SavedCall& s) {
  archive(s.call.p, s.call.block_size, s.call.shared_channels, s.call.classic, s.call.training,
          s.strides);
}

// The operator is linear in x: the gradient of x is the same function of the gradient of y, which
// autograd can differentiate again.
struct DropBlock : torch::autograd::Function<DropBlock> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& x, const OptionalTensor& rng_state,
                        const OptionalTensor& kept, at::OptionalSymIntArrayRef strides,
                        const Options& options) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor y = call_apply(x, rng_state, kept, strides, options);
    SavedCall saved{resolve("drop_block", options), y.sym_strides().vec()};
    save_call(ctx, saved);
    ctx->save_for_backward(
        {or_undefined(rng_state), or_undefined(kept), or_undefined(options.p_tensor)});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = read_call<SavedCall>(ctx);
    const auto tensors = ctx->get_saved_variables();
    const Params& call = saved.call;
    const Options options{call.p,      optional(tensors[2]), call.block_size, call.shared_channels,
                          call.mode(), call.training};
    Tensor dx = call_apply(grads[0], saved_state(tensors[0], grads[0]), optional(tensors[1]),
                           at::SymIntArrayRef(saved.strides), options);
    return {dx, {}, {}, {}, {}};
  }
};

Tensor apply_autograd(const Tensor& x, const OptionalTensor& rng_state, const OptionalTensor& kept,
                      at::OptionalSymIntArrayRef strides, const Options& options) {
  return route_forward([&] { return compose_apply(x, rng_state, kept, strides, options); },
                       [&] { return DropBlock::apply(x, rng_state, kept, strides, options); },
                       [&] { return call_apply(x, rng_state, kept, strides, options); }, x);
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, Autograd, m) {
  m.impl("drop_block", apply_entry<apply_autograd>);
}

}  // namespace fused_dropout::drop_block
