// The random numbers of the composite kernels: the contract of math/philox.h made of plain torch
// operators. Philox runs once for each group of mask indices, not for each element.
#pragma once

#include <array>
#include <functional>
#include <vector>

#include "math/philox.h"
#include "ops/common/arguments.h"

namespace fused_dropout {

// The mask indices of a tensor: `first`, and a stride along each dimension, 0 along shared ones.
struct MaskIndices {
  std::vector<c10::SymInt> sizes, strides;
  c10::SymInt first;
};

// Those of a tensor with these sizes and dense strides.
MaskIndices mask_indices(const CallParams& call, at::SymIntArrayRef sizes,
                         at::SymIntArrayRef strides);

// The words of groups, int64 tensors of one shape of which the low 32 bits count.
using WordsOfGroup = std::array<Tensor, 4>;
// From the words of groups to the value of each slot, tensors of the shape of the words.
using ValuesOfSlots = std::function<std::vector<Tensor>(const WordsOfGroup&)>;

// The value of each mask index, of which a group has `slots`: index j has slot j % slots of group
// j / slots. The shape broadcasts to the sizes, with 1 along shared dimensions; like the indices,
// it is laid out along the strides. rng_state may be batched, and on the CPU.
Tensor values_at(const Tensor& rng_state, const MaskIndices& indices, at::Device device,
                 int64_t slots, const ValuesOfSlots& values_of);

// Whether the 16-bit draw of each mask index is less than keep_count, and the draw itself.
Tensor kept_at(const Tensor& rng_state, const MaskIndices& indices, at::Device device,
               uint32_t keep_count);
Tensor draws_at(const Tensor& rng_state, const MaskIndices& indices, at::Device device,
                at::ScalarType dtype);

}  // namespace fused_dropout
