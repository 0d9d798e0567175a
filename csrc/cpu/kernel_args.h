// From tensors to kernel arguments: how the host code of the CPU operators describes masks, biases
// and vectors to the kernels, and how it divides elementwise work among threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "cpu/indexing.h"
#include "ops/common/layout.h"
#include "ops/random.h"

namespace fused_dropout::cpu {

constexpr int64_t kGrain = 32768;  // least number of elements for a thread, as in torch

// Calls range(begin, end) for parts of `numel` elements, in several threads. Each part begins at
// the beginning of a chunk.
void for_each_chunk(int64_t numel, const std::function<void(int64_t, int64_t)>& range);

// The seed and offset in `rng_state`, or zeros if the call draws nothing. Raises an error if the
// call draws and there is no `rng_state`.
PhiloxState state_for(const CallParams& call, const OptionalTensor& rng_state,
                      const DropConstants& constants, const Tensor& x);

// The number that kernels compare draws with: `keep_count`, except in a build with mutations.
uint32_t threshold_of(uint32_t keep_count);

// The result points into `layout`.
MaskIndexing mask_indexing(const MaskLayout& layout, uint32_t keep_count, PhiloxState state);

// How a bias along dimension `dim` of a dense tensor repeats over memory.
struct BiasLayout {
  BiasLayout(at::IntArrayRef sizes, at::IntArrayRef strides, int64_t dim);

  // The bias in arithmetic precision, unrolled if the kernel wants it so (see BiasIndexing).
  Tensor expand(const Tensor& bias, at::ScalarType arithmetic) const;
  // For the result of `expand`, or for an undefined tensor if there is no bias.
  BiasIndexing indexing(const Tensor& values) const;
  // The length of the result of `expand` and of the sums of the bias gradient.
  int64_t length() const { return unrolled() ? period + kChunk + kPadding : channels; }
  bool unrolled() const { return inner < kLongRun; }

  // If at least this many neighbours share a bias value, going through them run by run costs less
  // than unrolling the bias.
  static constexpr int64_t kLongRun = 64;

  int64_t channels;
  int64_t inner;   // neighbours in memory that share a bias value
  int64_t period;  // elements after which the bias repeats
};

// An uninitialised CPU vector, without a call of the dispatcher: in small calls, which make several
// vectors, the dispatcher would take most of the time.
Tensor empty_vector(int64_t length, at::ScalarType dtype);

// A vector along a row as the row kernels expect it: in arithmetic precision, with padding. If
// `given` is empty, the vector is filled with `neutral`.
Tensor row_vector(const OptionalTensor& given, double neutral, int64_t length,
                  at::ScalarType arithmetic);

}  // namespace fused_dropout::cpu
