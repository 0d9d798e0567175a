// The geometry and the formulas of DropBlock (Ghiasi, Lin and Le, "DropBlock: a regularization
// method for convolutional networks", NeurIPS 2018). Used by the kernels of all devices and by the
// operators in ops/.
//
// A block begins at its seed, and everything in it is dropped. Whether a position is a seed follows
// from the random-number contract as for a dropped element, with the probability of a seed instead
// of p. Only positions at which a full block fits can be seeds, and the mask index counts these.
#pragma once

#include "math/activations.h"
#include "math/elementwise.h"

namespace fused_dropout::drop_block {

constexpr int kMaxAxes = 3;

// One spatial dimension.
struct Axis {
  int64_t size = 1;
  int64_t block = 1;  // length of a block, at most `size`

  // The number of positions that can be seeds: 0 to seeds() - 1.
  FD_HD int64_t seeds() const { return size - block + 1; }
  // The first seed whose block contains `position` or ends after it.
  FD_HD int64_t first_seed(int64_t position) const {
    return position < block ? 0 : position - block + 1;
  }
};

// The memory layout of a tensor that is not empty: volumes of up to three spatial dimensions.
//
// A decision is one value of the mask. A position in a volume has `inner` decisions, for instance
// one for each channel of a channels-last tensor. A decision holds for `run` neighbouring elements,
// and for the same elements of all copies of the volume: channels that share the mask.
struct Geometry {
  int64_t volumes = 1;        // with seeds of their own
  int64_t copies = 1;         // of each volume
  int64_t volume_stride = 0;  // in elements
  int64_t copy_stride = 0;
  int ndim = 0;
  Axis axes[kMaxAxes];  // slowest first; axes from ndim on have one position
  int64_t inner = 1;
  int64_t run = 1;
  uint32_t keep_count = 65536;  // a position is no seed with the probability keep_count / 65536

  // Decisions and seeds of one volume. The mask indices of the seeds continue those of the previous
  // volume.
  FD_HD int64_t decisions() const { return axes[0].size * axes[1].size * axes[2].size * inner; }
  FD_HD int64_t seeds() const {
    return axes[0].seeds() * axes[1].seeds() * axes[2].seeds() * inner;
  }
  // The number of elements that one decision keeps or drops.
  FD_HD int64_t elements_per_decision() const { return copies * run; }
  FD_HD int64_t numel() const { return volumes * decisions() * elements_per_decision(); }
};

FD_HD bool is_seed(uint32_t draw, uint32_t keep_count) { return !is_kept(draw, keep_count); }

// The probability of a seed for which blocks would drop a share p of all positions, if they did not
// overlap.
inline double seed_probability(double p, const Axis* axes, int ndim) {
  double positions = 1, covered = 1;
  for (int dim = 0; dim < ndim; ++dim) {
    positions *= static_cast<double>(axes[dim].size);
    covered *= static_cast<double>(axes[dim].block) * static_cast<double>(axes[dim].seeds());
  }
  return p * positions / covered;
}

// The factor that restores the expectation: all elements over kept elements. If none is kept, every
// element is dropped and the factor does not matter.
FD_HD double scale_of(int64_t numel, int64_t kept) {
  return kept > 0 ? static_cast<double>(numel) / static_cast<double>(kept) : 0.0;
}

// Scales a kept element; a dropped one becomes zero.
template <class V, class Keep>
FD_HD V element(V x, Keep keep, V scale) {
  return forward_element<Identity<Full>>(x, keep, scale, V(-0.0f), V(0.0f), V(0.0f));
}

}  // namespace fused_dropout::drop_block
