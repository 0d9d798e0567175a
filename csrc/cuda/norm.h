// Arguments and launch functions of the norm kernels: h = residual + branch, y = norm(h) * weight +
// norm_bias, and their gradients. The branch is drop(act(x + bias)) * layer_scale * row_scale.
#pragma once

#include "cuda/launch_types.h"

namespace fused_dropout::cuda {

// The longest row that the kernels can keep in registers.
constexpr int64_t kMaxWidth = 16384;

struct BranchArgs {
  const void* x;
  VectorOperand bias, layer_scale;
  VectorOperand row_scale;  // one factor for each row
  RandomState random;
  MaskIndexing mask;
  Number scale, shift, fill;
  Number parameter;
  int activation;
};

struct NormArgs {
  BranchArgs branch;
  int64_t rows;
  int width;
  bool centered;  // true for LayerNorm, false for RMSNorm
  VectorOperand weight;
  const void* residual;  // null if the call has none
  // How many 16-byte words of each row a thread copies to shared memory, in kernels with 16-byte
  // accesses. The launch functions set it.
  int staged_words = 0;
};

struct NormForwardArgs : NormArgs {
  Number eps;
  VectorOperand norm_bias;
  void* y;
  void* h;     // null if h is not a result
  void* mean;  // used if `centered`
  void* rstd;

  FD_HD const void* residual_or_h() const { return residual; }
};

enum NormVector { kBias, kLayerScale, kWeight, kNormBias, kNormVectors };

struct NormBackwardArgs : NormArgs {
  const void* dy;
  const void* dh;  // null if h was not a result
  const void* h;   // null if it was not stored: kernels compute it again from x and residual
  const void* mean;
  const void* rstd;
  void* dx;         // null if not wanted
  void* dresidual;  // null if not wanted
  // The index of each vector's gradient among the `vectors` wanted ones; -1 if it is not wanted.
  int index_of[kNormVectors];
  int vectors;
  void* partials;  // norm_partial_rows rows of `width` numbers for each wanted gradient
  void* scratch;   // norm_scratch_bytes bytes; null if that is 0

  FD_HD const void* residual_or_h() const { return h ? h : residual; }
};

// With x of 16 bits, the residual and h may be fp32 (`wide_h`), and y may be fp32 too (`wide_y`).
struct NormTypes {
  Storage x;
  bool wide_h, wide_y;

  Storage h() const { return wide_h ? Storage::kFloat32 : x; }
  Storage y() const { return wide_y ? Storage::kFloat32 : x; }
};

int64_t norm_partial_rows(int64_t rows, int width);
// Bytes of device memory for column sums that do not fit into shared memory. All other members of
// `args` have to be set.
int64_t norm_scratch_bytes(const NormBackwardArgs& args, const NormTypes& types);

void launch_norm_forward(const NormForwardArgs& args, const NormTypes& types, Stream stream);
void launch_norm_backward(const NormBackwardArgs& args, const NormTypes& types, Stream stream);

// The same for one choice of types: T of x, H of residual and h, Y of y.
template <class T, class H, class Y>
void norm_forward_of(const NormForwardArgs& args, Stream stream);
template <class T, class H, class Y>
void norm_backward_of(const NormBackwardArgs& args, Stream stream);

}  // namespace fused_dropout::cuda
