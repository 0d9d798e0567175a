// The interface between the host side of the CUDA operators and the kernels: plain argument structs
// and launch functions. This header and those that it includes use no torch headers, so that the
// kernels compile with the CUDA toolkit alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/fast_divisor.h"
#include "math/dtype.h"
#include "math/philox.h"

struct CUstream_st;  // declared by CUDA: cudaStream_t is a pointer to it

namespace fused_dropout::cuda {

// Seed and offset of the random generator. They are values, or addresses in device memory that the
// kernel reads when it runs: those of an `rng_state` tensor, or of the generator's state during
// CUDA graph capture.
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
  uint64_t added_offset = 0;  // added to the number at offset_address

  static RandomState of(uint64_t seed, uint64_t offset) {
    RandomState state;
    state.seed = seed;
    state.offset = offset;
    return state;
  }
  static RandomState at(const int64_t* rng_state, int64_t stride) {
    RandomState state;
    state.indirect = true;
    state.seed_address = rng_state;
    state.offset_address = rng_state + stride;
    return state;
  }
};

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The most dimensions that a mask may have after adjacent dimensions have been collapsed.
constexpr int kMaxMaskDims = 12;

enum class MaskKind : int {
  kKeepAll,
  kMemoryOrder,  // the mask index of an element is its offset in memory plus `first`
  kStrided,
};

// The mask index of each element of a tensor.
struct MaskIndexing {
  MaskKind kind = MaskKind::kKeepAll;
  uint32_t threshold = 0;  // keep_count in the upper 16 bits; unused with kKeepAll
  int64_t first = 0;
  // Used with kStrided only; the outermost dimension comes first.
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

// Memory seen as rows of `period` elements, so that every row has the same bias values in the same
// columns. The element at offset row * period + column has channel column / inner % channels.
// `period` may span several repetitions of the bias, so that narrow tensors keep all threads of a
// thread block busy.
struct Layout {
  int64_t numel = 0;
  int64_t period = 1;
  int64_t inner = 1;
  int64_t channels = 1;
  Divisor by_inner, by_repetition;  // divide by inner and by channels * inner
  int64_t rows() const { return (numel + period - 1) / period; }
};

// A 1-D tensor beside x: a bias, a weight, a layer scale, or a factor for each row.
struct VectorOperand {
  const void* values = nullptr;  // null if the call has no such operand
  bool wide = false;             // fp32 while x has 16 bits
  // Every group of eight elements of x has eight adjacent values of this vector, at an address that
  // is aligned to 16 bytes. The launch functions set it for the kernels that read it.
  bool vectorised = false;
};

// A scalar argument, in both types that kernels compute with.
struct Number {
  float fp32 = 0;
  double fp64 = 0;
  Number() = default;
  Number(double value) : fp32(static_cast<float>(value)), fp64(value) {}
};

using Stream = ::CUstream_st*;

// The layout for a bias of `channels` values that repeats every channels * inner elements. Without
// a bias, `channels` is 1 and `inner` is arbitrary.
Layout layout_for(int64_t numel, int64_t channels, int64_t inner);

constexpr int kMaxVectors = 4;

// Partial sums of up to kMaxVectors vector gradients, stored one after the other. Each of them has
// `copies` repetitions of channels * inner numbers, in fp32, or in fp64 for fp64 tensors.
struct ColumnSums {
  const void* partials;
  Layout layout;
  int64_t copies;
  int vectors = 1;
  void* targets[kMaxVectors];
};

// How many rows of `period` partial sums the backward kernels with a column loop write. The number
// depends on the shape alone, so that the bits of a gradient do too.
int64_t partial_rows(const Layout& layout);
// `copies` of ColumnSums for these rows.
inline int64_t partial_copies(const Layout& layout) {
  return partial_rows(layout) * (layout.period / (layout.channels * layout.inner));
}
// True if each channel has a single partial sum, which is then the gradient itself.
inline bool partials_are_totals(const Layout& layout) {
  return layout.inner == 1 && partial_copies(layout) == 1;
}

// Adds the partial sums of each channel in a fixed order. Each target has `channels` numbers.
void launch_column_sums(const ColumnSums& sums, bool fp64_partials, Storage storage, Stream stream);
// Writes which elements a mask keeps.
void launch_mask(const MaskIndexing& mask, const RandomState& random, int64_t numel, bool* kept,
                 Stream stream);
// Writes seed and offset to `rng_state`.
void launch_state(const RandomState& random, int64_t* rng_state, Stream stream);

}  // namespace fused_dropout::cuda
