#include "ops/common/arguments.h"

#include <ATen/ops/empty_like.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <sstream>

#include "math/activations.h"

namespace fused_dropout {
namespace {

int resolve_activation(const char* function, std::string_view name) {
  const int activation = activation_from_name(name);
  if (activation < 0) {
    std::ostringstream known;
    for (int i = 0; i < kActivationCount; ++i) {
      known << (i ? ", " : "") << kActivations[i].name;
    }
    TORCH_CHECK_VALUE(false, function, ": activation is '", name, "', but expected one of ",
                      known.str());
  }
  return activation;
}

double resolve_parameter(const char* function, int activation, std::optional<double> negative_slope,
                         std::optional<double> alpha) {
  const ActivationInfo& info = kActivations[activation];
  const auto resolve = [&](Parameter kind, std::optional<double> given) {
    TORCH_CHECK_VALUE(!given || info.parameter == kind, function, ": ", parameter_name(kind),
                      " is ", given.value_or(0), ", but activation '", info.name, "' takes none");
    return given;
  };
  const auto slope = resolve(Parameter::kNegativeSlope, negative_slope);
  return resolve(Parameter::kAlpha, alpha)
      .value_or(slope.value_or(parameter_default(info.parameter)));
}

constexpr std::string_view kModeNames[] = {"inverted", "classic", "alpha"};

Mode resolve_mode(const char* function, std::string_view name) {
  const auto* found = std::find(std::begin(kModeNames), std::end(kModeNames), name);
  TORCH_CHECK_VALUE(found != std::end(kModeNames), function, ": mode is '", name,
                    "', but expected one of inverted, classic, alpha");
  return static_cast<Mode>(found - std::begin(kModeNames));
}

int64_t resolve_dim(const char* function, const char* argument, int64_t dim, int64_t ndim) {
  TORCH_CHECK_INDEX(dim >= -ndim && dim < ndim, function, ": ", argument, " has ", dim,
                    ", but x has ", ndim, " dimensions");
  return dim < 0 ? dim + ndim : dim;
}

// Kernels compute the indices of full chunks, some of them beyond the last element.
constexpr int64_t kMaxIndices = std::numeric_limits<int64_t>::max() - 65535;

// Symbolic numbers pass: they are checked when the traced program runs.
bool last_index_fits(at::SymIntArrayRef sizes, at::OptionalSymIntArrayRef strides,
                     const c10::SymInt& offset) {
  const auto first = offset.maybe_as_int();
  int64_t last = first.value_or(0);
  if (!strides) {
    if (last == 0) return true;
    int64_t numel = 1;
    for (const c10::SymInt& size : sizes) {
      if (__builtin_mul_overflow(numel, size.maybe_as_int().value_or(1), &numel)) return false;
    }
    return !__builtin_add_overflow(last, numel, &last) && last <= kMaxIndices;
  }
  for (size_t dim = 0; dim < sizes.size(); ++dim) {
    const int64_t size = sizes[dim].maybe_as_int().value_or(1);
    const int64_t stride = (*strides)[dim].maybe_as_int().value_or(0);
    int64_t extent;
    if (size > 1 && (__builtin_mul_overflow(size, stride, &extent) ||
                     __builtin_add_overflow(last, extent - stride, &last))) {
      return false;
    }
  }
  return last < kMaxIndices;
}

// True if the CPU can read the tensor's values from its memory.
bool has_values(const Tensor& tensor) {
  return tensor.device().is_cpu() && has_no_wrapper(tensor) && !tensor.is_neg() &&
         !tensor._is_zerotensor();
}

}  // namespace

bool is_supported(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf ||
         dtype == at::kBFloat16;
}

void check_operand(const char* function, const char* argument, const Tensor& operand,
                   const Tensor& x) {
  TORCH_CHECK(operand.layout() == at::kStrided && !operand.is_nested(), function, ": ", argument,
              " has layout ", operand.is_nested() ? "Nested" : c10::str(operand.layout()),
              ", but expected a dense tensor (layout Strided)");
  TORCH_CHECK(is_supported(operand.scalar_type()), function, ": ", argument, " has dtype ",
              operand.scalar_type(), ", but expected float32, float64, float16 or bfloat16");
  TORCH_CHECK(operand.device() == x.device(), function, ": ", argument, " is on ", operand.device(),
              ", but x is on ", x.device());
}

void check_row_vector(const char* function, const char* argument, const OptionalTensor& vector,
                      const Tensor& x) {
  if (!vector) return;
  check_operand(function, argument, *vector, x);
  TORCH_CHECK(vector->dim() == 1, function, ": ", argument, " has ", vector->dim(),
              " dimensions, but expected 1");
  TORCH_SYM_CHECK(vector->sym_size(0).sym_eq(x.sym_size(-1)), function, ": ", argument, " has ",
                  vector->sym_size(0), " elements, but x has ", x.sym_size(-1),
                  " along dimension -1");
}

void check_like(const char* function, const char* argument, const OptionalTensor& operand,
                const Tensor& x) {
  if (!operand) return;
  check_operand(function, argument, *operand, x);
  TORCH_CHECK(operand->dim() == x.dim(), function, ": ", argument, " has ", operand->dim(),
              " dimensions, but x has ", x.dim());
  for (int64_t dim = 0; dim < x.dim(); ++dim) {
    TORCH_SYM_CHECK(operand->sym_size(dim).sym_eq(x.sym_size(dim)), function, ": ", argument,
                    " has shape ", operand->sym_sizes(), ", but x has ", x.sym_sizes());
  }
}

bool has_no_wrapper(const Tensor& tensor) {
  using c10::DispatchKey;
  constexpr c10::DispatchKeySet kWrappers{DispatchKey::Python, DispatchKey::FuncTorchBatched,
                                          DispatchKey::FuncTorchGradWrapper,
                                          DispatchKey::Functionalize, DispatchKey::Batched};
  return !tensor.key_set().has_any(kWrappers);
}

bool is_plain_call(const Tensor& x) {
  return !c10::impl::TorchDispatchModeTLS::any_modes_set() && has_no_wrapper(x) &&
         !c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode);
}

