// The schemas, the checks of arguments, and the calls through the dispatcher.
#include "ops/common/arguments.h"

#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <sstream>

#include "math/activations.h"
#include "ops/common/draw_schema.h"
#include "ops/common/operator_handle.h"

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

// Kernels work on blocks, and so count on beyond the last element.
constexpr int64_t kMostIndices = std::numeric_limits<int64_t>::max() - 65535;

// What is traced is checked when it runs.
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
    return !__builtin_add_overflow(last, numel, &last) && last <= kMostIndices;
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
  return last < kMostIndices;
}

// Whether the CPU can read the tensor's values.
bool has_values(const Tensor& tensor) { return tensor.device().is_cpu() && has_no_wrapper(tensor); }

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
  TORCH_CHECK(rng_state.device() == device, function, ": rng_state is on ", rng_state.device(),
              ", but x is on ", device);
  if (has_values(rng_state)) {
    const auto offset = rng_state.accessor<int64_t, 1>()[1];
    TORCH_CHECK_VALUE(offset >= 0 && offset % kOffsetUnit == 0, function, ": rng_state has offset ",
                      offset, ", but expected a multiple of ", kOffsetUnit,
                      " that is not negative");
  }
}

void check_mask_place(const char* function, at::SymIntArrayRef sizes,
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

PhiloxState read_rng_state(const Tensor& rng_state) {
  const auto values = rng_state.accessor<int64_t, 1>();
  return {static_cast<uint64_t>(values[0]), static_cast<uint64_t>(values[1])};
}

CallParams check_arguments(const char* function, const Tensor& x, const OptionalTensor& bias,
                           const OptionalTensor& residual, const OptionalTensor& rng_state,
                           const Options& options) {
  CallParams call;
  call.function = function;
  call.p = options.p;
  call.p_tensor = options.p_tensor;
  if (call.p_tensor) {
    check_probability_tensor(function, *call.p_tensor);
  } else {
    check_probability(function, call.p);
  }
  check_operand(function, "x", x, x);
  call.activation = resolve_activation(function, options.activation);
  call.parameter =
      resolve_parameter(function, call.activation, options.negative_slope, options.alpha);
  call.negative_slope = options.negative_slope;
  call.alpha = options.alpha;
  call.mode = resolve_mode(function, options.mode);
  call.training = options.training;

  call.bias_dim = 0;
  if (bias) {
    check_operand(function, "bias", *bias, x);
    call.bias_dim = resolve_dim(function, "bias_dim", options.bias_dim, x.dim());
    TORCH_CHECK(bias->dim() == 1, function, ": bias has ", bias->dim(),
                " dimensions, but expected 1");
    TORCH_SYM_CHECK(bias->sym_size(0).sym_eq(x.sym_size(call.bias_dim)), function, ": bias has ",
                    bias->sym_size(0), " elements, but x has ", x.sym_size(call.bias_dim),
                    " along dimension ", options.bias_dim);
  }
  check_like(function, "residual", residual, x);
  if (rng_state) check_rng_state(function, *rng_state, x.device());

  call.shared_dims.reserve(options.shared_dims.size());
  for (const int64_t dim : options.shared_dims) {
    const int64_t shared = resolve_dim(function, "shared_dims", dim, x.dim());
    TORCH_CHECK_VALUE(std::find(call.shared_dims.begin(), call.shared_dims.end(), shared) ==
                          call.shared_dims.end(),
                      function, ": shared_dims has dimension ", dim, " twice");
    call.shared_dims.push_back(shared);
  }
  check_mask_place(function, x.sym_sizes(), options.mask_strides, options.mask_offset);
  if (options.mask_strides) call.mask_strides = options.mask_strides->vec();
  call.mask_offset = options.mask_offset;
  return call;
}

// The strides of a tensor that fills its memory without gaps or overlaps.
void check_dense(const char* function, at::SymIntArrayRef sizes, at::SymIntArrayRef strides) {
  TORCH_CHECK_VALUE(sizes.size() == strides.size(), function, ": strides has ", strides.size(),
                    " entries, but expected ", sizes.size());
  // What is traced is checked when it runs: a comparison here would be a guard, or could not be
  // decided.
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

CallParams check_backward_arguments(const Tensor& dy, const OptionalTensor& input,
                                    const OptionalTensor& bias, const OptionalTensor& rng_state,
                                    const Options& options, const Gradient& gradient) {
  constexpr auto kFunction = "bias_act_dropout_backward";
  CallParams call = check_arguments(kFunction, dy, bias, input, rng_state, options);
  if (gradient.bias_dtype)
    call.bias_dim = resolve_dim(kFunction, "bias_dim", options.bias_dim, dy.dim());
  const ActivationInfo& activation = kActivations[call.activation];
  TORCH_CHECK_VALUE(!gradient.from_output || activation.from_output, kFunction, ": activation '",
                    activation.name, "' needs its input, not its output");
  TORCH_CHECK_VALUE(input || (activation.identity && !gradient.from_output), kFunction,
                    ": input is None, but activation '", activation.name, "' needs it");
  TORCH_CHECK_TYPE(
      is_supported(gradient.dtype) && (!gradient.bias_dtype || is_supported(*gradient.bias_dtype)),
      kFunction, ": the gradients' dtypes are not supported");
  TORCH_CHECK_VALUE(gradient.bias_dtype || (!gradient.output_mask[1] && !bias), kFunction,
                    ": bias_dtype is None, but there is a bias");
  check_dense(kFunction, dy.sym_sizes(), gradient.strides);
  return call;
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

bool CallParams::draws() const {
  if (!training) return false;
  const double probability = this->probability();
  return probability > 0 && probability < 1;
}

at::ScalarType output_dtype(const Tensor& x, const OptionalTensor& residual) {
  return residual ? c10::promoteTypes(x.scalar_type(), residual->scalar_type()) : x.scalar_type();
}

std::vector<c10::SymInt> strides_like(const Tensor& x) {
  // On the meta device without memory; but there a compiler that keeps symbolic strides in its
  // graph would have to follow.
  const bool symbolic = x.unsafeGetTensorImpl()->has_symbolic_sizes_strides();
  const auto options = x.options().device(symbolic ? x.device() : at::Device(at::kMeta));
  return at::empty_like(x, options).sym_strides().vec();
}

std::vector<c10::SymInt> mask_strides_of(at::SymIntArrayRef sizes, at::SymIntArrayRef strides,
                                         at::IntArrayRef shared_dims) {
  std::vector<int64_t> order(sizes.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return strides[a] > strides[b]; });
  std::vector<c10::SymInt> result(sizes.size(), 0);
  c10::SymInt stride = 1;
  for (auto dim = order.rbegin(); dim != order.rend(); ++dim) {
    if (std::find(shared_dims.begin(), shared_dims.end(), *dim) != shared_dims.end()) continue;
    result[*dim] = stride;
    stride *= sizes[*dim];
  }
  return result;
}

bool backward_uses_output(const CallParams& call, bool has_residual) {
  return kActivations[call.activation].from_output && !has_residual && call.mode != Mode::kAlpha;
}

Tensor call_forward(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& residual,
                    const OptionalTensor& rng_state, const Options& o) {
  static const auto op =
      find_operator("fused_dropout::bias_act_dropout", forward_entry<call_forward>);
  return op.call(x, bias, residual, rng_state, o.p, o.p_tensor, o.activation, o.negative_slope,
                 o.alpha, o.bias_dim, o.mode, o.training, o.shared_dims, o.mask_strides,
                 o.mask_offset);
}

Gradients call_backward(const Tensor& dy, const OptionalTensor& input, const OptionalTensor& bias,
                        const OptionalTensor& rng_state, const Options& o,
                        const Gradient& gradient) {
  static const auto op =
      find_operator("fused_dropout::bias_act_dropout_backward", &backward_entry<call_backward>);
  return op.call(dy, input, bias, rng_state, o.p, o.p_tensor, o.activation, o.negative_slope,
                 o.alpha, o.bias_dim, o.mode, o.training, o.shared_dims, o.mask_strides,
                 o.mask_offset, gradient.from_output, gradient.strides, gradient.dtype,
                 gradient.bias_dtype, gradient.output_mask);
}

void call_inplace(Tensor x, const OptionalTensor& rng_state, const Options& o) {
  static const auto op = find_operator("fused_dropout::dropout_", inplace_entry<call_inplace>);
  op.call(std::move(x), rng_state, o.p, o.p_tensor, o.mode, o.training, o.shared_dims,
          o.mask_strides, o.mask_offset);
}

Tensor call_draw(const Tensor& token, const OptionalTensor& p_tensor,
                 const OptionalGenerator& generator) {
  static const auto op = find_operator("fused_dropout::draw_rng_state", &call_draw);
  return op.call(token, p_tensor, generator);
}

Drawn call_draw_forward(const Tensor& x, const OptionalTensor& bias, const OptionalTensor& residual,
                        const OptionalGenerator& generator, const Options& o) {
  static const auto op =
      find_operator("fused_dropout::draw_bias_act_dropout", draw_forward_entry<call_draw_forward>);
  return op.call(x, bias, residual, generator, o.p, o.p_tensor, o.activation, o.negative_slope,
                 o.alpha, o.bias_dim, o.mode, o.training, o.shared_dims, o.mask_strides,
                 o.mask_offset);
}

Tensor call_draw_inplace(Tensor x, const OptionalGenerator& generator, const Options& o) {
  static const auto op =
      find_operator("fused_dropout::draw_dropout_", draw_inplace_entry<call_draw_inplace>);
  return op.call(std::move(x), generator, o.p, o.p_tensor, o.mode, o.training, o.shared_dims,
                 o.mask_strides, o.mask_offset);
}

// p, p_tensor, mode, training, shared_dims, mask_strides and mask_offset mean the same everywhere.
TORCH_LIBRARY(fused_dropout, m) {
  constexpr auto kOptions =
      "float p, Tensor? p_tensor, str activation, float? negative_slope, float? alpha, "
      "int bias_dim, str dropout_mode, bool training, int[] shared_dims, SymInt[]? mask_strides, "
      "SymInt mask_offset";
  m.def(c10::str("bias_act_dropout(Tensor x, Tensor? bias, Tensor? residual, Tensor? rng_state, ",
                 kOptions, ") -> Tensor")
            .c_str(),
        {at::Tag::pt2_compliant_tag});
  m.def(c10::str("bias_act_dropout_backward(Tensor dy, Tensor? input, Tensor? bias, "
                 "Tensor? rng_state, ",
                 kOptions,
                 ", bool from_output, SymInt[] strides, ScalarType dtype, "
                 "ScalarType? bias_dtype, bool[2] output_mask) -> (Tensor, Tensor)")
            .c_str(),
        {at::Tag::pt2_compliant_tag});
  m.def(
      "dropout_(Tensor(a!) x, Tensor? rng_state, float p, Tensor? p_tensor, str dropout_mode, "
      "bool training, int[] shared_dims, SymInt[]? mask_strides, SymInt mask_offset) -> ()",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "dropout_mask(Tensor rng_state, SymInt[] size, SymInt[] strides, float p, "
      "int[] shared_dims, SymInt[]? mask_strides, SymInt mask_offset) -> Tensor",
      {at::Tag::pt2_compliant_tag});
  // Only these draw from a generator. `token` gives the device, and, under torch.compile, a fresh
  // one for each call keeps two calls from being merged into one. The two that draw and compute at
  // once are for eager calls; what is traced draws and computes apart.
  define_draw(m,
              "draw_rng_state(Tensor token, Tensor? p_tensor=None, *, Generator? generator=None) "
              "-> Tensor");
  define_draw(m, c10::str("draw_bias_act_dropout(Tensor x, Tensor? bias, Tensor? residual, "
                          "Generator? generator, ",
                          kOptions, ") -> (Tensor, Tensor)"));
  define_draw(m,
              "draw_dropout_(Tensor(a!) x, Generator? generator, float p, Tensor? p_tensor, "
              "str dropout_mode, bool training, int[] shared_dims, SymInt[]? mask_strides, "
              "SymInt mask_offset) -> Tensor");
}

}  // namespace fused_dropout
