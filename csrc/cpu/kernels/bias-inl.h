// The bias values of one block of elements, and the places where its gradient is summed.
#pragma once

#include "cpu/kernel_table.h"

namespace fused_dropout::cpu::FD_ISA {

// Calls visit(first, last, channel) for every piece of the block that belongs to one channel.
template <class Visit>
FD_HD void for_each_run(const BiasIndexing& indexing, int64_t position, int count, Visit visit) {
  const int64_t channels = indexing.period / indexing.inner;
  int64_t channel = position / indexing.inner % channels;
  int64_t left = indexing.inner - position % indexing.inner;
  for (int first = 0; first < count;) {
    const int last = left < count - first ? first + static_cast<int>(left) : count;
    visit(first, last, channel);
    channel = channel + 1 == channels ? 0 : channel + 1;
    left = indexing.inner;
    first = last;
  }
}

// C is the arithmetic type, float or double.
template <class C>
class BiasReader {
 public:
  BiasReader(const BiasIndexing& indexing, int64_t begin)
      : indexing_(indexing),
        values_(static_cast<const C*>(indexing.values)),
        phase_(begin % indexing.period) {
    // -0 is the one number whose addition changes nothing.
    if (!values_) {
      for (C& value : buffer_) value = C(-0.0);
    }
  }

  // Values of `count` <= kChunk elements from `position` on, which continue the last call's.
  FD_HD const C* next(int64_t position, int count) {
    if (!values_) return buffer_;
    if (indexing_.inner == 1) {
      const C* values = values_ + phase_;
      phase_ += count;
      if (phase_ >= indexing_.period) phase_ -= indexing_.period;
      return values;
    }
    for_each_run(indexing_, position, count, [&](int first, int last, int64_t channel) {
      for (int i = first; i < last; ++i) buffer_[i] = values_[channel];
    });
    return buffer_;
  }

 private:
  const BiasIndexing& indexing_;
  const C* values_;
  int64_t phase_;
  alignas(64) C buffer_[kChunk + kPadding];
};

// Hands out one accumulator per element of the block; where a channel's elements are neighbours,
// `add` afterwards sums them up.
template <class C>
class BiasGradient {
 public:
  BiasGradient(const BiasIndexing& indexing, void* partial, int64_t begin)
      : indexing_(indexing), partial_(static_cast<C*>(partial)), phase_(begin % indexing.period) {}

  FD_HD C* next(int count) {
    if (indexing_.inner == 1) {
      C* sums = partial_ + phase_;
      phase_ += count;
      if (phase_ >= indexing_.period) phase_ -= indexing_.period;
      return sums;
    }
    memset(buffer_, 0, sizeof(buffer_));
    return buffer_;
  }

  FD_HD void add(int64_t position, int count) {
    if (indexing_.inner == 1) return;
    for_each_run(indexing_, position, count, [&](int first, int last, int64_t channel) {
      // Several chains of additions: faster than one, and more accurate.
      C sums[8] = {};
      int i = first;
      for (; i + 8 <= last; i += 8) {
        for (int accumulator = 0; accumulator < 8; ++accumulator)
          sums[accumulator] += buffer_[i + accumulator];
      }
      for (; i < last; ++i) sums[0] += buffer_[i];
      partial_[channel] +=
          ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
    });
  }

 private:
  const BiasIndexing& indexing_;
  C* partial_;
  int64_t phase_;
  alignas(64) C buffer_[kChunk + kPadding];
};

}  // namespace fused_dropout::cpu::FD_ISA
