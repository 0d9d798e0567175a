#include "cuda/kernel_args.h"

#include <c10/cuda/CUDAStream.h>

namespace fused_dropout::cuda {

Stream stream_of(const Tensor& tensor) {
  return c10::cuda::getCurrentCUDAStream(tensor.device().index()).stream();
}

RandomState state_at(const Tensor& rng_state) {
  if (!rng_state.is_cpu()) {
    return RandomState::at(rng_state.const_data_ptr<int64_t>(), rng_state.stride(0));
  }
  const PhiloxState state = read_rng_state(rng_state);
  return RandomState::of(state.seed, state.offset);
}

RandomState state_for(const CallParams& call, const OptionalTensor& rng_state,
                      const DropConstants& constants, const Tensor& x) {
  if (!draws(constants) || x.numel() == 0) return {};
  TORCH_CHECK_VALUE(rng_state, call.function,
                    ": rng_state is None, but a probability between 0 and 1 needs one");
  return state_at(*rng_state);
}

MaskIndexing mask_indexing(const MaskLayout& layout, uint32_t keep_count) {
  MaskIndexing indexing;
  indexing.set_keep_count(keep_count);
  indexing.first = layout.first;
  if (keep_count == 65536) return indexing;
  if (layout.in_memory_order()) {
    indexing.kind = MaskKind::kMemoryOrder;
    return indexing;
  }
  indexing.kind = MaskKind::kStrided;
  for (size_t dim = 0; dim < layout.sizes.size(); ++dim) {
    indexing.add_dimension(layout.sizes[dim], layout.strides[dim]);
  }
  return indexing;
}

at::ScalarType vector_dtype(at::ScalarType given, at::ScalarType x_dtype) {
  return given == x_dtype || given == at::kFloat ? given : arithmetic_of(x_dtype);
}

Tensor vector_for(const OptionalTensor& given, at::ScalarType x_dtype) {
  return given ? given->to(vector_dtype(given->scalar_type(), x_dtype)).contiguous() : Tensor();
}

VectorOperand vector_argument(const Tensor& vector, at::ScalarType x_dtype) {
  if (!vector.defined()) return {};
  return {vector.const_data_ptr(), vector.scalar_type() != x_dtype};
}

}  // namespace fused_dropout::cuda
