// The random words of elements, for draws that are numbers: element j of a mask has word j % 4 of
// group j / 4, so that eight neighbours have those of two counters.
#pragma once

#include "cuda/device/mask.cuh"
#include "math/noise.h"

namespace fused_dropout::cuda {

constexpr int kWordsPerGroup = 4;

FD_HD uint32_t word_of(const PhiloxWords<uint32_t>& bits, int lane) {
  return lane < 2 ? (lane < 1 ? bits.x : bits.y) : (lane < 3 ? bits.z : bits.w);
}

// Those of eight elements, or, for a shared draw, four times those of a pair of indices.
struct GroupWords {
  PhiloxWords<uint32_t> low, high;
  int shared;  // which of a pair all eight have; -1 where each has its own

  FD_HD uint32_t operator()(int k) const {
    return word_of(k < kWordsPerGroup ? low : high, k % kWordsPerGroup);
  }
  // The word of element k itself.
  FD_HD uint32_t own(int k) const { return choose(k, (*this)(k - k % 2), (*this)(k - k % 2 + 1)); }
  // What element k has of its pair's two numbers.
  template <class C>
  FD_HD C choose(int k, C even, C odd) const {
    const int lane = shared < 0 ? k % 2 : shared;
    return lane ? odd : even;
  }
};

// For a indexing that is vectorisable.
FD_HD GroupWords group_words(const MaskIndexing& indexing, const PhiloxState& state,
                             int64_t group) {
  const int64_t index = indexing.kind == MaskKind::kMemoryOrder
                            ? indexing.first + group * kGroup
                            : mask_index(indexing, group * kGroup);
  const int64_t counter = static_cast<uint64_t>(index) / kWordsPerGroup;
  if (indexing.kind == MaskKind::kStrided && indexing.strides[indexing.ndim - 1] == 0) {
    const auto bits = group_bits(state, counter);
    const int lane = static_cast<int>(index) % kWordsPerGroup;
    const uint32_t even = word_of(bits, lane - lane % 2), odd = word_of(bits, lane - lane % 2 + 1);
    const PhiloxWords<uint32_t> twice{even, odd, even, odd};
    return {twice, twice, lane % 2};
  }
  return {group_bits(state, counter), group_bits(state, counter + 1), -1};
}

// The words of one element after another, for any indexing.
class WordReader {
 public:
  FD_HD WordReader(const MaskIndexing& indexing, const PhiloxState& state)
      : indexing_(indexing), state_(state) {}

  FD_HD void move_to(int64_t position) {
    const int64_t index = mask_index(indexing_, position);
    const int64_t counter = static_cast<uint64_t>(index) / kWordsPerGroup;
    if (counter != counter_) {
      counter_ = counter;
      bits_ = group_bits(state_, counter);
    }
    lane_ = static_cast<int>(index) % kWordsPerGroup;
  }
  FD_HD uint32_t word() const { return word_of(bits_, lane_); }
  template <class Precision, class C>
  FD_HD C normal() const {
    C even, odd;
    const int first = lane_ - lane_ % 2;
    normal_pair<Precision>(draw_number<C>(word_of(bits_, first)),
                           draw_number<C>(word_of(bits_, first + 1)), even, odd);
    return lane_ % 2 ? odd : even;
  }

 private:
  const MaskIndexing& indexing_;
  const PhiloxState& state_;
  PhiloxWords<uint32_t> bits_{};
  int64_t counter_ = -1;
  int lane_ = 0;
};

}  // namespace fused_dropout::cuda
