// What the torch side of the CUDA path knows of the kernels: plain structs and launch functions. No
// torch header here, so that the kernels compile with the toolkit alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/fast_divisor.h"
#include "math/dtype.h"
#include "math/philox.h"

struct CUstream_st;  // CUDA's

namespace fused_dropout::cuda {

// Where the state of the generator comes from. Values, or addresses on the device that are read
// when the kernel runs: a tensor `rng_state`, or what a graph capture has registered.
struct RandomState {
  bool indirect = false;
  union {
    uint64_t seed = 0;
    const int64_t* seed_address;
  };
  union {
    uint64_t offset = 0;
    const int64_t* offset_address;
  };
  uint64_t added_offset = 0;      // to the number at offset_address
  int64_t* written_to = nullptr;  // gets seed and offset, for backward

  static RandomState at(const int64_t* rng_state, int64_t stride) {
    RandomState state;
    state.indirect = true;
    state.seed_address = rng_state;
    state.offset_address = rng_state + stride;
    return state;
  }
};

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The most dimensions that are left of a mask's after neighbours have been collapsed.
constexpr int kMaxMaskDims = 12;

enum class MaskKind : int {
  kKeepAll,
  kMemoryOrder,  // the mask index is the place in memory, plus `first`
  kStrided,
};

struct MaskIndexing {
  MaskKind kind = MaskKind::kKeepAll;
  uint32_t threshold = 0;  // keep_count in the upper half; unused where everything is kept
  int64_t first = 0;
  // Of kStrided, outermost dimension first.
  int ndim = 0;
  int64_t sizes[kMaxMaskDims];
  int64_t strides[kMaxMaskDims];
  Divisor by_size[kMaxMaskDims];

  void set_keep_count(uint32_t keep_count) { threshold = keep_count << 16; }
  void add_dimension(int64_t size, int64_t stride) {
    sizes[ndim] = size;
    strides[ndim] = stride;
    by_size[ndim++] = Divisor(size);
  }
};

// The place of an element in memory is row * period + column, where the bias repeats with every
// row: its channel is column / inner % channels. `period` may span several repetitions, so that
// narrow tensors keep whole thread blocks busy.
struct Layout {
  int64_t numel = 0;
  int64_t period = 1;
  int64_t inner = 1;
  int64_t channels = 1;
  Divisor by_inner, by_repetition;  // inner and channels * inner
  int64_t rows() const { return (numel + period - 1) / period; }
};

// A vector of numbers beside x: a bias, a weight, a scale.
struct Vector {
  const void* values = nullptr;  // null for none
  bool wide = false;             // fp32, while x is not
  // Whether every group of elements has eight neighbours of it, at an aligned address. Set by the
  // launch functions of the kernels that ask.
  bool in_groups = false;
};

// A number that kernels compute with, as both of the types that they compute in.
struct Number {
  float single = 0;
  double wide = 0;
  Number() = default;
  Number(double value) : single(static_cast<float>(value)), wide(value) {}
};

using Stream = ::CUstream_st*;

// How memory is cut into rows for a bias of `channels` values that repeats every channels * inner
// elements (1 and numel without a bias).
Layout layout_for(int64_t numel, int64_t channels, int64_t inner);

constexpr int kMostVectors = 4;

// Partial sums of up to so many vectors that lie one after the other: of each `copies` repetitions
// of channels * inner numbers, fp32, or fp64 for fp64.
struct ColumnSums {
  const void* partials;
  Layout layout;
  int64_t copies;
  int vectors = 1;
  void* targets[kMostVectors];
};

// Those that the kernels which walk over a layout write: this many rows, of `period` numbers each.
// It depends on the shape alone, and so do the bits of a gradient.
int64_t partial_rows(const Layout& layout);
inline int64_t copies_in(const Layout& layout) {
  return partial_rows(layout) * (layout.period / (layout.channels * layout.inner));
}
// Whether there is one partial sum for each channel, which is then the total.
inline bool are_totals(const Layout& layout) { return layout.inner == 1 && copies_in(layout) == 1; }

// Adds the partial sums up, in fixed order, into vectors of `channels` numbers.
void launch_column_sums(const ColumnSums& sums, bool fp64_partials, Storage storage, Stream stream);
void launch_mask(const MaskIndexing& mask, const RandomState& random, int64_t numel, bool* kept,
                 Stream stream);
// Writes the state to its `written_to`.
void launch_state(const RandomState& random, Stream stream);

}  // namespace fused_dropout::cuda