double check_probability(const char* function, double p) {
  TORCH_CHECK_VALUE(p >= 0 && p <= 1, "dropout probability has to be between 0 and 1, but got ", p,
                    " (", function, ")");
  return p;
}

void check_probability_tensor(const char* function, const Tensor& p) {
  TORCH_CHECK_TYPE(p.dim() == 0 && p.scalar_type() == at::kDouble &&
                       (p.device().is_cpu() || p.device().is_meta()),
                   function, ": p has dtype ", p.scalar_type(), ", ", p.dim(),
                   " dimensions and is on ", p.device(),
                   ", but expected a 0-d float64 tensor on the CPU");
}

void check_rng_state(const char* function, const Tensor& rng_state, at::Device device) {
  TORCH_CHECK_TYPE(rng_state.scalar_type() == at::kLong, function, ": rng_state has dtype ",
                   rng_state.scalar_type(), ", but expected int64");
  TORCH_CHECK(rng_state.dim() == 1, function, ": rng_state has ", rng_state.dim(),
              " dimensions, but expected one of size 2 (seed and offset)");
  TORCH_SYM_CHECK(rng_state.sym_size(0).sym_eq(2), function, ": rng_state has ",
                  rng_state.sym_size(0), " elements, but expected 2 (seed and offset)");
  TORCH_CHECK(rng_state.device() == device || (device.is_cuda() && rng_state.device().is_cpu()),
              function, ": rng_state is on ", rng_state.device(), ", but x is on ", device);
  if (has_values(rng_state)) {
    const auto offset = rng_state.accessor<int64_t, 1>()[1];
    TORCH_CHECK_VALUE(offset >= 0 && offset % kOffsetUnit == 0, function, ": rng_state has offset ",
                      offset, ", but expected a multiple of ", kOffsetUnit,
                      " that is not negative");
  }
}

void check_mask_indices(const char* function, at::SymIntArrayRef sizes,
                        at::OptionalSymIntArrayRef strides, const c10::SymInt& offset) {
  const auto is_negative = [](const c10::SymInt& number) {
    return number.maybe_as_int().value_or(0) < 0;
  };
  TORCH_CHECK_VALUE(!is_negative(offset), function, ": mask_offset is ", offset,
                    ", but a mask index is not negative");
  if (strides) {
    TORCH_CHECK_VALUE(strides->size() == sizes.size(), function, ": mask_strides has ",
                      strides->size(), " entries, but x has ", sizes.size(), " dimensions");
    for (const c10::SymInt& stride : *strides) {
      TORCH_CHECK_VALUE(!is_negative(stride), function, ": mask_strides has ", stride,
                        ", but a mask index is not negative");
    }
  }
  TORCH_CHECK_VALUE(last_index_fits(sizes, strides, offset), function, ": mask_offset is ", offset,
                    strides ? c10::str(" and mask_strides is ", *strides) : "",
                    ", but the last mask index has to be less than 2^63 - 2^16");
}

std::vector<int64_t> resolve_shared_dims(const char* function, at::IntArrayRef dims, int64_t ndim) {
  std::vector<int64_t> resolved;
  resolved.reserve(dims.size());
  for (const int64_t dim : dims) {
    const int64_t shared = resolve_dim(function, "shared_dims", dim, ndim);
    TORCH_CHECK_VALUE(std::find(resolved.begin(), resolved.end(), shared) == resolved.end(),
                      function, ": shared_dims has dimension ", dim, " twice");
    resolved.push_back(shared);
  }
  return resolved;
}

