// The operators of the `fused_dropout` library: their arguments, checked and resolved in one place.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>

#include <array>
#include <optional>
#include <string_view>
#include <tuple>
#include <vector>

#include "math/elementwise.h"

namespace fused_dropout {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// What the operators take besides the tensors they compute with; their schemas list these one by
// one, in this order.
struct Options {
  double p = 0.5;
  OptionalTensor p_tensor;  // takes the place of p where given: 0-d, on the CPU
  std::string_view activation = "identity";
  std::optional<double> negative_slope;
  std::optional<double> alpha;
  int64_t bias_dim = -1;
  std::string_view mode = "inverted";
  bool training = true;
  at::IntArrayRef shared_dims;
  at::OptionalSymIntArrayRef mask_strides;  // takes the place of shared_dims where given
  c10::SymInt mask_offset = 0;
};

// Options whose names are resolved; owns what it points to.
struct CallParams {
  const char* function;  // the name that errors carry
  double p;
  OptionalTensor p_tensor;
  int activation;
  double parameter;
  std::optional<double> negative_slope;
  std::optional<double> alpha;
  int64_t bias_dim;  // not negative
  Mode mode;
  bool training;
  std::vector<int64_t> shared_dims;  // not negative
  std::optional<std::vector<c10::SymInt>> mask_strides;
  c10::SymInt mask_offset;

  Options options() const;  // views into this object

