// The gradient of the gradient of the pointwise operator.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/ThreadLocalState.h>

#include <algorithm>

#include "math/activations.h"
#include "ops/common/autograd.h"
#include "ops/common/composite.h"
#include "ops/common/mask_layout.h"
#include "ops/pointwise.h"

namespace fused_dropout::pointwise {
namespace {

// Elements of a piece, see below: its temporaries fit into a core's cache.
constexpr int64_t kPieceElements = 32768;

// The gradient of x + bias, in the dtype of the arithmetic. `strides`: the order in memory that the
// mask is for.
Tensor second_order(const CallParams& call, at::SymIntArrayRef strides,
                    const OptionalTensor& rng_state, const Tensor& g, const Tensor& dy,
                    const Tensor& input, const OptionalTensor& bias) {
  const DropConstants constants = call.constants();
  const at::ScalarType arithmetic = arithmetic_of(input.scalar_type());
  Tensor upstream = g.to(arithmetic) * dy.to(arithmetic) * constants.scale;
  Tensor z = add_bias(input.to(arithmetic), bias, call.bias_dim);
  if (constants.keep_count < 65536) {
    const Tensor kept = mask_for(call, constants, rng_state, dy, strides);
    upstream = at::where(kept, upstream, 0.);
    z = at::where(kept, z, 0.);
  }
  const Tensor dz = activation_second_order(call, upstream, z);
  return dz.defined() ? dz : at::zeros_like(z);
}

// The dimension along which a call is cut, so that each piece has the whole bias: the longest.
int64_t dim_of_pieces(const Tensor& input, const OptionalTensor& bias, int64_t bias_dim) {
  int64_t longest = -1;
  for (int64_t dim = 0; dim < input.dim(); ++dim) {
    if (bias && dim == bias_dim) continue;
    if (longest < 0 || input.size(dim) > input.size(longest)) longest = dim;
  }
  return longest;
}

// Whether nothing records the operators of a call on the CPU.
template <class... Tensors>
bool is_unrecorded(const Tensors&... tensors) {
  return ((tensors.is_cpu() && is_plain_call(tensors)) && ...) && !needs_graph(tensors...) &&
         !has_tangents(tensors...);
}

}  // namespace

Gradients compose_second_order(const Tensor& g, const Tensor& dy, const Tensor& input,
                               const OptionalTensor& bias, const OptionalTensor& rng_state,
                               const Options& options, const Gradient& gradient,
                               std::array<bool, 2> output_mask) {
  const CallParams call = check_backward(dy, input, bias, rng_state, options, gradient);
  const auto [needs_dx, needs_dbias] = output_mask;
  int64_t dim = -1;
  if (is_unrecorded(g, dy, input, bias.value_or(input)) && input.numel() >= 2 * kPieceElements) {
    dim = dim_of_pieces(input, bias, call.bias_dim);
  }
  if (dim < 0) {
    const Tensor dz = second_order(call, gradient.strides, rng_state, g, dy, input, bias);
    return {needs_dx ? dz.to(input.scalar_type()) : Tensor(),
            needs_dbias ? sum_along(dz, call.bias_dim).to(bias->scalar_type()) : Tensor()};
  }

  // The temporaries of a piece stay in the caches.
  const int64_t size = input.size(dim);
  const int64_t rows = std::max<int64_t>(1, kPieceElements / (input.numel() / size));
  const int64_t pieces = (size + rows - 1) / rows;
  std::vector<c10::SymInt> mask_strides =
      call.mask_strides ? *call.mask_strides
                        : mask_strides_of(input.sym_sizes(), gradient.strides, call.shared_dims);
  const Tensor dx = needs_dx ? at::empty_like(input) : Tensor();
  const Tensor sums = needs_dbias
                          ? at::empty({pieces, bias->numel()},
                                      input.options().dtype(arithmetic_of(input.scalar_type())))
                          : Tensor();
  const at::ThreadLocalState state;
  at::parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
    const at::ThreadLocalStateGuard guard(state);
    CallParams part = call;
    part.mask_strides = mask_strides;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t start = i * rows, length = std::min(rows, size - start);
      const auto cut = [&](const Tensor& tensor) { return tensor.narrow(dim, start, length); };
      part.mask_offset = call.mask_offset + mask_strides[dim] * start;
      const Tensor dz =
          second_order(part, gradient.strides, rng_state, cut(g), cut(dy), cut(input), bias);
      if (needs_dx) cut(dx).copy_(dz);
      if (needs_dbias) sums[i].copy_(sum_along(dz, call.bias_dim));
    }
  });
  return {dx, needs_dbias ? sums.sum(0).to(bias->scalar_type()) : Tensor()};
}

}  // namespace fused_dropout::pointwise
