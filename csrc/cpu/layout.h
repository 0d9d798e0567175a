// The torch side's view of memory: which kernel rule serves which tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "../ops.h"
#include "kernels.h"

namespace fused_dropout::cpu {

Storage storage_of(at::ScalarType dtype);

// The mask's rule over memory order for a dense tensor, neighbouring dimensions collapsed.
class MaskLayout {
 public:
  MaskLayout(const Resolved& call, at::IntArrayRef sizes, at::IntArrayRef strides);

  MaskRule rule(uint32_t keep_count, PhiloxState state) const;

 private:
  void collapse(at::IntArrayRef sizes, at::IntArrayRef strides, at::IntArrayRef mask_strides);

  int64_t first_;
  std::vector<int64_t> sizes_;
  std::vector<int64_t> strides_;
};

// How a bias along one dimension of a dense tensor repeats over memory.
struct BiasLayout {
  BiasLayout(at::IntArrayRef sizes, at::IntArrayRef strides, int64_t dim);

  // The bias values in arithmetic precision, as BiasRule wants them.
  Tensor expand(const Tensor& bias, at::ScalarType arithmetic) const;
  BiasRule rule(const Tensor& values) const;
  // How many numbers `values` and the accumulators of the bias gradient have.
  int64_t length() const { return unrolled() ? period + kBlock + kPadding : channels; }
  bool unrolled() const { return inner < kLongRun; }

  // Runs of at least this many elements are cheaper to cut than to unroll.
  static constexpr int64_t kLongRun = 64;

  int64_t channels;
  int64_t inner;
  int64_t period;
};

}  // namespace fused_dropout::cpu
