// How kernels of every family find an element's random number, its bias, its row and its sums.
#pragma once

#include <cstddef>
#include <cstdint>

#include "math/philox.h"

namespace fused_dropout::cpu {

// Elements handled at a time: random draws and broadcast biases of one block live in the L1 cache.
constexpr int kChunk = 512;
// Buffers read in whole registers are this much longer than their contents.
constexpr int kPadding = 64;

// Which random number decides about the element at a position in memory order: the collapsed
// dimensions of the tensor, outermost first, and the stride of the mask index along each.
struct MaskIndexing {
  PhiloxState state{};
  uint32_t keep_count = 65536;
  int64_t first = 0;
  int ndim = 0;
  const int64_t* sizes = nullptr;
  const int64_t* strides = nullptr;

  bool draws() const { return keep_count < 65536; }
};

// A bias that repeats over memory: element `position` takes values[(position / inner) % channels].
// Where inner is small, `values` is unrolled to one period (a multiple of channels * inner of at
// least kChunk elements) and stored with kChunk + kPadding wrapped elements behind it; inner is 1
// then. Values are float, or double for fp64.
struct BiasIndexing {
  const void* values = nullptr;
  int64_t period = kChunk;
  int64_t inner = 1;
};

// Which columns a row kernel sums up, each into a vector of its own (null where not wanted) that is
// added to. A gated kernel has the two halves of its bias.
struct ColumnSums {
  void* bias = nullptr;
  void* value_bias = nullptr;  // of the half that is not the first
  void* layer_scale = nullptr;
  void* weight = nullptr;
  void* norm_bias = nullptr;
};

// Which rows and columns a kernel works on.
struct RowRange {
  int64_t first_row, last_row;
  int64_t first_column, last_column;
};

}  // namespace fused_dropout::cpu
