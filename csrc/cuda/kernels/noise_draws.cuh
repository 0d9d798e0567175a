// The random numbers that noise kernels draw, for groups and for single elements.
#pragma once

#include "cuda/device/random_words.cuh"
#include "cuda/noise.h"

namespace fused_dropout::cuda {

// The groups of one iteration. The Philox rounds of two groups with 16-bit draws overlap; a group
// of words has two counters of its own.
template <NoiseDraw kDraw>
constexpr int kNoiseUnroll = kDraw == NoiseDraw::kBits ? 2 : 1;

// The draws of kNoiseUnroll groups, `step` apart, for an indexing that is vectorisable. draws(u, k)
// is the draw of element k of group u.
template <NoiseDraw kDraw, class Precision, class C>
struct GroupNoise;

template <class Precision, class C>
struct GroupNoise<NoiseDraw::kNone, Precision, C> {
  FD_HD GroupNoise(const NoiseArgs&, const PhiloxState&, int64_t, uint32_t) {}
  FD_HD C operator()(int, int) const { return C(0); }
};

template <class Precision, class C>
struct GroupNoise<NoiseDraw::kBits, Precision, C> {
  GroupMask masks[kNoiseUnroll<NoiseDraw::kBits>];

  FD_HD GroupNoise(const NoiseArgs& args, const PhiloxState& state, int64_t group, uint32_t step) {
    group_masks(args.mask, state, group, step, masks);
  }
  FD_HD float operator()(int u, int k) const {
    return static_cast<float>(draw_of(masks[u].bits, k));
  }
};

template <class Precision, class C>
struct GroupNoise<NoiseDraw::kUniform, Precision, C> {
  GroupWords words;

  FD_HD GroupNoise(const NoiseArgs& args, const PhiloxState& state, int64_t group, uint32_t)
      : words(group_words(args.mask, state, group)) {}
  FD_HD C operator()(int, int k) const { return draw_number<C>(words.own(k)); }
};

template <class Precision, class C>
struct GroupNoise<NoiseDraw::kNormal, Precision, C> {
  C normals[kGroup];

  FD_HD GroupNoise(const NoiseArgs& args, const PhiloxState& state, int64_t group, uint32_t) {
    const GroupWords words = group_words(args.mask, state, group);
#pragma unroll
    for (int k = 0; k < kGroup; k += 2) {
      C even, odd;
      normal_pair<Precision>(draw_number<C>(words(k)), draw_number<C>(words(k + 1)), even, odd);
      normals[k] = words.choose(k, even, odd);
      normals[k + 1] = words.choose(k + 1, even, odd);
    }
  }
  FD_HD C operator()(int, int k) const { return normals[k]; }
};

// The draws of single elements, for any indexing.
template <NoiseDraw kDraw, class Precision, class C>
class ElementNoise {
 public:
  FD_HD ElementNoise(const NoiseArgs& args, const PhiloxState& state)
      : args_(args), state_(state), words_(args.mask, state) {}

  FD_HD auto operator()(int64_t position) {
    if constexpr (kDraw == NoiseDraw::kNone) {
      return C(0);
    } else if constexpr (kDraw == NoiseDraw::kBits) {
      const int64_t index = mask_index(args_.mask, position);
      return static_cast<float>(draw_of(group_bits(state_, group_of(index)), slot_of(index)));
    } else {
      words_.move_to(position);
      if constexpr (kDraw == NoiseDraw::kNormal) {
        return words_.template normal<Precision, C>();
      } else {
        return draw_number<C>(words_.word());
      }
    }
  }

 private:
  const NoiseArgs& args_;
  const PhiloxState& state_;
  WordReader words_;
};

}  // namespace fused_dropout::cuda