  // Reads p_tensor where there is one.
  double probability() const;
  DropConstants constants() const { return drop_constants(probability(), mode, training); }
  // False where every element has the same fate, so that no random number is needed.
  bool draws() const;
};

// Checks everything that can be checked without computing, for any device, symbolic sizes included.
CallParams check_arguments(const char* function, const Tensor& x, const OptionalTensor& bias,
                           const OptionalTensor& residual, const OptionalTensor& rng_state,
                           const Options& options);
// The same for backward: what autograd saved, and where the gradient goes.
struct Gradient;
CallParams check_backward_arguments(const Tensor& dy, const OptionalTensor& input,
                                    const OptionalTensor& bias, const OptionalTensor& rng_state,
                                    const Options& options, const Gradient& gradient);
bool is_supported(at::ScalarType dtype);
// Dtype and device.
void check_operand(const char* function, const char* argument, const Tensor& operand,
                   const Tensor& x);
// Besides that, x's shape.
void check_like(const char* function, const char* argument, const OptionalTensor& operand,
                const Tensor& x);
// Besides that, a vector along the last dimension of x.
void check_row_vector(const char* function, const char* argument, const OptionalTensor& vector,
                      const Tensor& x);
void check_dense(const char* function, at::SymIntArrayRef sizes, at::SymIntArrayRef strides);
void check_rng_state(const char* function, const Tensor& rng_state, at::Device device);
double check_probability(const char* function, double p);
void check_probability_tensor(const char* function, const Tensor& p);
// `sizes`: of what the mask is for.
void check_mask_place(const char* function, at::SymIntArrayRef sizes,
                      at::OptionalSymIntArrayRef strides, const c10::SymInt& offset);

// What a tensor of this dtype is computed in.
inline at::ScalarType arithmetic_of(at::ScalarType dtype) {
  return dtype == at::kDouble ? at::kDouble : at::kFloat;
}
at::ScalarType output_dtype(const Tensor& x, const OptionalTensor& residual);

// The strides that empty_like gives, also of a traced or transformed tensor.
std::vector<c10::SymInt> strides_like(const Tensor& x);

// The stride of the mask index along each dimension of a dense tensor: row-major over the
// dimensions by descending stride, the shared ones left out.
std::vector<c10::SymInt> mask_strides_of(at::SymIntArrayRef sizes, at::SymIntArrayRef strides,
                                         at::IntArrayRef shared_dims);

// A plain tensor, rather than one that is being traced or transformed.
bool has_no_wrapper(const Tensor& tensor);

PhiloxState read_rng_state(const Tensor& rng_state);

// Whether backward needs nothing but the sign of the output: dx = (y > 0) * scale * dy.
bool backward_uses_output(const CallParams& call, bool has_residual);

// The gradient's arguments beyond the forward ones.
struct Gradient {
  bool from_output;            // `input` is y rather than x
  at::SymIntArrayRef strides;  // of dx
  at::ScalarType dtype;        // of dx
  std::optional<at::ScalarType> bias_dtype;
  std::array<bool, 2> output_mask;
};
using Gradients = std::tuple<Tensor, Tensor>;  // dx and dbias; of no elements where not asked for

// Calls through the dispatcher.
Tensor call_forward(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& residual,
                    const OptionalTensor& rng_state, const Options& options);
Gradients call_backward(const Tensor& dy, const OptionalTensor& input, const OptionalTensor& bias,
                        const OptionalTensor& rng_state, const Options& options,
                        const Gradient& gradient);
void call_inplace(Tensor x, const OptionalTensor& rng_state, const Options& options);
using OptionalGenerator = std::optional<at::Generator>;
Tensor call_draw(const Tensor& token, const OptionalTensor& p_tensor,
                 const OptionalGenerator& generator);
// The same in one: a state is drawn and used at once, by one kernel where the device can. The first
// returns y and the state, the second the state.
using Drawn = std::tuple<Tensor, Tensor>;
Drawn call_draw_forward(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& residual,
                        const OptionalGenerator& generator, const Options& options);
Tensor call_draw_inplace(Tensor x, const OptionalGenerator& generator, const Options& options);

// The composition of plain torch operators (composition.cpp): differentiable any number of times.
Tensor compose_forward(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& residual,
                       const OptionalTensor& rng_state, const Options& options);
Gradients compose_backward(const Tensor& dy, const OptionalTensor& input,
                           const OptionalTensor& bias, const OptionalTensor& rng_state,
                           const Options& options, const Gradient& gradient);

// The options of an operator that works along the last dimension, as its schema lists them.
constexpr auto kRowOptions =
    "float p, Tensor? p_tensor, str activation, float? negative_slope, float? alpha, "
    "str dropout_mode, bool training, int[] shared_dims, SymInt[]? mask_strides, "
    "SymInt mask_offset";
#define FD_ROW_OPTION_PARAMETERS                                                                \
  double p, const OptionalTensor &p_tensor, std::string_view activation,                        \
      std::optional<double> negative_slope, std::optional<double> alpha, std::string_view mode, \
      bool training, at::IntArrayRef shared_dims, at::OptionalSymIntArrayRef mask_strides,      \
      c10::SymInt mask_offset
#define FD_ROW_OPTIONS                                                          \
  {p,        p_tensor,    activation,   negative_slope,        alpha, -1, mode, \
   training, shared_dims, mask_strides, std::move(mask_offset)}
#define FD_ROW_OPTION_ARGUMENTS(o)                                                             \
  o.p, o.p_tensor, o.activation, o.negative_slope, o.alpha, o.mode, o.training, o.shared_dims, \
      o.mask_strides, o.mask_offset

// These turn the flat argument list of a schema into Options. `Random` is a state, or a generator
// to draw one from.
template <auto kFunction, class Random, class Result>
Result any_forward_entry(const Tensor& x, const OptionalTensor& bias,
                         const OptionalTensor& residual, const Random& random, double p,
                         const OptionalTensor& p_tensor, std::string_view activation,
                         std::optional<double> negative_slope, std::optional<double> alpha,
                         int64_t bias_dim, std::string_view mode, bool training,
                         at::IntArrayRef shared_dims, at::OptionalSymIntArrayRef mask_strides,
                         c10::SymInt mask_offset) {
  return kFunction(x, bias, residual, random,
                   {p, p_tensor, activation, negative_slope, alpha, bias_dim, mode, training,
                    shared_dims, mask_strides, std::move(mask_offset)});
}
template <auto kFunction>
constexpr auto forward_entry = any_forward_entry<kFunction, OptionalTensor, Tensor>;
template <auto kFunction>
constexpr auto draw_forward_entry = any_forward_entry<kFunction, OptionalGenerator, Drawn>;

template <Gradients (*kFunction)(const Tensor&, const OptionalTensor&, const OptionalTensor&,
                                 const OptionalTensor&, const Options&, const Gradient&)>
Gradients backward_entry(const Tensor& dy, const OptionalTensor& input, const OptionalTensor& bias,
                         const OptionalTensor& rng_state, double p, const OptionalTensor& p_tensor,
                         std::string_view activation, std::optional<double> negative_slope,
                         std::optional<double> alpha, int64_t bias_dim, std::string_view mode,
                         bool training, at::IntArrayRef shared_dims,
                         at::OptionalSymIntArrayRef mask_strides, c10::SymInt mask_offset,
                         bool from_output, at::SymIntArrayRef strides, at::ScalarType dtype,
                         std::optional<at::ScalarType> bias_dtype,
                         std::array<bool, 2> output_mask) {
  return kFunction(dy, input, bias, rng_state,
                   {p, p_tensor, activation, negative_slope, alpha, bias_dim, mode, training,
                    shared_dims, mask_strides, std::move(mask_offset)},
                   {from_output, strides, dtype, bias_dtype, output_mask});
}

template <auto kFunction, class Random, class Result>
Result any_inplace_entry(Tensor x, const Random& random, double p, const OptionalTensor& p_tensor,
                         std::string_view mode, bool training, at::IntArrayRef shared_dims,
                         at::OptionalSymIntArrayRef mask_strides, c10::SymInt mask_offset) {
  Options options;
  options.p = p;
  options.p_tensor = p_tensor;
  options.mode = mode;
  options.training = training;
  options.shared_dims = shared_dims;
  options.mask_strides = mask_strides;
  options.mask_offset = std::move(mask_offset);
  return kFunction(std::move(x), random, options);
}
template <auto kFunction>
constexpr auto inplace_entry = any_inplace_entry<kFunction, OptionalTensor, void>;
template <auto kFunction>
constexpr auto draw_inplace_entry = any_inplace_entry<kFunction, OptionalGenerator, Tensor>;

}  // namespace fused_dropout
