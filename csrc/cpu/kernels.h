// What the torch side of the CPU path knows of the kernels: plain structs and one table of function
// pointers per instruction set. No torch header here, so that the kernels compile in seconds.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../philox.h"
#include "../storage.h"

namespace fused_dropout::cpu {

// Elements handled at a time: random draws and broadcast biases of one block live in the L1 cache.
constexpr int kBlock = 512;
// Buffers read in whole registers are this much longer than their contents.
constexpr int kPadding = 64;

// Which random number decides about the element at a position in memory order: the collapsed
// dimensions of the tensor, outermost first, and the stride of the mask index along each.
struct MaskRule {
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
// least kBlock elements) and stored with kBlock + kPadding wrapped elements behind it; inner is 1
// then. Values are float, or double for fp64.
struct BiasRule {
  const void* values = nullptr;
  int64_t period = kBlock;
  int64_t inner = 1;
};

struct ForwardArgs {
  const void* x;
  const void* residual;
  void* y;
  BiasRule bias;
  MaskRule mask;
  double scale, shift, fill;
  double parameter;
  bool stream;  // store past the cache
};

struct BackwardArgs {
  const void* dy;
  const void* x;  // null where the derivative needs no input
  void* dx;       // null where no gradient by x is wanted
  BiasRule bias;
  MaskRule mask;
  double scale;
  double parameter;
  bool stream;
};

enum class Residual : int { kNone, kSame, kFloat32 };

using ForwardKernel = void (*)(const ForwardArgs&, int64_t begin, int64_t end);
// `partial` (may be null) has the layout of the bias values and is added to.
using BackwardKernel = void (*)(const BackwardArgs&, void* partial, int64_t begin, int64_t end);
using MaskKernel = void (*)(const MaskRule&, bool* kept, int64_t begin, int64_t end);

struct KernelTable {
  const char* name;
  ForwardKernel (*forward)(Storage storage, Residual residual, int activation);
  // `wide_gradient`: dy is fp32 while x is 16 bits wide.
  BackwardKernel (*backward)(Storage storage, bool wide_gradient, bool sum_bias, int activation);
  MaskKernel mask;
};

const KernelTable* baseline_kernels();
const KernelTable* avx2_kernels();  // null where not compiled for this architecture
const KernelTable* avx512_kernels();

}  // namespace fused_dropout::cpu
