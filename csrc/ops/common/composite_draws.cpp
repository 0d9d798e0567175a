#include "ops/common/composite_draws.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "ops/common/mask_layout.h"

namespace fused_dropout {
namespace {

// The functions of philox.h for tensors. Their names are looked up in the namespace of the types.
namespace words {

// Unsigned 32-bit words in int64 tensors, so that any device can draw. Only the low half counts:
// the upper one holds what is left there, until a product needs it to be zero.
struct Words {
  Tensor tensor;
};
constexpr int64_t kWordBits = 0xFFFFFFFF;

// Products wrap around at 64 bits, which leaves both of their halves right.
struct Product {
  Tensor tensor;
};
Product multiply_wide(const Words& a, uint32_t b) {
  return {a.tensor.bitwise_and(kWordBits) * static_cast<int64_t>(b)};
}
Words low_word(const Product& product) { return {product.tensor}; }
Words high_word(const Product& product) { return {at::bitwise_right_shift(product.tensor, 32)}; }
Words operator^(const Words& a, const Words& b) { return {a.tensor.bitwise_xor(b.tensor)}; }
Words next_key(const Words& key, uint32_t step) {
  return {key.tensor + static_cast<int64_t>(step)};
}

}  // namespace words

using words::Words;

WordsOfGroup words_of_group(const Tensor& rng_state, const Tensor& group) {
  const Tensor state = rng_state.to(group.device());
  const Tensor seed = state.select(0, 0);
  const Tensor call = at::bitwise_right_shift(state.select(0, 1), 2);
  const auto high = [](const Tensor& tensor) { return Words{at::bitwise_right_shift(tensor, 32)}; };
  const auto bits =
      philox(PhiloxWords<Words>{{call}, high(call), {group}, high(group)}, Words{seed}, high(seed));
  return {bits.x.tensor, bits.y.tensor, bits.z.tensor, bits.w.tensor};
}

// Dimensions along which mask indices follow each other without gaps, outermost first, and the
// other ones that share nothing.
struct Run {
  std::vector<int64_t> dims, others;
  c10::SymInt length = 1;

  explicit Run(const MaskIndices& indices) {
    for (size_t dim = 0; dim < indices.sizes.size(); ++dim) {
      const bool has_one_index = TORCH_GUARD_OR_FALSE(indices.strides[dim].sym_eq(0)) ||
                                 TORCH_GUARD_OR_FALSE(indices.sizes[dim].sym_eq(1));
      if (!has_one_index) others.push_back(static_cast<int64_t>(dim));
    }
    const auto follows = [&](int64_t dim) {
      return TORCH_GUARD_OR_FALSE(indices.strides[dim].sym_eq(length));
    };
    for (;;) {
      const auto next = std::find_if(others.begin(), others.end(), follows);
      if (next == others.end()) return;
      length = length * indices.sizes[*next];
      dims.insert(dims.begin(), *next);
      others.erase(next);
    }
  }
};

// The first index of each run, along the other dimensions.
Tensor starts_of(const Run& run, const MaskIndices& indices, const at::TensorOptions& options) {
  Tensor starts = at::full_symint({}, indices.first, options);
  for (const int64_t dim : run.others) {
    const Tensor steps = at::arange(indices.sizes[dim], options) *
                         at::full_symint({}, indices.strides[dim], options);
    starts = starts.unsqueeze(-1) + steps;
  }
  return starts;
}

// Splits the last dimension, and brings all dimensions into the order of the tensor.
Tensor unfold(const Tensor& values, const Run& run, const MaskIndices& indices) {
  std::vector<int64_t> order = run.others;
  order.insert(order.end(), run.dims.begin(), run.dims.end());
  std::vector<c10::SymInt> sizes;
  for (const int64_t dim : order) sizes.push_back(indices.sizes[dim]);
  std::vector<int64_t> positions(order.size());
  const auto rank_of = [&](int64_t dim) {
    return std::count_if(order.begin(), order.end(), [&](int64_t other) { return other < dim; });
  };
  for (size_t i = 0; i < order.size(); ++i) positions[rank_of(order[i])] = static_cast<int64_t>(i);
  Tensor result = values.reshape_symint(sizes).permute(positions);
  for (size_t dim = 0; dim < indices.sizes.size(); ++dim) {
    const bool is_there = std::find(order.begin(), order.end(), dim) != order.end();
    if (!is_there) result = result.unsqueeze(static_cast<int64_t>(dim));
  }
  return result;
}

}  // namespace

MaskIndices mask_indices(const CallParams& call, at::SymIntArrayRef sizes,
                         at::SymIntArrayRef strides) {
  return {
      sizes.vec(),
      call.mask_strides ? *call.mask_strides : mask_strides_of(sizes, strides, call.shared_dims),
      call.mask_offset};
}

Tensor values_at(const Tensor& rng_state, const MaskIndices& indices, at::Device device,
                 int64_t slots, const ValuesOfSlots& values_of) {
  const auto options = at::TensorOptions().dtype(at::kLong).device(device);
  const Run run(indices);
  // Whether all runs begin at the same slot.
  const bool aligned = std::all_of(run.others.begin(), run.others.end(), [&](int64_t dim) {
    return TORCH_GUARD_OR_FALSE((indices.strides[dim] % slots).sym_eq(0));
  });
  const c10::SymInt first_slot = aligned ? indices.first % slots : c10::SymInt(slots - 1);
  const c10::SymInt count = (first_slot + run.length + (slots - 1)) / slots;
  Tensor starts, group;
  if (run.others.empty()) {
    const c10::SymInt first = indices.first / slots;
    group = at::arange(first, first + count, options);
  } else {
    starts = starts_of(run, indices, options).unsqueeze(-1);
    group = starts.floor_divide(slots) + at::arange(count, options);
  }
  const Tensor values = at::stack(values_of(words_of_group(rng_state, group)), -1).flatten(-2);
  if (aligned) return unfold(values.narrow_symint(-1, first_slot, run.length), run, indices);
  const Tensor slot = starts.remainder(slots) + at::arange(run.length, options);
  return unfold(values.gather(-1, slot), run, indices);
}

Tensor kept_at(const Tensor& rng_state, const MaskIndices& indices, at::Device device,
               uint32_t keep_count) {
  return values_at(rng_state, indices, device, kGroupSize, [&](const WordsOfGroup& words) {
    std::vector<Tensor> kept;
    for (const Tensor& word : words) {
      kept.push_back(word.bitwise_and(0xFFFF) < static_cast<int64_t>(keep_count));
      kept.push_back(word.bitwise_and(0xFFFF0000) < static_cast<int64_t>(keep_count) << 16);
    }
    return kept;
  });
}

Tensor draws_at(const Tensor& rng_state, const MaskIndices& indices, at::Device device,
                at::ScalarType dtype) {
  return values_at(rng_state, indices, device, kGroupSize, [&](const WordsOfGroup& words) {
    std::vector<Tensor> draws;
    for (const Tensor& word : words) {
      draws.push_back(word.bitwise_and(0xFFFF).to(dtype));
      draws.push_back(at::bitwise_right_shift(word, 16).bitwise_and(0xFFFF).to(dtype));
    }
    return draws;
  });
}

}  // namespace fused_dropout
