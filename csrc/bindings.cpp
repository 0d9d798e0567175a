// What eager Python calls: arguments are checked, a random state is drawn if one is needed, and the
// operator is called through its typed dispatcher handle.
#include <ATen/MemoryOverlap.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/extension.h>

#if defined(FUSED_DROPOUT_CUDA)
#include <cuda.h>

#include <sstream>
#endif

#include "activations.h"
#include "cpu/capability.h"
#include "ops.h"

namespace fused_dropout {
namespace {

bool needs_state(const Resolved& call, const Tensor& x) {
  return call.draws() && x.sym_numel() != 0;
}

// Whether nobody looks on: what is traced or transformed draws and computes by two operators, so
// that the one that computes is pure.
bool is_plain_call(const Tensor& x) {
  return !c10::impl::TorchDispatchModeTLS::any_modes_set() && has_no_wrapper(x) &&
         !c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode);
}

Tensor bias_act_dropout(const std::string& function, const Tensor& x, const OptionalTensor& bias,
                        const OptionalTensor& residual, double p, std::string_view activation,
                        bool training, int64_t bias_dim, std::optional<double> negative_slope,
                        std::optional<double> alpha, const std::vector<int64_t>& shared_dims,
                        std::string_view mode, const OptionalGenerator& generator,
                        const OptionalTensor& rng_state) {
  const Options options{
      p, {}, activation, negative_slope, alpha, bias_dim, mode, training, shared_dims, {}, 0};
  const Resolved call = check_arguments(function.c_str(), x, bias, residual, rng_state, options);
  if (!needs_state(call, x)) return call_forward(x, bias, residual, {}, options);
  if (rng_state) return call_forward(x, bias, residual, rng_state, options);
  if (is_plain_call(x)) {
    return std::get<0>(call_draw_forward(x, bias, residual, generator, options));
  }
  return call_forward(x, bias, residual, call_draw(x, {}, generator), options);
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
Resolved check_(const std::string& function, const Tensor& x, const Options& options,
                const OptionalTensor& rng_state) {
  const Resolved call = check_arguments(function.c_str(), x, {}, {}, rng_state, options);
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
  const Resolved call = check_(function, x, options, rng_state);
  if (!needs_state(call, x)) {
    call_inplace(x, {}, options);
  } else if (rng_state) {
    call_inplace(x, rng_state, options);
  } else if (is_plain_call(x)) {
    call_draw_inplace(x, generator, options);
  } else {
    call_inplace(x, call_draw(x, {}, generator), options);
  }
  return x;
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
  m.def("bias_act_dropout", &bias_act_dropout, ReleaseGil());
  m.def("dropout_", &dropout_, ReleaseGil());
  m.def("check", &check);
  m.def("check_", [](const std::string& function, const Tensor& x, double p, bool training,
                     const std::vector<int64_t>& shared_dims, std::string_view mode,
                     const OptionalTensor& rng_state) {
    check_(function, x, inplace_options(p, training, shared_dims, mode), rng_state);
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
