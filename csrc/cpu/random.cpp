// The operators draw_rng_state and dropout_mask on the CPU: the random state of a call, and a mask
// as a tensor.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "cpu/capability.h"
#include "cpu/kernel_args.h"
#include "ops/random.h"

namespace fused_dropout::cpu {
namespace {

Tensor mask_cpu(const Tensor& rng_state, at::SymIntArrayRef size, at::SymIntArrayRef strides,
                double p, FD_MASK_PARAMETERS) {
  const MaskParams call(rng_state, size, strides, p, FD_MASK_OPTIONS);
  call.for_each_mask([&](const Tensor& state, bool* kept) {
    const MaskIndexing indexing =
        mask_indexing(call.layout, call.keep_count, read_rng_state(state));
    for_each_chunk(call.numel, [&](int64_t begin, int64_t end) {
      kernels().random.mask(indexing, kept, begin, end);
    });
  });
  return call.kept;
}

// Draws a seed from the generator; the offset is 0. Leaves the generator alone if p is 0 or 1.
Tensor draw_cpu(const Tensor& token, const OptionalTensor& p_tensor,
                const OptionalGenerator& generator, bool) {
  const Tensor state = at::empty({2}, at::TensorOptions().dtype(at::kLong));
  int64_t* values = state.mutable_data_ptr<int64_t>();
  values[0] = values[1] = 0;
  if (p_tensor) {
    const double p = check_probability("draw_rng_state", p_tensor->item<double>());
    if (p == 0 || p == 1) return state;  // the call will not use the state
  }
  check_generator("draw_rng_state", generator, token.device());
  auto* source = at::get_generator_or_default<at::CPUGeneratorImpl>(
      generator, at::detail::getDefaultCPUGenerator());
  const std::lock_guard<std::mutex> lock(source->mutex_);
  uint64_t seed = source->random64();
  if (mutated(Mutation::kRepeatedState)) {
    static uint64_t calls = 0, previous = 0;
    if (calls++ % 2) seed = previous;
    previous = seed;
  }
  values[0] = static_cast<int64_t>(seed);
  return state;
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CPU, m) {
  m.impl("draw_rng_state", draw_cpu);
  m.impl("dropout_mask", mask_cpu);
}

}  // namespace fused_dropout::cpu
