// The operators of DropBlock: schemas, checks of arguments, calls, shapes of results, and autograd.
#include "ops/drop_block.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "ops/common/autograd.h"
#include "ops/common/operator_handle.h"
#include "ops/common/saved_call.h"

namespace fused_dropout::drop_block {

double Params::probability() const {
  return p_tensor ? check_probability(function, p_tensor->item<double>()) : p;
}

Params check(const char* function, const Tensor& x, const OptionalTensor& rng_state,
             const OptionalTensor& kept, const Options& options) {
  const OptionalTensor& p = options.p_tensor;
  if (p) {
    check_probability_tensor(function, *p);
  } else {
    check_probability(function, options.p);
  }
  check_operand(function, "x", x, x);
  TORCH_CHECK(x.dim() >= 3 && x.dim() <= 5, function, ": x has ", x.dim(),
              " dimensions, but expected 3 to 5: (N, C, L), (N, C, H, W) or (N, C, D, H, W)");
  TORCH_CHECK_VALUE(options.block_size > 0 && options.block_size % 2 == 1, function,
                    ": block_size is ", options.block_size,
                    ", but expected an odd number from 1 on");
  TORCH_CHECK_VALUE(options.mode == "inverted" || options.mode == "classic", function,
                    ": mode is '", options.mode, "', but expected 'inverted' or 'classic'");
  if (rng_state) check_rng_state(function, *rng_state, x.device());
  if (kept) {
    TORCH_CHECK_TYPE(kept->scalar_type() == at::kLong && kept->dim() == 0, function,
                     ": kept has dtype ", kept->scalar_type(), " and ", kept->dim(),
                     " dimensions, but expected int64 and 0");
    TORCH_CHECK(kept->device() == x.device(), function, ": kept is on ", kept->device(),
                ", but x is on ", x.device());
  }
  return {function,
          options.p,
          p,
          options.block_size,
          options.shared_channels,
          options.mode == "classic",
          options.training};
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

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

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

struct SavedCall {
  Params call;
  std::vector<c10::SymInt> strides;
};

template <class Archive>
void list_fields(Archive& archive, SavedCall& s) {
  archive(s.call.p, s.call.block_size, s.call.shared_channels, s.call.classic, s.call.training,
          s.strides);
}

// Linear in x: the gradient by x is the same function of the gradient by y, which autograd can
// differentiate again.
struct DropBlock : torch::autograd::Function<DropBlock> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& x, const OptionalTensor& rng_state,
                        const OptionalTensor& kept, at::OptionalSymIntArrayRef strides,
                        const Options& options) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    Tensor y = call_apply(x, rng_state, kept, strides, options);
    SavedCall state{check("drop_block", x, rng_state, kept, options), y.sym_strides().vec()};
    save_call(ctx, state);
    ctx->save_for_backward({rng_state.value_or(Tensor()), kept.value_or(Tensor()),
                            options.p_tensor.value_or(Tensor())});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto state = read_call<SavedCall>(ctx);
    const auto saved = ctx->get_saved_variables();
    const Params& call = state.call;
    const Options options{call.p,      optional(saved[2]), call.block_size, call.shared_channels,
                          call.mode(), call.training};
    Tensor dx = call_apply(grads[0], optional(saved[0]), optional(saved[1]),
                           at::SymIntArrayRef(state.strides), options);
    return {dx, {}, {}, {}, {}};
  }
};

Tensor apply_autograd(const Tensor& x, const OptionalTensor& rng_state, const OptionalTensor& kept,
                      at::OptionalSymIntArrayRef strides, const Options& options) {
  if (needs_composition({x})) return compose_apply(x, rng_state, kept, strides, options);
  if (needs_graph({x})) return DropBlock::apply(x, rng_state, kept, strides, options);
  const at::AutoDispatchBelowADInplaceOrView guard;
  return call_apply(x, rng_state, kept, strides, options);
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

TORCH_LIBRARY_IMPL(fused_dropout, Autograd, m) {
  m.impl("drop_block", apply_entry<apply_autograd>);
}

}  // namespace fused_dropout::drop_block
