// What the torch side knows of the normalised kernels: h = residual + branch, y = norm(h) * weight
// + norm_bias, where the branch is drop(act(x + bias)) * layer_scale * row_scale.
#pragma once

#include "cuda/launch_types.h"

namespace fused_dropout::cuda {

// The longest row that kernels can hold.
constexpr int64_t kMostWidth = 16384;

struct BranchArgs {
  const void* x;
  Vector bias, layer_scale;
  Vector row_scale;  // a number for each row
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
  bool centered;  // LayerNorm, else RMSNorm
  Vector weight;
  const void* residual;  // null for none
  // 16-byte words of a row for which a thread of a kernel with 16-byte accesses has a place in
  // shared memory. Set by the launch functions.
  int staged_words = 0;
};

struct NormForwardArgs : NormArgs {
  Number eps;
  Vector norm_bias;
  void* y;
  void* h;     // null where only y is a result
  void* mean;  // used where centered only
  void* rstd;

  FD_HD const void* residual_stream() const { return residual; }
};

enum NormVector { kBias, kLayerScale, kWeight, kNormBias, kNormVectors };

struct NormBackwardArgs : NormArgs {
  const void* dy;
  const void* dh;  // null for none
  const void* h;   // null where it is computed again, from x and residual
  const void* mean;
  const void* rstd;
  void* dx;         // null where not wanted
  void* dresidual;  // null where not wanted
  // Which of the vectors' gradients this is, of `vectors`; -1 where it is not wanted.
  int place_of[kNormVectors];
  int vectors;
  void* partials;  // norm_partial_rows rows of `width` for each of them
  void* scratch;   // null where norm_scratch is 0

  FD_HD const void* residual_stream() const { return h ? h : residual; }
};

// What is fp32 beside 16 bits: the stream (h and residual), and y with it.
struct NormTypes {
  Storage x;
  bool wide_h, wide_y;

  Storage h() const { return wide_h ? Storage::kFloat32 : x; }
  Storage y() const { return wide_y ? Storage::kFloat32 : x; }
};

int64_t norm_partial_rows(int64_t rows, int width);
// Bytes of device memory for sums that are too many for a thread block's own memory, of a call
// whose other arguments are known.
int64_t norm_scratch(const NormBackwardArgs& args, const NormTypes& types);

void launch_norm_forward(const NormForwardArgs& args, const NormTypes& types, Stream stream);
void launch_norm_backward(const NormBackwardArgs& args, const NormTypes& types, Stream stream);

// Both for one choice of types: of x, of the stream, and of y.
template <class T, class H, class Y>
void norm_forward_of(const NormForwardArgs& args, Stream stream);
template <class T, class H, class Y>
void norm_backward_of(const NormBackwardArgs& args, Stream stream);

}  // namespace fused_dropout::cuda
