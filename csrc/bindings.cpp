// What eager Python calls: arguments are checked, a random state is drawn if one is needed, and the
// operator is called through its typed dispatcher handle.
#include <ATen/MemoryOverlap.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/version.h>

#if defined(FUSED_DROPOUT_CUDA)
#include <cuda.h>

#include <sstream>
#endif

#include "binding_arguments.h"
#include "cpu/capability.h"
#include "math/activations.h"
#include "ops/common/arguments.h"
#include "ops/drop_block.h"
#include "ops/gated.h"
#include "ops/noise.h"
#include "ops/norm.h"

namespace fused_dropout {
namespace {

bool needs_state(const CallParams& call, const Tensor& x) {
  return call.draws() && x.sym_numel() != 0;
}

// Whether nobody looks on: what is traced or transformed draws and computes by two operators, so
// that the one that computes is pure.
bool is_plain_call(const Tensor& x) {
  return !c10::impl::TorchDispatchModeTLS::any_modes_set() && has_no_wrapper(x) &&
         !c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode);
}

bool draws_at_once(const CallParams& call, const Tensor& x, const OptionalTensor& rng_state) {
  return !rng_state && needs_state(call, x) && is_plain_call(x);
}

Tensor given_or_drawn(const Tensor& x, const OptionalGenerator& generator,
                      const OptionalTensor& rng_state) {
  return rng_state ? *rng_state : call_draw(x, {}, generator);
}

// The state of a call that draws and computes by two operators.
OptionalTensor state_of(const CallParams& call, const Tensor& x, const OptionalGenerator& generator,
                        const OptionalTensor& rng_state) {
  if (!needs_state(call, x)) return {};
  return given_or_drawn(x, generator, rng_state);
}

Tensor bias_act_dropout(const std::string& function, const Tensor& x, const OptionalTensor& bias,
                        const OptionalTensor& residual, double p, std::string_view activation,
                        bool training, int64_t bias_dim, std::optional<double> negative_slope,
                        std::optional<double> alpha, const std::vector<int64_t>& shared_dims,
                        std::string_view mode, const OptionalGenerator& generator,
                        const OptionalTensor& rng_state) {
  const Options options{
      p, {}, activation, negative_slope, alpha, bias_dim, mode, training, shared_dims, {}, 0};
  const CallParams call = check_arguments(function.c_str(), x, bias, residual, rng_state, options);
  if (draws_at_once(call, x, rng_state)) {
    return std::get<0>(call_draw_forward(x, bias, residual, generator, options));
  }
  return call_forward(x, bias, residual, state_of(call, x, generator, rng_state), options);
}

// The checks alone, for calls that reach the operator through torch.ops.
void check(const std::string& function, const Tensor& x, const OptionalTensor& bias,
           const OptionalTensor& residual, double p, std::string_view activation, int64_t bias_dim,
           std::optional<double> negative_slope, std::optional<double> alpha,
           const std::vector<int64_t>& shared_dims, std::string_view mode,
           const OptionalTensor& rng_state) {
  check_arguments(
      function.c_str(), x, bias, residual, rng_state,
      {p, {}, activation, negative_slope, alpha, bias_dim, mode, true, shared_dims, {}, 0});
}

// The same for a call that writes into x.
CallParams check_(const std::string& function, const Tensor& x, const Options& options,
                  const OptionalTensor& rng_state) {
  const CallParams call = check_arguments(function.c_str(), x, {}, {}, rng_state, options);
  at::assert_no_internal_overlap(x);
  torch::autograd::check_inplace(x, at::GradMode::is_enabled() && x.requires_grad());
  return call;
}

Options inplace_options(double p, bool training, const std::vector<int64_t>& shared_dims,
                        std::string_view mode) {
  Options options;
  options.p = p;
  options.mode = mode;
  options.training = training;
  options.shared_dims = shared_dims;
  return options;
}

Tensor dropout_(const std::string& function, const Tensor& x, double p, bool training,
                const std::vector<int64_t>& shared_dims, std::string_view mode,
                const OptionalGenerator& generator, const OptionalTensor& rng_state) {
  const Options options = inplace_options(p, training, shared_dims, mode);
  const CallParams call = check_(function, x, options, rng_state);
  if (draws_at_once(call, x, rng_state)) {
    call_draw_inplace(x, generator, options);
  } else {
    call_inplace(x, state_of(call, x, generator, rng_state), options);
  }
  return x;
}

Options row_options(double p, std::string_view activation, bool training,
                    std::optional<double> negative_slope, std::optional<double> alpha,
                    const std::vector<int64_t>& shared_dims, std::string_view mode) {
  return {p, {}, activation, negative_slope, alpha, -1, mode, training, shared_dims, {}, 0};
}

Tensor bias_glu_dropout(const std::string& function, const Tensor& x, const OptionalTensor& bias,
                        bool gate_first, double p, std::string_view activation, bool training,
                        std::optional<double> negative_slope, std::optional<double> alpha,
                        const std::vector<int64_t>& shared_dims, std::string_view mode,
                        const OptionalGenerator& generator, const OptionalTensor& rng_state) {
  const Options options =
      row_options(p, activation, training, negative_slope, alpha, shared_dims, mode);
  const CallParams call = gated::check(function.c_str(), x, bias, rng_state, options);
  if (draws_at_once(call, x, rng_state)) {
    return std::get<0>(gated::call_draw_forward(x, bias, generator, gate_first, options));
  }
  return gated::call_forward(x, bias, state_of(call, x, generator, rng_state), gate_first, options);
}

std::tuple<Tensor, Tensor> dropout_add_norm(
    const std::string& function, const Tensor& x, const OptionalTensor& residual,
    const OptionalTensor& bias, const OptionalTensor& row_scale, const OptionalTensor& layer_scale,
    const OptionalTensor& weight, const OptionalTensor& norm_bias, std::string_view kind,
    double eps, bool prenorm, double p, std::string_view activation, bool training,
    std::optional<double> negative_slope, std::optional<double> alpha,
    const std::vector<int64_t>& shared_dims, std::string_view mode,
    const OptionalGenerator& generator, const OptionalTensor& rng_state) {
  const Options options =
      row_options(p, activation, training, negative_slope, alpha, shared_dims, mode);
  const norm::Operands operands{residual, bias, row_scale, layer_scale, weight, norm_bias};
  const norm::Settings settings{kind, eps, prenorm};
  const norm::NormCallParams call =
      norm::check(function.c_str(), x, operands, rng_state, settings, options);
  if (draws_at_once(call, x, rng_state)) {
    const auto results = norm::call_draw_forward(x, operands, generator, settings, options);
    return {std::get<0>(results), std::get<1>(results)};
  }
  const auto results =
      norm::call_forward(x, operands, state_of(call, x, generator, rng_state), settings, options);
  return {std::get<0>(results), std::get<1>(results)};
}

drop_block::Options drop_block_options(double p, int64_t block_size, bool shared_channels,
                                       std::string_view mode, bool training) {
  return {p, {}, block_size, shared_channels, mode, training};
}

Tensor drop_block(const std::string& function, const Tensor& x, double p, int64_t block_size,
                  bool shared_channels, std::string_view mode, bool training,
                  const OptionalGenerator& generator, const OptionalTensor& rng_state) {
  const drop_block::Options options =
      drop_block_options(p, block_size, shared_channels, mode, training);
  const drop_block::Params call = drop_block::check(function.c_str(), x, rng_state, {}, options);
  if (!training) return drop_block::call_apply(x, {}, {}, {}, options);
  const Tensor state = given_or_drawn(x, generator, rng_state);
  OptionalTensor kept;
  if (call.scales()) kept = drop_block::call_kept(x, state, options);
  return drop_block::call_apply(x, state, kept, {}, options);
}

// A call on a tensor that is not empty, in training, with a p that is not zero: it draws.
Tensor gaussian_dropout(const std::string& function, const Tensor& x, double p,
                        const std::vector<int64_t>& shared_dims, const OptionalGenerator& generator,
                        const OptionalTensor& rng_state) {
  Options options = place_options(shared_dims, {}, 0);
  options.p = p;
  gaussian::check(function.c_str(), x, rng_state, options);
  return gaussian::call(x, given_or_drawn(x, generator, rng_state), options, {});
}

// As above.
Tensor concrete_dropout(const std::string& function, const Tensor& x, const Tensor& logit,
                        double temperature, const std::vector<int64_t>& shared_dims,
                        const OptionalGenerator& generator, const OptionalTensor& rng_state) {
  const Options options = place_options(shared_dims, {}, 0);
  concrete::check(function.c_str(), x, logit, rng_state, temperature, options);
  return concrete::call_forward(x, logit, given_or_drawn(x, generator, rng_state), temperature,
                                options);
}

Tensor standout_call(const std::string& function, const Tensor& x, const Tensor& z, double alpha,
                     double beta, bool training, const std::vector<int64_t>& shared_dims,
                     const OptionalGenerator& generator, const OptionalTensor& rng_state) {
  const Options options = place_options(shared_dims, {}, 0);
  const standout::Settings settings{alpha, beta, training};
  standout::check(function.c_str(), x, z, rng_state, settings, options);
  OptionalTensor state;
  if (training && x.sym_numel() != 0) state = given_or_drawn(x, generator, rng_state);
  return standout::call_forward(x, z, state, settings, options);
}

#if defined(FUSED_DROPOUT_CUDA)
// Those that setup.py has named, separated by commas.
std::vector<std::string> architectures() {
#define FD_TEXT_OF(...) #__VA_ARGS__
#define FD_TEXT(...) FD_TEXT_OF(__VA_ARGS__)
  std::istringstream list(FD_TEXT(FUSED_DROPOUT_CUDA_ARCHITECTURES));
#undef FD_TEXT
#undef FD_TEXT_OF
  std::vector<std::string> names;
  for (std::string name; std::getline(list, name, ',');) names.push_back(name);
  return names;
}
#endif

py::dict build_info() {
  py::dict info;
  info["torch"] = TORCH_VERSION;
  info["compiler"] =
#if defined(__clang__)
      "clang " __clang_version__;
#else
      "gcc " __VERSION__;
#endif
#if defined(_OPENMP)
  info["openmp"] = true;
#else
  info["openmp"] = false;
#endif
#if defined(FUSED_DROPOUT_CUDA)
  info["cuda"] =
      std::to_string(CUDA_VERSION / 1000) + "." + std::to_string(CUDA_VERSION / 10 % 100);
  info["cuda_architectures"] = architectures();
#else
  info["cuda"] = py::none();
  info["cuda_architectures"] = std::vector<std::string>{};
#endif
  info["cpu_capabilities"] = cpu::available_capabilities();
  info["cpu_capability"] = cpu::kernels().name;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  using ReleaseGil = py::call_guard<py::gil_scoped_release>;
  // Each function and its checks alone, for calls that reach the operator through torch.ops.
  m.def("bias_act_dropout",
        with_names(&bias_act_dropout,
                   {"x", "bias", "residual", "p", "activation", "training", "bias_dim",
                    "negative_slope", "alpha", "shared_dims", "mode", "generator", "rng_state"}),
        ReleaseGil());
  m.def("check",
        with_names(&check, {"x", "bias", "residual", "p", "activation", "bias_dim",
                            "negative_slope", "alpha", "shared_dims", "mode", "rng_state"}));
  m.def("dropout_",
        with_names(&dropout_,
                   {"x", "p", "training", "shared_dims", "mode", "generator", "rng_state"}),
        ReleaseGil());
  m.def("check_", with_names(
                      +[](const std::string& function, const Tensor& x, double p, bool training,
                          const std::vector<int64_t>& shared_dims, std::string_view mode,
                          const OptionalTensor& rng_state) {
                        check_(function, x, inplace_options(p, training, shared_dims, mode),
                               rng_state);
                      },
                      {"x", "p", "training", "shared_dims", "mode", "rng_state"}));
  m.def("bias_glu_dropout",
        with_names(&bias_glu_dropout,
                   {"x", "bias", "gate_first", "p", "activation", "training", "negative_slope",
                    "alpha", "shared_dims", "mode", "generator", "rng_state"}),
        ReleaseGil());
  m.def("check_bias_glu_dropout",
        with_names(
            +[](const std::string& function, const Tensor& x, const OptionalTensor& bias, double p,
                std::string_view activation, std::optional<double> negative_slope,
                std::optional<double> alpha, const std::vector<int64_t>& shared_dims,
                std::string_view mode, const OptionalTensor& rng_state) {
              gated::check(
                  function.c_str(), x, bias, rng_state,
                  row_options(p, activation, true, negative_slope, alpha, shared_dims, mode));
            },
            {"x", "bias", "p", "activation", "negative_slope", "alpha", "shared_dims", "mode",
             "rng_state"}));
  m.def("dropout_add_norm",
        with_names(&dropout_add_norm,
                   {"x", "residual", "bias", "row_scale", "layer_scale", "weight", "norm_bias",
                    "norm", "eps", "prenorm", "p", "activation", "training", "negative_slope",
                    "alpha", "shared_dims", "mode", "generator", "rng_state"}),
        ReleaseGil());
  m.def("check_dropout_add_norm",
        with_names(
            +[](const std::string& function, const Tensor& x, const OptionalTensor& residual,
                const OptionalTensor& bias, const OptionalTensor& row_scale,
                const OptionalTensor& layer_scale, const OptionalTensor& weight,
                const OptionalTensor& norm_bias, std::string_view kind, double eps, bool prenorm,
                double p, std::string_view activation, std::optional<double> negative_slope,
                std::optional<double> alpha, const std::vector<int64_t>& shared_dims,
                std::string_view mode, const OptionalTensor& rng_state) {
              norm::check(
                  function.c_str(), x, {residual, bias, row_scale, layer_scale, weight, norm_bias},
                  rng_state, {kind, eps, prenorm},
                  row_options(p, activation, true, negative_slope, alpha, shared_dims, mode));
            },
            {"x", "residual", "bias", "row_scale", "layer_scale", "weight", "norm_bias", "norm",
             "eps", "prenorm", "p", "activation", "negative_slope", "alpha", "shared_dims", "mode",
             "rng_state"}));
  m.def("gaussian_dropout",
        with_names(&gaussian_dropout, {"x", "p", "shared_dims", "generator", "rng_state"}),
        ReleaseGil());
  m.def("check_gaussian_dropout",
        with_names(
            +[](const std::string& function, const Tensor& x, double p,
                const std::vector<int64_t>& shared_dims, const OptionalTensor& rng_state) {
              Options options = place_options(shared_dims, {}, 0);
              options.p = p;
              gaussian::check(function.c_str(), x, rng_state, options);
            },
            {"x", "p", "shared_dims", "rng_state"}));
  m.def("concrete_dropout",
        with_names(&concrete_dropout,
                   {"x", "logit", "temperature", "shared_dims", "generator", "rng_state"}),
        ReleaseGil());
  m.def(
      "check_concrete_dropout",
      with_names(
          +[](const std::string& function, const Tensor& x, const Tensor& logit, double temperature,
              const std::vector<int64_t>& shared_dims, const OptionalTensor& rng_state) {
            concrete::check(function.c_str(), x, logit, rng_state, temperature,
                            place_options(shared_dims, {}, 0));
          },
          {"x", "logit", "temperature", "shared_dims", "rng_state"}));
  m.def("standout",
        with_names(&standout_call, {"x", "z", "alpha", "beta", "training", "shared_dims",
                                    "generator", "rng_state"}),
        ReleaseGil());
  m.def("check_standout",
        with_names(
            +[](const std::string& function, const Tensor& x, const Tensor& z, double alpha,
                double beta, const std::vector<int64_t>& shared_dims,
                const OptionalTensor& rng_state) {
              standout::check(function.c_str(), x, z, rng_state, {alpha, beta, true},
                              place_options(shared_dims, {}, 0));
            },
            {"x", "z", "alpha", "beta", "shared_dims", "rng_state"}));
  m.def("drop_block",
        with_names(&drop_block, {"x", "p", "block_size", "shared_channels", "mode", "training",
                                 "generator", "rng_state"}),
        ReleaseGil());
  m.def("check_drop_block",
        with_names(
            +[](const std::string& function, const Tensor& x, double p, int64_t block_size,
                bool shared_channels, std::string_view mode, bool training,
                const OptionalTensor& rng_state) {
              drop_block::check(function.c_str(), x, rng_state, {},
                                drop_block_options(p, block_size, shared_channels, mode, training));
            },
            {"x", "p", "block_size", "shared_channels", "mode", "training", "rng_state"}));
  // `sizes`: of the spatial dimensions.
  m.def("drop_block_rate", [](const std::vector<int64_t>& sizes, double p, int64_t block_size) {
    std::vector<int64_t> all = {1, 1};
    all.insert(all.end(), sizes.begin(), sizes.end());
    return drop_block::drop_rate(drop_block::axes_of(all, block_size), p);
  });
  m.def("build_info", &build_info);
  m.def("force_cpu_capability", &cpu::force_capability);
  std::vector<std::string> names;
  for (const ActivationInfo& activation : kActivations) names.emplace_back(activation.name);
  m.attr("ACTIVATIONS") = names;
  m.attr("RNG_CONTRACT_VERSION") = kRngContractVersion;
  m.attr("TORCH_VERSION") = TORCH_VERSION;
}

}  // namespace fused_dropout
