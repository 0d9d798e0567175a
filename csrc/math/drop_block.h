// What DropBlock drops (Ghiasi, Lin and Le, "DropBlock: a regularization method for convolutional
// networks", NeurIPS 2018): a place is dropped if a seed lies in the block that ends there. Seeds
// are decided about as elements are, by the random-number contract, with gamma for p; the mask
// index runs over the places where a whole block fits.
#pragma once

#include "math/activations.h"
#include "math/elementwise.h"

namespace fused_dropout::drop_block {

constexpr int kMostAxes = 3;

// One spatial dimension. A block begins at its seed.
struct Axis {
  int64_t size = 1;
  int64_t block = 1;  // not more than the size

  FD_HD int64_t seeds() const { return size - block + 1; }
  // The first seed whose block holds this place or a later one.
  FD_HD int64_t first_seed(int64_t place) const { return place < block ? 0 : place - block + 1; }
};

// A tensor as it lies in memory: volumes of up to three spatial dimensions, slowest first, with
// `inner` elements at each place of a volume that are decided about apart, and `run` neighbours
// that share each decision. All sizes are those of tensors with elements.
struct Geometry {
  int64_t volumes = 1;        // that have seeds of their own
  int64_t copies = 1;         // that share these
  int64_t volume_stride = 0;  // in elements
  int64_t copy_stride = 0;
  int ndim = 0;
  Axis axes[kMostAxes];  // those from ndim on have one place
  int64_t inner = 1;
  int64_t run = 1;
  uint32_t keep_count = 65536;

  // Decisions in a volume, and seeds, whose mask indices follow those of the volume before.
  FD_HD int64_t places() const { return axes[0].size * axes[1].size * axes[2].size * inner; }
  FD_HD int64_t seeds() const {
    return axes[0].seeds() * axes[1].seeds() * axes[2].seeds() * inner;
  }
  // How many elements are kept or dropped by one decision.
  FD_HD int64_t elements_each() const { return copies * run; }
  FD_HD int64_t numel() const { return volumes * places() * elements_each(); }
};

FD_HD bool is_seed(uint32_t draw, uint32_t keep_count) { return !is_kept(draw, keep_count); }

// The probability of a seed: as many as drop a share p of the places, if blocks did not overlap.
inline double seed_probability(double p, const Axis* axes, int ndim) {
  double places = 1, covered = 1;
  for (int dim = 0; dim < ndim; ++dim) {
    places *= static_cast<double>(axes[dim].size);
    covered *= static_cast<double>(axes[dim].block) * static_cast<double>(axes[dim].seeds());
  }
  return p * places / covered;
}

// What makes up for the elements that are dropped: their share of the whole tensor. Nothing is kept
// where the result does not count.
FD_HD double scale_of(int64_t numel, int64_t kept) {
  return kept > 0 ? static_cast<double>(numel) / static_cast<double>(kept) : 0.0;
}

// A dropped element is selected to zero.
template <class V, class Keep>
FD_HD V element(V x, Keep keep, V scale) {
  return forward_element<Identity<Full>>(x, keep, scale, V(-0.0f), V(0.0f), V(0.0f));
}

}  // namespace fused_dropout::drop_block
