// The noise operators on the CPU: memory, layouts and threads around the kernels.
#include "ops/noise.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <torch/library.h>

#include <algorithm>
#include <numeric>

#include "cpu/capability.h"
#include "cpu/kernel_args.h"
#include "cpu/large_memory.h"
#include "math/noise.h"

namespace fused_dropout::cpu {
namespace {

// Draws for every element; kernels look at them only.
constexpr uint32_t kDrawsAlways = 1;

const NoiseTable& noise_kernels(Storage storage) { return row_kernels(storage).noise; }

PhiloxState state_of(const Tensor& x, const Tensor& rng_state) {
  return x.numel() == 0 ? PhiloxState{} : read_rng_state(rng_state);
}

// For backward.
PhiloxState state_again(const Tensor& x, const Tensor& rng_state) {
  PhiloxState state = state_of(x, rng_state);
  if (mutated(Mutation::kOtherBackwardMask)) ++state.seed;
  return state;
}

Tensor output_like(const Tensor& x, at::IntArrayRef strides, bool wanted = true) {
  return wanted ? empty_large(x.sizes(), strides, x.options()) : at::empty({0}, x.options());
}
void* data_of(const Tensor& tensor, bool wanted) {
  return wanted ? tensor.mutable_data_ptr() : nullptr;
}

Tensor gaussian_cpu(const Tensor& x_any, const Tensor& rng_state, const Options& options,
                    at::OptionalSymIntArrayRef given_strides) {
  const CallParams call =
      gaussian::check(gaussian::kFunction, x_any, rng_state, options, given_strides);
  const auto strides =
      given_strides ? C10_AS_INTARRAYREF_SLOW(*given_strides).vec() : dense_strides(x_any);
  const Tensor x = in_layout(x_any, strides, x_any.scalar_type());
  const Tensor y = output_like(x, strides);
  const MaskLayout mask(call, x.sizes(), strides);
  // Strides are given in backward.
  const PhiloxState state = given_strides ? state_again(x, rng_state) : state_of(x, rng_state);
  const GaussianArgs args{x.const_data_ptr(), y.mutable_data_ptr(),
                          mask_indexing(mask, kDrawsAlways, state), gaussian::scale_of(call)};
  const Storage storage = storage_of(x.scalar_type());
  const auto kernel = noise_kernels(storage).gaussian(storage);
  for_each_chunk(x.numel(), [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
  return y;
}

ConcreteArgs concrete_arguments(const Tensor& x, const Tensor& logit, double temperature,
                                const MaskLayout& mask, PhiloxState state) {
  const double number = logit.item<double>();
  const double most = x.scalar_type() == at::kDouble ? kMostLogit<double> : kMostLogit<float>;
  return {
      x.const_data_ptr(), mask_indexing(mask, kDrawsAlways, state), number,
      1 / temperature,    1 + std::exp(std::min(number, most)),     1 / (1 + std::exp(-number))};
}

Tensor concrete_forward_cpu(const Tensor& x_any, const Tensor& logit, const Tensor& rng_state,
                            double temperature, const Options& options) {
  const CallParams call =
      concrete::check("concrete_dropout", x_any, logit, rng_state, temperature, options);
  const Tensor x = dense(x_any);
  const Tensor y = output_like(x, x.strides());
  const MaskLayout mask(call, x.sizes(), x.strides());
  const ConcreteForwardArgs args{
      concrete_arguments(x, logit, temperature, mask, state_of(x, rng_state)),
      y.mutable_data_ptr()};
  const Storage storage = storage_of(x.scalar_type());
  const auto kernel = noise_kernels(storage).concrete_forward(storage);
  for_each_chunk(x.numel(), [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
  return y;
}

// The cut depends on the size alone, and the parts are added up in order: the bits are the same for
// any number of threads.
double sum_of_parts(int64_t numel, const std::function<double(int64_t, int64_t)>& part) {
  constexpr int64_t kPart = 64 * kChunk;
  std::vector<double> sums((numel + kPart - 1) / kPart);
  at::parallel_for(0, sums.size(), kGrain / kPart, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      sums[i] = part(i * kPart, std::min((i + 1) * kPart, numel));
    }
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

Gradients concrete_backward_cpu(const Tensor& dy_any, const Tensor& x_any, const Tensor& logit,
                                const Tensor& rng_state, double temperature, const Options& options,
                                const concrete::Gradient& gradient) {
  const CallParams call =
      concrete::check_backward(dy_any, x_any, logit, rng_state, temperature, options, gradient);
  const auto strides = C10_AS_INTARRAYREF_SLOW(gradient.strides);
  const auto [need_dx, need_dlogit] = gradient.output_mask;
  const Tensor x = in_layout(x_any, strides, x_any.scalar_type());
  const Tensor dy = in_layout(dy_any, strides, x.scalar_type());
  const Tensor dx = output_like(x, strides, need_dx);
  const MaskLayout mask(call, x.sizes(), strides);
  const ConcreteBackwardArgs args{
      concrete_arguments(x, logit, temperature, mask, state_again(x, rng_state)),
      dy.const_data_ptr(), data_of(dx, need_dx)};
  const Storage storage = storage_of(x.scalar_type());
  const auto kernel = noise_kernels(storage).concrete_backward(storage);
  const double sum =
      sum_of_parts(x.numel(), [&](int64_t begin, int64_t end) { return kernel(args, begin, end); });
  return {dx, need_dlogit ? at::full(logit.sizes(), sum, logit.options())
                          : at::empty({0}, logit.options())};
}

// What a mask decides about is x, or dy.
Tensor standout_kernel(const CallParams& call, const Tensor& x, const Tensor& z_any,
                       const PhiloxState& state, const standout::Settings& settings) {
  const Tensor z = in_layout(z_any, x.strides(), x.scalar_type());
  const Tensor y = output_like(x, x.strides());
  const MaskLayout mask(call, x.sizes(), x.strides());
  const StandoutArgs args{x.const_data_ptr(),   z.const_data_ptr(),
                          y.mutable_data_ptr(), mask_indexing(mask, kDrawsAlways, state),
                          settings.alpha,       settings.beta};
  const Storage storage = storage_of(x.scalar_type());
  const auto kernel = noise_kernels(storage).standout(storage, settings.training);
  for_each_chunk(x.numel(), [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
  return y;
}

PhiloxState state_of(const CallParams& call, const Tensor& x, const OptionalTensor& rng_state,
                     const standout::Settings& settings) {
  if (!settings.training || x.numel() == 0) return {};
  TORCH_CHECK_VALUE(rng_state, call.function, ": rng_state is None, but training needs one");
  return read_rng_state(*rng_state);
}

Tensor standout_forward_cpu(const Tensor& x, const Tensor& z, const OptionalTensor& rng_state,
                            const standout::Settings& settings, const Options& options) {
  const CallParams call = standout::check("standout", x, z, rng_state, settings, options);
  return standout_kernel(call, dense(x), z, state_of(call, x, rng_state, settings), settings);
}

Gradients standout_backward_cpu(const Tensor& dy_any, const OptionalTensor& x_any,
                                const Tensor& z_any, const OptionalTensor& rng_state,
                                const standout::Settings& settings, const Options& options,
                                const standout::Gradient& gradient) {
  const CallParams call =
      standout::check_backward(dy_any, x_any, z_any, rng_state, settings, options, gradient);
  const auto strides = C10_AS_INTARRAYREF_SLOW(gradient.strides);
  const at::ScalarType dtype = dy_any.scalar_type();
  const auto [need_dx, need_dz] = gradient.output_mask;
  const Tensor dy = in_layout(dy_any, strides, dtype);
  Tensor dz = output_like(dy, strides, need_dz);
  if (settings.training) {
    PhiloxState state = state_of(call, dy, rng_state, settings);
    if (mutated(Mutation::kOtherBackwardMask)) ++state.seed;
    return {
        need_dx ? standout_kernel(call, dy, z_any, state, settings) : at::empty({0}, dy.options()),
        dz.zero_().to(gradient.z_dtype)};
  }
  const Tensor z = in_layout(z_any, strides, dtype), x = in_layout(*x_any, strides, dtype);
  const Tensor dx = output_like(dy, strides, need_dx);
  const StandoutBackwardArgs args{dy.const_data_ptr(),  x.const_data_ptr(),   z.const_data_ptr(),
                                  data_of(dx, need_dx), data_of(dz, need_dz), settings.alpha,
                                  settings.beta};
  const Storage storage = storage_of(dtype);
  const auto kernel = noise_kernels(storage).standout_backward(storage);
  for_each_chunk(dy.numel(), [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
  return {dx, dz.to(gradient.z_dtype)};
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CPU, m) {
  m.impl("gaussian_dropout", gaussian::entry<gaussian_cpu>);
  m.impl("concrete_dropout", concrete::forward_entry<concrete_forward_cpu>);
  m.impl("concrete_dropout_backward", concrete::backward_entry<concrete_backward_cpu>);
  m.impl("standout", standout::forward_entry<standout_forward_cpu>);
  m.impl("standout_backward", standout::backward_entry<standout_backward_cpu>);
}

}  // namespace fused_dropout::cpu