CallParams resolve(const char* function, const Options& options, int64_t ndim, bool has_bias) {
  CallParams call;
  call.function = function;
  call.p = options.p;
  call.p_tensor = options.p_tensor;
  if (call.p_tensor) {
    check_probability_tensor(function, *call.p_tensor);
  } else {
    check_probability(function, call.p);
  }
  call.activation = resolve_activation(function, options.activation);
  call.parameter =
      resolve_parameter(function, call.activation, options.negative_slope, options.alpha);
  call.negative_slope = options.negative_slope;
  call.alpha = options.alpha;
  call.bias_dim = has_bias ? resolve_dim(function, "bias_dim", options.bias_dim, ndim) : 0;
  call.mode = resolve_mode(function, options.mode);
  call.training = options.training;
  call.shared_dims = resolve_shared_dims(function, options.shared_dims, ndim);
  if (options.mask_strides) call.mask_strides = options.mask_strides->vec();
  call.mask_offset = options.mask_offset;
  return call;
}

void check_tensors(const char* function, const Tensor& x, const OptionalTensor& bias,
                   const OptionalTensor& residual, const OptionalTensor& rng_state,
                   const Options& options) {
  check_operand(function, "x", x, x);
  if (bias) {
    check_operand(function, "bias", *bias, x);
    const int64_t dim = resolve_dim(function, "bias_dim", options.bias_dim, x.dim());
    TORCH_CHECK(bias->dim() == 1, function, ": bias has ", bias->dim(),
                " dimensions, but expected 1");
    TORCH_SYM_CHECK(bias->sym_size(0).sym_eq(x.sym_size(dim)), function, ": bias has ",
                    bias->sym_size(0), " elements, but x has ", x.sym_size(dim),
                    " along dimension ", options.bias_dim);
  }
  check_like(function, "residual", residual, x);
  if (rng_state) check_rng_state(function, *rng_state, x.device());
  check_mask_indices(function, x.sym_sizes(), options.mask_strides, options.mask_offset);
}

CallParams check_arguments(const char* function, const Tensor& x, const OptionalTensor& bias,
                           const OptionalTensor& residual, const OptionalTensor& rng_state,
                           const Options& options) {
  check_tensors(function, x, bias, residual, rng_state, options);
  return resolve(function, options, x.dim(), bias.has_value());
}

void check_dense(const char* function, at::SymIntArrayRef sizes, at::SymIntArrayRef strides) {
  TORCH_CHECK_VALUE(sizes.size() == strides.size(), function, ": strides has ", strides.size(),
                    " entries, but expected ", sizes.size());
  // Symbolic numbers are checked when the traced program runs: a comparison here would add a guard,
  // or could not be decided.
  const auto is_symbolic = [](const c10::SymInt& number) { return number.is_heap_allocated(); };
  if (std::any_of(sizes.begin(), sizes.end(), is_symbolic) ||
      std::any_of(strides.begin(), strides.end(), is_symbolic)) {
    return;
  }
  std::vector<size_t> order(sizes.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return strides[a] != strides[b] ? strides[a] < strides[b] : sizes[a] < sizes[b];
  });
  for (const c10::SymInt& size : sizes) {
    if (size == 0) return;
  }
  int64_t expected = 1;
  bool fits = true;
  for (const size_t dim : order) {
    if (sizes[dim] == 1) continue;
    TORCH_CHECK_VALUE(fits && strides[dim] == expected, function, ": strides is ", strides,
                      ", but expected those of a dense tensor of shape ", sizes);
    fits = !__builtin_mul_overflow(expected, sizes[dim].as_int_unchecked(), &expected);
  }
}

Options CallParams::options() const {
  Options options;
  options.p = p;
  options.p_tensor = p_tensor;
  options.activation = kActivations[activation].name;
  options.negative_slope = negative_slope;
  options.alpha = alpha;
  options.bias_dim = bias_dim;
  options.mode = kModeNames[static_cast<int>(mode)];
  options.training = training;
  options.shared_dims = shared_dims;
  if (mask_strides) options.mask_strides = at::OptionalSymIntArrayRef(*mask_strides);
  options.mask_offset = mask_offset;
  return options;
}

double CallParams::probability() const {
  return p_tensor ? check_probability(function, p_tensor->item<double>()) : p;
}

at::ScalarType output_dtype(const Tensor& x, const OptionalTensor& residual) {
  return residual ? c10::promoteTypes(x.scalar_type(), residual->scalar_type()) : x.scalar_type();
}

std::vector<c10::SymInt> strides_like(const Tensor& x) {
  // The meta device needs no memory; but with symbolic sizes the call becomes part of a compiler's
  // graph, which has to stay on one device.
  const bool symbolic = x.unsafeGetTensorImpl()->has_symbolic_sizes_strides();
  const auto options = x.options().device(symbolic ? x.device() : at::Device(at::kMeta));
  return at::empty_like(x, options).sym_strides().vec();
}

}  // namespace fused_dropout
