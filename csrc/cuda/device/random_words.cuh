// 32-bit random words, for kernels that draw a number for each element (noise). The element with
// mask index j has word j % 4 of Philox counter j / 4, so that a group of eight elements has the
// words of two counters.
#pragma once

#include "cuda/device/mask.cuh"
#include "math/distributions.h"

namespace fused_dropout::cuda {

constexpr int kWordsPerCounter = 4;

FD_HD uint32_t word_of(const PhiloxWords<uint32_t>& bits, int slot) {
  return slot < 2 ? (slot < 1 ? bits.x : bits.y) : (slot < 3 ? bits.z : bits.w);
}

// The words of a group of eight elements. If the elements share one mask index, the group holds the
// words of that index and of its neighbour in the pair, four times each.
struct GroupWords {
  PhiloxWords<uint32_t> low, high;
  int shared_slot;  // of the pair, for all eight elements; -1 if each element has its own word

  FD_HD uint32_t operator()(int k) const {
    return word_of(k < kWordsPerCounter ? low : high, k % kWordsPerCounter);
  }
  // The word of element k itself.
  FD_HD uint32_t own(int k) const { return choose(k, (*this)(k - k % 2), (*this)(k - k % 2 + 1)); }
  // The one of its pair's two numbers that belongs to element k. Normal numbers are drawn in pairs.
  template <class C>
  FD_HD C choose(int k, C even, C odd) const {
    const int slot = shared_slot < 0 ? k % 2 : shared_slot;
    return slot ? odd : even;
  }
};

// The words of a group, for an indexing that is vectorisable.
FD_HD GroupWords group_words(const MaskIndexing& indexing, const PhiloxState& state,
                             int64_t group) {
  const int64_t index = indexing.kind == MaskKind::kMemoryOrder
                            ? indexing.first + group * kGroup
                            : mask_index(indexing, group * kGroup);
  const int64_t counter = static_cast<uint64_t>(index) / kWordsPerCounter;
  if (indexing.kind == MaskKind::kStrided && indexing.strides[indexing.ndim - 1] == 0) {
    const auto bits = group_bits(state, counter);
    const int slot = static_cast<int>(index) % kWordsPerCounter;
    const uint32_t even = word_of(bits, slot - slot % 2), odd = word_of(bits, slot - slot % 2 + 1);
    const PhiloxWords<uint32_t> twice{even, odd, even, odd};
    return {twice, twice, slot % 2};
  }
  return {group_bits(state, counter), group_bits(state, counter + 1), -1};
}

// Reads the words of single elements, for any indexing.
class WordReader {
 public:
  FD_HD WordReader(const MaskIndexing& indexing, const PhiloxState& state)
      : indexing_(indexing), state_(state) {}

  FD_HD void move_to(int64_t position) {
    const int64_t index = mask_index(indexing_, position);
    const int64_t counter = static_cast<uint64_t>(index) / kWordsPerCounter;
    if (counter != counter_) {
      counter_ = counter;
      bits_ = group_bits(state_, counter);
    }
    slot_ = static_cast<int>(index) % kWordsPerCounter;
  }
  FD_HD uint32_t word() const { return word_of(bits_, slot_); }
  template <class Precision, class C>
  FD_HD C normal() const {
    C even, odd;
    const int first = slot_ - slot_ % 2;
    normal_pair<Precision>(draw_number<C>(word_of(bits_, first)),
                           draw_number<C>(word_of(bits_, first + 1)), even, odd);
    return slot_ % 2 ? odd : even;
  }

 private:
  const MaskIndexing& indexing_;
  const PhiloxState& state_;
  PhiloxWords<uint32_t> bits_{};
  int64_t counter_ = -1;
  int slot_ = 0;
};

}  // namespace fused_dropout::cuda
