// The noise operators on the CPU: memory, layouts and threads around the kernels.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <torch/library.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "cpu/capability.h"
#include "cpu/kernel_args.h"
#include "cpu/large_memory.h"
#include "ops/concrete.h"
#include "ops/gaussian.h"
#include "ops/noise_call.h"
#include "ops/standout.h"

namespace fused_dropout::cpu {
namespace {

// ---- one call of a kernel ---------------------------------------------------------------------

PhiloxState state_for(const Tensor& x, const Tensor& rng_state) {
  return x.numel() == 0 ? PhiloxState{} : read_rng_state(rng_state);
}

// For backward.
PhiloxState backward_state(PhiloxState state) {
  if (mutated(Mutation::kOtherBackwardMask)) ++state.seed;
  return state;
}

// An output that is not wanted is a tensor without elements: its data pointer is null.
Tensor output_like(const Tensor& x, at::IntArrayRef strides, bool wanted = true) {
  return wanted ? empty_large(x.sizes(), strides, x.options()) : at::empty({0}, x.options());
}

// Adds up sum(begin, end) of spans of memory. The spans depend on the size alone and are added in
// order, so that the bits of the result do not depend on the number of threads.
double sum_over(int64_t numel, const std::function<double(int64_t, int64_t)>& sum) {
  constexpr int64_t kSpan = 64 * kChunk;
  std::vector<double> sums((numel + kSpan - 1) / kSpan);
  at::parallel_for(0, sums.size(), kGrain / kSpan, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      sums[i] = sum(i * kSpan, std::min((i + 1) * kSpan, numel));
    }
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

// Runs the kernel of a functor. All tensors have the dtype and the memory layout of the first
// input. Returns the sum over all elements if the functor has one, else 0.
template <class Functor, size_t kInputs, size_t kOutputs>
double run(const CallParams& call, PhiloxState state, const TensorRef (&inputs)[kInputs],
           const TensorRef (&outputs)[kOutputs],
           const typename Functor::template Constants<double>& constants) {
  const Tensor& x = inputs[0];
  NoiseArgs args{};
  set_operands<Functor>(args, inputs, outputs, constants);
  std::optional<MaskLayout> mask;
  if (Functor::kDraw != NoiseDraw::kNone) {
    mask.emplace(call, x.sizes(), x.strides());
    args.mask = mask_indexing(*mask, kDrawsAlways, state);
  }
  const Storage storage = storage_of(x.scalar_type());
  const NoiseKernel kernel = row_kernels(storage).noise.kernel(storage, kNoiseIndex<Functor>);
  if (Functor::kSum) {
    return sum_over(x.numel(),
                    [&](int64_t begin, int64_t end) { return kernel(args, begin, end); });
  }
  for_each_chunk(x.numel(), [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
  return 0;
}

// ---- Gaussian dropout -------------------------------------------------------------------------

Tensor gaussian_cpu(const Tensor& x_any, const Tensor& rng_state, const Options& options,
                    at::OptionalSymIntArrayRef given_strides) {
  const CallParams call =
      gaussian::check(gaussian::kFunction, x_any, rng_state, options, given_strides);
  const auto strides =
      given_strides ? C10_AS_INTARRAYREF_SLOW(*given_strides).vec() : dense_strides(x_any);
  const Tensor x = in_layout(x_any, strides, x_any.scalar_type());
  const Tensor y = output_like(x, strides);
  PhiloxState state = state_for(x, rng_state);
  if (given_strides) state = backward_state(state);  // only backward gives them
  run<noise::Gaussian>(call, state, {x}, {y}, {gaussian::scale_of(call)});
  return y;
}

// ---- Concrete dropout -------------------------------------------------------------------------

noise::ConcreteConstants<double> concrete_constants_of(const Tensor& x, const Tensor& logit,
                                                       double temperature) {
  const double number = logit.item<double>();
  const double most = noise::max_scale_logit(x.scalar_type() == at::kDouble);
  return {number, 1 / temperature, 1 + std::exp(std::min(number, most)),
          1 / (1 + std::exp(-number))};
}

Tensor concrete_forward_cpu(const Tensor& x_any, const Tensor& logit, const Tensor& rng_state,
                            double temperature, const Options& options) {
  const CallParams call =
      concrete::check("concrete_dropout", x_any, logit, rng_state, temperature, options);
  const Tensor x = dense(x_any);
  const Tensor y = output_like(x, x.strides());
  run<noise::ConcreteForward>(call, state_for(x, rng_state), {x}, {y},
                              concrete_constants_of(x, logit, temperature));
  return y;
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
  const double sum =
      run<noise::ConcreteBackward>(call, backward_state(state_for(x, rng_state)), {dy, x}, {dx},
                                   concrete_constants_of(x, logit, temperature));
  return {dx, need_dlogit ? at::full(logit.sizes(), sum, logit.options())
                          : at::empty({0}, logit.options())};
}

// ---- Standout ---------------------------------------------------------------------------------

PhiloxState training_state(const CallParams& call, const Tensor& x,
                           const OptionalTensor& rng_state) {
  return x.numel() == 0 ? PhiloxState{} : read_rng_state(standout::given_state(call, rng_state));
}

Tensor standout_forward_cpu(const Tensor& x_any, const Tensor& z_any,
                            const OptionalTensor& rng_state, const standout::Settings& settings,
                            const Options& options) {
  const CallParams call = standout::check("standout", x_any, z_any, rng_state, settings, options);
  const Tensor x = dense(x_any);
  const Tensor z = in_layout(z_any, x.strides(), x.scalar_type());
  const Tensor y = output_like(x, x.strides());
  if (settings.training) {
    run<noise::Standout>(call, training_state(call, x, rng_state), {x, z}, {y},
                         {settings.alpha, settings.beta});
  } else {
    run<noise::StandoutMean>(call, {}, {x, z}, {y}, {settings.alpha, settings.beta});
  }
  return y;
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
  const Tensor dy = in_layout(dy_any, strides, dtype), z = in_layout(z_any, strides, dtype);
  const Tensor dx = output_like(dy, strides, need_dx), dz = output_like(dy, strides, need_dz);
  const noise::StandoutConstants<double> constants{settings.alpha, settings.beta};
  if (!settings.training) {
    const Tensor x = in_layout(*x_any, strides, dtype);
    run<noise::StandoutMeanBackward>(call, {}, {dy, x, z}, {dx, dz}, constants);
  } else {
    const PhiloxState state = training_state(call, dy, rng_state);
    if (need_dx) run<noise::Standout>(call, backward_state(state), {dy, z}, {dx}, constants);
    dz.zero_();
  }
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
