// How a kernel finds the random draw, the bias and the row of an element. Used by all kernel
// families, and by the host code that calls them (kernel_args.h, column_sums.h). No torch header.
#pragma once

#include <cstddef>
#include <cstdint>

#include "math/philox.h"

namespace fused_dropout::cpu {

// Kernels work on chunks of this many elements: the draws and the broadcast bias of one chunk fit
// into the L1 cache.
constexpr int kChunk = 512;
// Kernels read buffers in full registers, so buffers have this many numbers behind their contents.
constexpr int kPadding = 64;

// Maps a position in memory order to its mask index, which selects the random draw. `sizes` are the
// collapsed dimensions of the tensor, outermost first; `strides` are the strides of the mask index
// along them.
struct MaskIndexing {
  PhiloxState state{};
  uint32_t keep_count = 65536;  // an element is kept if its draw is smaller
  int64_t first = 0;            // mask index of the first element
  int ndim = 0;
  const int64_t* sizes = nullptr;
  const int64_t* strides = nullptr;

  bool draws() const { return keep_count < 65536; }
};

// A bias that repeats over memory: the element at `position` takes
// values[(position / inner) % channels], with channels = period / inner. If inner is small, the
// host unrolls the bias to one period: `values` then has `period` numbers (a multiple of
// channels * inner, at least kChunk), followed by their first kChunk + kPadding numbers again, and
// inner is 1. Values are float, or double for fp64.
struct BiasIndexing {
  const void* values = nullptr;
  int64_t period = kChunk;
  int64_t inner = 1;
};

// The rows and columns that one call of a row kernel works on.
struct RowRange {
  int64_t first_row, last_row;
  int64_t first_column, last_column;
};

// The sums over rows that a row kernel adds to: one vector of numbers for each gradient, null if
// that gradient is not needed. A gated kernel has one vector for each half of its bias.
struct ColumnSums {
  void* bias = nullptr;
  void* value_bias = nullptr;  // the second half of a gated bias
  void* layer_scale = nullptr;
  void* weight = nullptr;
  void* norm_bias = nullptr;
};

}  // namespace fused_dropout::cpu
