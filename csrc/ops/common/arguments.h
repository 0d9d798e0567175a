// The arguments that operators have in common: how they are checked, and what kernels need of them.
#pragma once

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

// The options of an operator besides its tensors, as they are given. Schemas list them one by one,
// in this order.
struct Options {
  double p = 0.5;
  OptionalTensor p_tensor;  // replaces p if given: 0-d float64, on the CPU
  std::string_view activation = "identity";
  std::optional<double> negative_slope;
  std::optional<double> alpha;
  int64_t bias_dim = -1;
  std::string_view mode = "inverted";
  bool training = true;
  at::IntArrayRef shared_dims;
  at::OptionalSymIntArrayRef mask_strides;  // replaces shared_dims if given
  c10::SymInt mask_offset = 0;
};

// Options after their check: names are resolved and dimensions are not negative. Owns its memory.
struct CallParams {
  const char* function;  // the name that error messages carry
  double p;
  OptionalTensor p_tensor;
  int activation;
  double parameter;  // of the activation
  std::optional<double> negative_slope;
  std::optional<double> alpha;
  int64_t bias_dim;
  Mode mode;
  bool training;
  std::vector<int64_t> shared_dims;
  std::optional<std::vector<c10::SymInt>> mask_strides;
  c10::SymInt mask_offset;

  Options options() const;  // views into this object

  // Reads p_tensor if there is one.
  double probability() const;
  DropConstants constants() const { return drop_constants(probability(), mode, training); }
};

// Checks the options alone, and resolves them. `ndim`: of x. bias_dim counts only if there is a
// bias.
CallParams resolve(const char* function, const Options& options, int64_t ndim, bool has_bias);

// Checks the tensors that most operators have, on any device, symbolic sizes included.
void check_tensors(const char* function, const Tensor& x, const OptionalTensor& bias,
                   const OptionalTensor& residual, const OptionalTensor& rng_state,
                   const Options& options);
// Both: everything that can be checked without computing.
CallParams check_arguments(const char* function, const Tensor& x, const OptionalTensor& bias,
                           const OptionalTensor& residual, const OptionalTensor& rng_state,
                           const Options& options);

bool is_supported(at::ScalarType dtype);
// Checks layout, dtype and device.
void check_operand(const char* function, const char* argument, const Tensor& operand,
                   const Tensor& x);
// Checks also that the shape is that of x.
void check_like(const char* function, const char* argument, const OptionalTensor& operand,
                const Tensor& x);
// Checks also that it is a vector along the last dimension of x.
void check_row_vector(const char* function, const char* argument, const OptionalTensor& vector,
                      const Tensor& x);
// Checks that the strides are those of a tensor without gaps or overlaps.
void check_dense(const char* function, at::SymIntArrayRef sizes, at::SymIntArrayRef strides);
// The state is on this device; for CUDA it may be on the CPU.
void check_rng_state(const char* function, const Tensor& rng_state, at::Device device);
double check_probability(const char* function, double p);
void check_probability_tensor(const char* function, const Tensor& p);
// The dimensions that share a draw, none of them negative or named twice.
std::vector<int64_t> resolve_shared_dims(const char* function, at::IntArrayRef dims, int64_t ndim);
// Checks where a mask of these sizes begins, and its strides.
void check_mask_indices(const char* function, at::SymIntArrayRef sizes,
                        at::OptionalSymIntArrayRef strides, const c10::SymInt& offset);

// The dtype in which tensors of this dtype are computed.
inline at::ScalarType arithmetic_of(at::ScalarType dtype) {
  return dtype == at::kDouble ? at::kDouble : at::kFloat;
}
at::ScalarType output_dtype(const Tensor& x, const OptionalTensor& residual);

// The strides of empty_like(x), also for a traced or transformed tensor.
std::vector<c10::SymInt> strides_like(const Tensor& x);

// True for a plain tensor, false for one that is traced or transformed.
bool has_no_wrapper(const Tensor& tensor);
// The same for a call with the tensor: false also if the call is traced or transformed without it.
bool is_plain_call(const Tensor& x);

// The gradients of x and of one other argument; without elements if they are not asked for.
using Gradients = std::tuple<Tensor, Tensor>;

// The three options at the end of every schema: which elements share a draw, or the stride of the
// mask index along each dimension, and the index of the first element.
constexpr auto kMaskOptions = "int[] shared_dims, SymInt[]? mask_strides, SymInt mask_offset";
#define FD_MASK_PARAMETERS \
  at::IntArrayRef shared_dims, at::OptionalSymIntArrayRef mask_strides, c10::SymInt mask_offset
#define FD_MASK_OPTIONS shared_dims, mask_strides, std::move(mask_offset)
#define FD_MASK_ARGUMENTS(o) o.shared_dims, o.mask_strides, o.mask_offset

inline Options mask_options(FD_MASK_PARAMETERS) {
  Options options;
  options.shared_dims = shared_dims;
  options.mask_strides = mask_strides;
  options.mask_offset = std::move(mask_offset);
  return options;
}

// The options of an operator that works along the last dimension.
constexpr auto kRowOptions =
    "float p, Tensor? p_tensor, str activation, float? negative_slope, float? alpha, "
    "str dropout_mode, bool training, int[] shared_dims, SymInt[]? mask_strides, "
    "SymInt mask_offset";
#define FD_ROW_PARAMETERS                                                                       \
  double p, const OptionalTensor &p_tensor, std::string_view activation,                        \
      std::optional<double> negative_slope, std::optional<double> alpha, std::string_view mode, \
      bool training, FD_MASK_PARAMETERS
#define FD_ROW_OPTIONS \
  Options { p, p_tensor, activation, negative_slope, alpha, -1, mode, training, FD_MASK_OPTIONS }
#define FD_ROW_ARGUMENTS(o) \
  o.p, o.p_tensor, o.activation, o.negative_slope, o.alpha, o.mode, o.training, FD_MASK_ARGUMENTS(o)

}  // namespace fused_dropout
