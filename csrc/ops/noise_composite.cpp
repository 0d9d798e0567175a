// The noise operators as compositions of plain torch operators.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "math/noise.h"
#include "ops/common/composite.h"
#include "ops/common/tensor_value.h"
#include "ops/noise.h"

namespace fused_dropout {
namespace {

using composition::Value;

// The upper 24 bits of a word.
Value number_of(const Tensor& word, at::ScalarType arithmetic) {
  return at::bitwise_right_shift(word, 8).to(arithmetic);
}

Tensor word_at(const WordsOfGroup& words, const Tensor& lane) {
  return at::where(lane < 2, at::where(lane < 1, words[0], words[1]),
                   at::where(lane < 3, words[2], words[3]));
}

struct Draws {
  Tensor lane;
  WordsOfGroup words;
};

// Of a tensor with these dense strides, in a shape that broadcasts to its.
Draws draws_for(const CallParams& call, const Tensor& rng_state, const Tensor& x,
                at::SymIntArrayRef strides) {
  const Tensor index = mask_index_for(call, rng_state, x, strides);
  return {index.bitwise_and(3), words_of_group(rng_state, at::bitwise_right_shift(index, 2))};
}

Value uniform_numbers(const Draws& draws, at::ScalarType arithmetic) {
  return number_of(word_at(draws.words, draws.lane), arithmetic);
}

Tensor normals(const Draws& draws, at::ScalarType arithmetic) {
  const Tensor is_first = draws.lane < 2;
  Value even, odd;
  normal_pair<Full>(number_of(at::where(is_first, draws.words[0], draws.words[2]), arithmetic),
                    number_of(at::where(is_first, draws.words[1], draws.words[3]), arithmetic),
                    even, odd);
  return at::where(draws.lane.bitwise_and(1) == 0, even.tensor, odd.tensor);
}

}  // namespace

namespace gaussian {

Tensor compose(const Tensor& x, const Tensor& rng_state, const Options& options,
               at::OptionalSymIntArrayRef strides) {
  const CallParams call = check(kFunction, x, rng_state, options, strides);
  const at::ScalarType arithmetic = arithmetic_of(x.scalar_type());
  const std::vector<c10::SymInt> like = strides ? strides->vec() : strides_like(x);
  const Draws draws = draws_for(call, rng_state, x, like);
  return gaussian_element(Value(x.to(arithmetic)), Value(normals(draws, arithmetic)),
                          Value(scale_of(call)))
      .tensor.to(x.scalar_type());
}

}  // namespace gaussian

namespace concrete {
namespace {

ConcreteConstants<Value> constants_of(const Tensor& logit, double temperature,
                                      at::ScalarType arithmetic) {
  const Tensor number = logit.to(arithmetic).reshape({});
  const double most = arithmetic == at::kDouble ? kMostLogit<double> : kMostLogit<float>;
  return {number, Value(1 / temperature), 1 + number.clamp_max(most).exp(), number.sigmoid()};
}

}  // namespace

Tensor compose_forward(const Tensor& x, const Tensor& logit, const Tensor& rng_state,
                       double temperature, const Options& options) {
  const CallParams call = check("concrete_dropout", x, logit, rng_state, temperature, options);
  const at::ScalarType arithmetic = arithmetic_of(x.scalar_type());
  const Draws draws = draws_for(call, rng_state, x, strides_like(x));
  return concrete_element<Full>(Value(x.to(arithmetic)), uniform_numbers(draws, arithmetic),
                                constants_of(logit, temperature, arithmetic))
      .tensor.to(x.scalar_type());
}

Gradients compose_backward(const Tensor& dy, const Tensor& x, const Tensor& logit,
                           const Tensor& rng_state, double temperature, const Options& options,
                           const Gradient& gradient) {
  const CallParams call = check_backward(dy, x, logit, rng_state, temperature, options, gradient);
  const at::ScalarType arithmetic = arithmetic_of(x.scalar_type());
  const Draws draws = draws_for(call, rng_state, x, gradient.strides);
  Value by_x, by_logit;
  concrete_backward_element<Full>(Value(dy.to(arithmetic)), Value(x.to(arithmetic)),
                                  uniform_numbers(draws, arithmetic),
                                  constants_of(logit, temperature, arithmetic), by_x, by_logit);
  Tensor dx = at::empty({0}, x.options()), dlogit = at::empty({0}, logit.options());
  if (gradient.output_mask[0]) dx = by_x.tensor.to(x.scalar_type());
  if (gradient.output_mask[1]) {
    dlogit = by_logit.tensor.sum().to(logit.scalar_type()).reshape_symint(logit.sym_sizes());
  }
  return {dx, dlogit};
}

}  // namespace concrete

namespace standout {
namespace {

// Broadcasts to x's shape.
Tensor is_dropped(const CallParams& call, const OptionalTensor& rng_state, const Tensor& z,
                  at::SymIntArrayRef strides, const Settings& settings) {
  // Of nothing, nothing is dropped, and no state was drawn.
  if (!rng_state && z.sym_numel() == 0) return at::zeros({}, z.options().dtype(at::kBool));
  TORCH_CHECK_VALUE(rng_state, call.function, ": rng_state is None, but training needs one");
  const Tensor index = mask_index_for(call, *rng_state, z, strides);
  const Value threshold =
      keep_threshold(Value(z.detach().to(at::kFloat)), Value(static_cast<float>(settings.alpha)),
                     Value(static_cast<float>(settings.beta)));
  return draws_at(*rng_state, index).to(at::kFloat) >= threshold.tensor;
}

}  // namespace

Tensor compose_forward(const Tensor& x, const Tensor& z_any, const OptionalTensor& rng_state,
                       const Settings& settings, const Options& options) {
  const CallParams call = check("standout", x, z_any, rng_state, settings, options);
  const Tensor z = z_any.to(x.scalar_type());
  if (settings.training) {
    const Tensor dropped = is_dropped(call, rng_state, z, strides_like(x), settings);
    return at::where(dropped, 0., x);
  }
  const at::ScalarType arithmetic = arithmetic_of(x.scalar_type());
  return standout_mean<Full>(Value(x.to(arithmetic)), Value(z.to(arithmetic)),
                             Value(settings.alpha), Value(settings.beta))
      .tensor.to(x.scalar_type());
}

Gradients compose_backward(const Tensor& dy, const OptionalTensor& x, const Tensor& z_any,
                           const OptionalTensor& rng_state, const Settings& settings,
                           const Options& options, const Gradient& gradient) {
  const CallParams call = check_backward(dy, x, z_any, rng_state, settings, options, gradient);
  const at::ScalarType dtype = dy.scalar_type(), arithmetic = arithmetic_of(dtype);
  const Tensor z = z_any.to(dtype);
  Tensor dx = at::empty({0}, dy.options());
  Tensor dz = at::empty({0}, dy.options().dtype(gradient.z_dtype));
  if (settings.training) {
    if (gradient.output_mask[0]) {
      dx = at::where(is_dropped(call, rng_state, z, gradient.strides, settings), 0., dy);
    }
    if (gradient.output_mask[1]) dz = at::zeros_like(dy, dz.options());
    return {dx, dz};
  }
  Value by_x, by_z;
  standout_mean_backward<Full>(Value(dy.to(arithmetic)), Value(x->to(arithmetic)),
                               Value(z.to(arithmetic)), Value(settings.alpha), Value(settings.beta),
                               by_x, by_z);
  if (gradient.output_mask[0]) dx = by_x.tensor.to(dtype);
  if (gradient.output_mask[1]) dz = by_z.tensor.to(gradient.z_dtype);
  return {dx, dz};
}

}  // namespace standout

TORCH_LIBRARY_IMPL(fused_dropout, CompositeExplicitAutograd, m) {
  m.impl("gaussian_dropout", gaussian::entry<gaussian::compose>);
  m.impl("concrete_dropout", concrete::forward_entry<concrete::compose_forward>);
  m.impl("concrete_dropout_backward", concrete::backward_entry<concrete::compose_backward>);
  m.impl("standout", standout::forward_entry<standout::compose_forward>);
  m.impl("standout_backward", standout::backward_entry<standout::compose_backward>);
}

TORCH_LIBRARY_IMPL(fused_dropout, FuncTorchBatched, m) {
  m.impl("gaussian_dropout", gaussian::entry<gaussian::compose>);
  m.impl("concrete_dropout", concrete::forward_entry<concrete::compose_forward>);
  m.impl("concrete_dropout_backward", concrete::backward_entry<concrete::compose_backward>);
  m.impl("standout", standout::forward_entry<standout::compose_forward>);
  m.impl("standout_backward", standout::backward_entry<standout::compose_backward>);
}

}  // namespace fused_dropout
