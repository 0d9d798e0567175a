// The torch side's view of memory: which kernel indexing serves which tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "cpu/kernel_table.h"
#include "ops/common/layout.h"

namespace fused_dropout::cpu {

constexpr int64_t kGrain = 32768;  // elements worth a thread, as in torch

// Calls range(begin, end) for parts of `numel` elements that begin at a block, in several threads.
void for_each_chunk(int64_t numel, const std::function<void(int64_t, int64_t)>& range);

// The numbers of rng_state, where any are drawn.
PhiloxState state_for(const CallParams& call, const OptionalTensor& rng_state,
                      const DropConstants& constants, const Tensor& x);

// What draws are compared with.
uint32_t threshold_of(uint32_t keep_count);

// The indexing points into the layout.
MaskIndexing mask_indexing(const MaskLayout& layout, uint32_t keep_count, PhiloxState state);

// How a bias along one dimension of a dense tensor repeats over memory.
struct BiasLayout {
  BiasLayout(at::IntArrayRef sizes, at::IntArrayRef strides, int64_t dim);

  // The bias values in arithmetic precision, as BiasIndexing wants them.
  Tensor expand(const Tensor& bias, at::ScalarType arithmetic) const;
  BiasIndexing indexing(const Tensor& values) const;
  // How many numbers `values` and the accumulators of the bias gradient have.
  int64_t length() const { return unrolled() ? period + kChunk + kPadding : channels; }
  bool unrolled() const { return inner < kLongRun; }

  // Runs of at least this many elements are cheaper to cut than to unroll.
  static constexpr int64_t kLongRun = 64;

  int64_t channels;
  int64_t inner;
  int64_t period;
};

// Uninitialised. Small calls make several of these: the dispatcher would cost more than the rest.
Tensor empty_vector(int64_t length, at::ScalarType dtype);

// A vector along rows as the row kernels want it; one that changes nothing where none is given.
Tensor row_vector(const OptionalTensor& given, double neutral, int64_t length,
                  at::ScalarType arithmetic);

}  // namespace fused_dropout::cpu
