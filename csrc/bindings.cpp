// The extension module: operators for eager calls from Python, and facts about the build.
#include <torch/version.h>

#if defined(FUSED_DROPOUT_CUDA)
#include <cuda.h>

#include <sstream>
#endif

#include "binding_arguments.h"
#include "cpu/capability.h"
#include "math/activations.h"
#include "ops/concrete.h"
#include "ops/drop_block.h"
#include "ops/gated.h"
#include "ops/gaussian.h"
#include "ops/norm.h"
#include "ops/pointwise.h"
#include "ops/standout.h"

namespace fused_dropout {
namespace {

#if defined(FUSED_DROPOUT_CUDA)
// The architectures that setup.py has named, separated by commas.
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
  // Eager calls: the arguments are checked, a random state is drawn if one is needed, and the
  // operator is called.
#define FD_BIND(name, ...) bind_eager(m, #name, "fused_dropout::" #name, &__VA_ARGS__)
  FD_BIND(bias_act_dropout, pointwise::forward_entry<pointwise::eager_forward, const EagerCall&>);
  FD_BIND(dropout_, pointwise::inplace_entry<pointwise::eager_inplace, const EagerCall&>);
  FD_BIND(bias_glu_dropout, gated::forward_entry<gated::eager_forward, const EagerCall&>);
  FD_BIND(dropout_add_norm,
          norm::forward_entry<norm::eager_forward, std::tuple<Tensor, Tensor>, const EagerCall&>);
  FD_BIND(drop_block, drop_block::apply_entry<drop_block::eager_apply, const EagerCall&>);
  FD_BIND(gaussian_dropout, gaussian::eager_entry<gaussian::eager_call>);
  FD_BIND(concrete_dropout,
          concrete::forward_entry<concrete::eager_forward, OptionalTensor, const EagerCall&>);
  FD_BIND(standout, standout::forward_entry<standout::eager_forward, const EagerCall&>);
#undef FD_BIND

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
