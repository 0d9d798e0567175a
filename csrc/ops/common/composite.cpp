// The operators as compositions of plain torch operators, for every case without a kernel: double
// backward, forward mode, the transforms of torch.func, and other devices. The formulas are those
// of the kernels; the mask comes from the same contract.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "ops/common/composite.h"

#include "math/activation_dispatch.h"
#include "ops/common/tensor_value.h"

namespace fused_dropout {

using composition::Value;
using composition::Words;

namespace {

// As mask_index_for, of a tensor that need not exist.
Tensor compose_index(const at::TensorOptions& options, at::SymIntArrayRef sizes,
                     at::SymIntArrayRef strides, const CallParams& call) {
  const auto mask_strides =
      call.mask_strides ? *call.mask_strides : mask_strides_of(sizes, strides, call.shared_dims);
  Tensor index = at::full_symint({}, call.mask_offset, options);
  for (size_t dim = 0; dim < sizes.size(); ++dim) {
    std::vector<c10::SymInt> shape(sizes.size(), 1);
    const bool shared = mask_strides[dim] == 0;
    if (!shared) shape[dim] = sizes[dim];
    const Tensor coordinate = at::arange(shared ? c10::SymInt(1) : sizes[dim], options);
    index = index +
            (coordinate * at::full_symint({}, mask_strides[dim], options)).reshape_symint(shape);
  }
  return index;
}

// The mask in a shape that broadcasts to x's: size 1 along dimensions that share.
Tensor compose_mask(const Tensor& rng_state, at::SymIntArrayRef sizes, at::SymIntArrayRef strides,
                    const CallParams& call, uint32_t keep_count) {
  const Tensor index = compose_index(rng_state.options(), sizes, strides, call);
  return draws_at(rng_state, index) < static_cast<int64_t>(keep_count);
}

}  // namespace

WordsOfGroup words_of_group(const Tensor& rng_state, const Tensor& group) {
  using composition::word_of;
  const Tensor seed = rng_state.select(0, 0);
  const Tensor block = at::bitwise_right_shift(rng_state.select(0, 1), 2);
  const auto high = [](const Tensor& tensor) {
    return word_of(at::bitwise_right_shift(tensor, 32));
  };
  const auto bits =
      philox(PhiloxWords<Words>{word_of(block), high(block), word_of(group), high(group)},
             word_of(seed), high(seed));
  return {bits.x.tensor, bits.y.tensor, bits.z.tensor, bits.w.tensor};
}

Tensor draws_at(const Tensor& rng_state, const Tensor& index) {
  const WordsOfGroup words = words_of_group(rng_state, at::bitwise_right_shift(index, 3));
  const Tensor lane = index.bitwise_and(kGroupSize - 1);
  const Tensor word = at::where(lane < 4, at::where(lane < 2, words[0], words[1]),
                                at::where(lane < 6, words[2], words[3]));
  return at::bitwise_right_shift(word, lane.bitwise_and(1) * 16).bitwise_and(0xFFFF);
}

Tensor mask_index_for(const CallParams& call, const Tensor& rng_state, const Tensor& x,
                      at::SymIntArrayRef strides) {
  return compose_index(rng_state.options(), x.sym_sizes(), strides, call);
}

Tensor mask_for(const CallParams& call, const DropConstants& constants,
                const OptionalTensor& rng_state, const Tensor& x, at::SymIntArrayRef strides) {
  if (constants.keep_count == 0 || (!rng_state && x.sym_numel() == 0)) {
    return at::zeros({}, x.options().dtype(at::kBool));
  }
  TORCH_CHECK_VALUE(rng_state, call.function,
                    ": rng_state is None, but a probability between 0 and 1 needs one");
  return compose_mask(*rng_state, x.sym_sizes(), strides, call, constants.keep_count);
}

Tensor add_bias(const Tensor& x, const OptionalTensor& bias, int64_t bias_dim) {
  if (!bias) return x;
  std::vector<int64_t> shape(x.dim(), 1);
  shape[bias_dim] = -1;
  return x + bias->to(x.scalar_type()).reshape(shape);
}

Tensor value_of(const CallParams& call, const Tensor& z) {
  return with_functor(call.activation, [&](auto functor) {
    using Function = typename decltype(functor)::template Of<Full>;
    return Function::value(Value(z), Value(call.parameter)).tensor;
  });
}

// dz times the derivative at z.
Tensor activation_grad(const CallParams& call, const Tensor& dz, const Tensor& z) {
  return with_functor(call.activation, [&](auto functor) {
    using Function = typename decltype(functor)::template Of<Full>;
    return activation_grad<Function>(Value(dz), Value(z), Value(call.parameter)).tensor;
  });
}

Tensor drop(const DropConstants& constants, const Tensor& kept, Tensor value) {
  if (constants.scale != 1) value = value * constants.scale;
  if (constants.shift != 0) value = value + constants.shift;
  return kept.defined() ? at::where(kept, value, constants.fill) : value;
}

Tensor compose_branch(const CallParams& call, const Tensor& x, const OptionalTensor& bias,
                      const OptionalTensor& rng_state) {
  const DropConstants constants = call.constants();
  Tensor z = add_bias(x.to(arithmetic_of(x.scalar_type())), bias, call.bias_dim);
  Tensor kept;
  if (constants.keep_count < 65536) {
    kept = mask_for(call, constants, rng_state, x, strides_like(x));
    // Before the activation too: its derivative at a dropped NaN would be NaN, also times zero.
    z = at::where(kept, z, 0.);
  }
  return drop(constants, kept, value_of(call, z));
}

Tensor compose_forward(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& residual,
                       const OptionalTensor& rng_state, const Options& options) {
  const CallParams call =
      check_arguments("bias_act_dropout", x, bias, residual, rng_state, options);
  Tensor y = compose_branch(call, x, bias, rng_state);
  if (residual) y = *residual + y;
  return y.to(output_dtype(x, residual));
}

Gradients compose_backward(const Tensor& dy, const OptionalTensor& input,
                           const OptionalTensor& bias, const OptionalTensor& rng_state,
                           const Options& options, const Gradient& gradient) {
  const CallParams call = check_backward_arguments(dy, input, bias, rng_state, options, gradient);
  const DropConstants constants = call.constants();
  const at::ScalarType arithmetic = arithmetic_of(gradient.dtype);

  Tensor dz = dy.to(arithmetic) * constants.scale;
  if (gradient.from_output) {
    dz = activation_grad(call, dz, input->to(arithmetic));
  } else {
    Tensor kept;
    if (constants.keep_count < 65536) {
      kept = mask_for(call, constants, rng_state, dy, gradient.strides);
      dz = at::where(kept, dz, 0.);
    }
    if (!kActivations[call.activation].identity) {
      Tensor z = add_bias(input->to(arithmetic), bias, call.bias_dim);
      if (kept.defined()) z = at::where(kept, z, 0.);
      dz = activation_grad(call, dz, z);
    }
  }
  Tensor dx = at::empty({0}, dy.options().dtype(gradient.dtype));
  Tensor dbias = at::empty({0}, dy.options().dtype(gradient.bias_dtype.value_or(at::kFloat)));
  if (gradient.output_mask[0]) dx = dz.to(gradient.dtype);
  if (gradient.output_mask[1]) {
    std::vector<int64_t> others;
    for (int64_t dim = 0; dim < dz.dim(); ++dim) {
      if (dim != call.bias_dim) others.push_back(dim);
    }
    dbias = (others.empty() ? dz : dz.sum(others)).to(*gradient.bias_dtype);
  }
  return {dx, dbias};
}

namespace {

void compose_inplace(Tensor x, const OptionalTensor& rng_state, const Options& options) {
  x.copy_(compose_forward(x, {}, {}, rng_state, options));
}

Tensor compose_dropout_mask(const Tensor& rng_state, at::SymIntArrayRef size,
                            at::SymIntArrayRef strides, double p, at::IntArrayRef shared_dims,
                            at::OptionalSymIntArrayRef mask_strides, c10::SymInt mask_offset) {
  check_probability("dropout_mask", p);
  check_rng_state("dropout_mask", rng_state, rng_state.device());
  check_dense("dropout_mask", size, strides);
  check_mask_place("dropout_mask", size, mask_strides, mask_offset);
  CallParams call;
  call.shared_dims = shared_dims.vec();
  if (mask_strides) call.mask_strides = mask_strides->vec();
  call.mask_offset = std::move(mask_offset);
  const Tensor kept = at::empty_strided_symint(size, strides, rng_state.options().dtype(at::kBool));
  return kept.copy_(compose_mask(rng_state, size, strides, call, keep_count_of(p)));
}

// Under vmap the random number has to follow the randomness of the transform: the operators used
// here do, and fused_dropout/_partitioner.py calls this there. The same 64 bits as the CPU operator
// draws, but for one value in 2^64.
Tensor compose_draw(const Tensor& token, const OptionalTensor& p_tensor,
                    const OptionalGenerator& generator) {
  constexpr auto kLowest = std::numeric_limits<int64_t>::min();
  constexpr auto kHighest = std::numeric_limits<int64_t>::max();
  const auto options = token.options().dtype(at::kLong).requires_grad(false);
  const Tensor seed = at::randint(kLowest, kHighest, {1}, generator, options).bitwise_xor(kLowest);
  return at::cat({seed, at::zeros({1}, options)});
}

Drawn draw_then_forward(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& residual,
                        const OptionalGenerator& generator, const Options& options) {
  check_arguments("bias_act_dropout", x, bias, residual, {}, options);
  const Tensor rng_state = call_draw(x, options.p_tensor, generator);
  return {call_forward(x, bias, residual, rng_state, options), rng_state};
}

Tensor draw_then_inplace(Tensor x, const OptionalGenerator& generator, const Options& options) {
  check_arguments("dropout_", x, {}, {}, {}, options);
  const Tensor rng_state = call_draw(x, options.p_tensor, generator);
  call_inplace(std::move(x), rng_state, options);
  return rng_state;
}

// torch's own way for views whose memory holds the opposite numbers knows only operators that
// return what they have changed.
void negated_inplace(Tensor x, const OptionalTensor& rng_state, const Options& options) {
  const Tensor plain = x.resolve_neg();
  call_inplace(plain, rng_state, options);
  x.copy_(plain);
}

Tensor negated_draw_inplace(Tensor x, const OptionalGenerator& generator, const Options& options) {
  const Tensor plain = x.resolve_neg();
  Tensor rng_state = call_draw_inplace(plain, generator, options);
  x.copy_(plain);
  return rng_state;
}

// A functionalised program has no writes into tensors, but those that torch knows how to take back.
void functional_inplace(Tensor x, const OptionalTensor& rng_state, const Options& options) {
  x.copy_(call_forward(x, {}, {}, rng_state, options));
}

Tensor functional_draw_inplace(Tensor x, const OptionalGenerator& generator,
                               const Options& options) {
  const Tensor rng_state = call_draw(x, options.p_tensor, generator);
  functional_inplace(x, rng_state, options);
  return rng_state;
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CompositeExplicitAutograd, m) {
  m.impl("bias_act_dropout", forward_entry<compose_forward>);
  m.impl("bias_act_dropout_backward", backward_entry<compose_backward>);
  m.impl("dropout_", inplace_entry<compose_inplace>);
  m.impl("dropout_mask", compose_dropout_mask);
  m.impl("draw_rng_state", compose_draw);
  m.impl("draw_bias_act_dropout", draw_forward_entry<draw_then_forward>);
  m.impl("draw_dropout_", draw_inplace_entry<draw_then_inplace>);
}

TORCH_LIBRARY_IMPL(fused_dropout, FuncTorchBatched, m) {
  m.impl("bias_act_dropout", forward_entry<compose_forward>);
  m.impl("bias_act_dropout_backward", backward_entry<compose_backward>);
  m.impl("dropout_", inplace_entry<compose_inplace>);
}

TORCH_LIBRARY_IMPL(fused_dropout, Functionalize, m) {
  m.impl("dropout_", inplace_entry<functional_inplace>);
  m.impl("draw_dropout_", draw_inplace_entry<functional_draw_inplace>);
}

TORCH_LIBRARY_IMPL(fused_dropout, Negative, m) {
  m.impl("dropout_", inplace_entry<negated_inplace>);
  m.impl("draw_dropout_", draw_inplace_entry<negated_draw_inplace>);
}

TORCH_LIBRARY_IMPL(fused_dropout, FuncTorchVmapMode, m) {
  m.impl("draw_bias_act_dropout", draw_forward_entry<draw_then_forward>);
  m.impl("draw_dropout_", draw_inplace_entry<draw_then_inplace>);
}

}  // namespace fused_dropout
