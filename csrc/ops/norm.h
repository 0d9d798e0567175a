// The operator h = residual + branch, y = norm(h) * weight + norm_bias, where the branch is
// drop(act(x + bias)) * layer_scale * row_scale, over the last dimension.
#pragma once

#include "ops/random.h"

namespace fused_dropout::norm {

enum class Kind : int { kLayer, kRms };

// The tensor arguments besides x.
struct Operands {
  OptionalTensor residual;
  OptionalTensor bias;
  OptionalTensor row_scale;  // of x's shape without the last dimension
  OptionalTensor layer_scale;
  OptionalTensor weight;
  OptionalTensor norm_bias;
};

struct Settings {
  std::string_view kind;  // "layer_norm" or "rms_norm"
  double eps;
  bool prenorm;  // h is a result too; y then has the dtype of x, else that of h
};

struct NormCallParams : CallParams {
  Kind kind;
  at::ScalarType h_dtype, y_dtype;
};

// The types that kernels know: that of x, and fp32 for the residual stream (residual and h) beside
// a 16-bit x. If the residual stream is wider than that, x is widened.
struct Types {
  at::ScalarType x, h, y;
  Types(at::ScalarType x_type, at::ScalarType h_type, at::ScalarType y_type)
      : x(h_type == x_type || h_type == at::kFloat ? x_type : h_type),
        h(h_type),
        y(y_type == x_type ? x : h) {}
  at::ScalarType arithmetic() const { return arithmetic_of(x); }
  bool wide_h() const { return h != x; }
  bool wide_y() const { return y != x; }
};

// y; h, without elements unless prenorm; and the statistics of each row, in the order of a dense x:
// the mean (LayerNorm only) and the reciprocal of the standard deviation.
using Results = std::tuple<Tensor, Tensor, Tensor>;

// The address of one statistic of all rows.
inline char* statistic(const Tensor& statistics, int64_t index) {
  return static_cast<char*>(statistics.data_ptr()) +
         index * statistics.stride(0) * statistics.element_size();
}

// The tensors that backward reads: h, or x and the residual instead. With h also x, if the
// derivative of the branch or the gradient of layer_scale needs it.
struct Saved {
  OptionalTensor h;
  OptionalTensor x;
  OptionalTensor residual;
  OptionalTensor bias;
  OptionalTensor row_scale;
  OptionalTensor layer_scale;
  OptionalTensor weight;
  Tensor statistics;
};

enum Output { kDx, kDresidual, kDbias, kDlayerScale, kDweight, kDnormBias, kOutputs };
struct Gradient {
  at::SymIntArrayRef strides;  // of dx: those of a dense x
  at::ScalarType dtype;        // of x
  at::ScalarType h_dtype;      // of the residual's gradient
  std::array<bool, kOutputs> output_mask;

  Types types(at::ScalarType dy_dtype) const {
    return {dtype, h_dtype, dy_dtype == dtype ? dtype : h_dtype};
  }
};
// The gradients of the vectors along rows have the dtype of the arithmetic.
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Checks settings and options alone.
NormCallParams resolve(const char* function, const Tensor& x, const Operands& operands,
                       const Settings& settings, const Options& options);
NormCallParams check(const char* function, const Tensor& x, const Operands& operands,
                     const OptionalTensor& rng_state, const Settings& settings,
                     const Options& options);
NormCallParams check_backward(const Tensor& dy, const OptionalTensor& dh, const Saved& saved,
                              const OptionalTensor& rng_state, const Settings& settings,
                              const Options& options, const Gradient& gradient);

// Calls through the dispatcher.
Results call_forward(const Tensor& x, const Operands& operands, const OptionalTensor& rng_state,
                     const Settings& settings, const Options& options);
Gradients call_backward(const Tensor& dy, const OptionalTensor& dh, const Saved& saved,
                        const OptionalTensor& rng_state, const Settings& settings,
                        const Options& options, const Gradient& gradient);

// A call from Python: y and h.
std::tuple<Tensor, Tensor> eager_forward(const EagerCall& eager, const Tensor& x,
                                         const Operands& operands, const OptionalTensor& rng_state,
                                         const Settings& settings, const Options& options);

// The composition of plain torch operators.
Results compose_forward(const Tensor& x, const Operands& operands, const OptionalTensor& rng_state,
                        const Settings& settings, const Options& options);
Gradients compose_backward(const Tensor& dy, const OptionalTensor& dh, const Saved& saved,
                           const OptionalTensor& rng_state, const Settings& settings,
                           const Options& options, const Gradient& gradient);

// Functions with the flat argument lists of the schemas. `Leading` arguments come before those.
template <auto kFunction, class Result = Results, class... Leading>
Result forward_entry(Leading... leading, const Tensor& x, const OptionalTensor& residual,
                     const OptionalTensor& bias, const OptionalTensor& row_scale,
                     const OptionalTensor& layer_scale, const OptionalTensor& weight,
                     const OptionalTensor& norm_bias, const OptionalTensor& rng_state,
                     std::string_view kind, double eps, bool prenorm, FD_ROW_PARAMETERS) {
  return kFunction(leading..., x, {residual, bias, row_scale, layer_scale, weight, norm_bias},
                   rng_state, {kind, eps, prenorm}, FD_ROW_OPTIONS);
}

template <auto kFunction>
Gradients backward_entry(const Tensor& dy, const OptionalTensor& dh, const OptionalTensor& h,
                         const OptionalTensor& x, const OptionalTensor& residual,
                         const OptionalTensor& bias, const OptionalTensor& row_scale,
                         const OptionalTensor& layer_scale, const OptionalTensor& weight,
                         const Tensor& statistics, const OptionalTensor& rng_state,
                         std::string_view kind, double eps, FD_ROW_PARAMETERS,
                         at::SymIntArrayRef strides, at::ScalarType dtype, at::ScalarType h_dtype,
                         std::array<bool, kOutputs> output_mask) {
  return kFunction(dy, dh, {h, x, residual, bias, row_scale, layer_scale, weight, statistics},
                   rng_state, {kind, eps, false}, FD_ROW_OPTIONS,
                   {strides, dtype, h_dtype, output_mask});
}

}  // namespace fused_dropout::norm
