// The bias values of a chunk of elements, and the memory where their gradients are summed. Used by
// the pointwise kernels.
#pragma once

#include "cpu/indexing.h"

namespace fused_dropout::cpu::FD_ISA {

// Calls visit(first, last, channel) for every run of elements of the chunk that share a channel.
template <class Visit>
FD_HD void for_each_channel_run(const BiasIndexing& indexing, int64_t position, int count,
                                Visit visit) {
  const int64_t channels = indexing.period / indexing.inner;
  int64_t channel = position / indexing.inner % channels;
  int64_t remaining = indexing.inner - position % indexing.inner;
  for (int first = 0; first < count;) {
    const int last = remaining < count - first ? first + static_cast<int>(remaining) : count;
    visit(first, last, channel);
    channel = channel + 1 == channels ? 0 : channel + 1;
    remaining = indexing.inner;
    first = last;
  }
}

// Reads the bias of one chunk after another. C is the arithmetic type, float or double.
template <class C>
class BiasReader {
 public:
  BiasReader(const BiasIndexing& indexing, int64_t begin)
      : indexing_(indexing),
        values_(static_cast<const C*>(indexing.values)),
        phase_(begin % indexing.period) {
    // Adding -0 changes no number; adding +0 would change -0.
    if (!values_) {
      for (C& value : buffer_) value = C(-0.0);
    }
  }

  // The bias of `count` <= kChunk elements from `position` on. Each call continues where the last
  // one ended.
  FD_HD const C* next(int64_t position, int count) {
    if (!values_) return buffer_;
    if (indexing_.inner == 1) {
      const C* values = values_ + phase_;
      phase_ += count;
      if (phase_ >= indexing_.period) phase_ -= indexing_.period;
      return values;
    }
    for_each_channel_run(indexing_, position, count, [&](int first, int last, int64_t channel) {
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

// Provides one accumulator for each element of a chunk: the sums themselves, or a buffer if the
// elements of a channel are neighbours. Then `add` adds the buffer to the sums of its channels.
template <class C>
class BiasGradientSums {
 public:
  BiasGradientSums(const BiasIndexing& indexing, void* sums, int64_t begin)
      : indexing_(indexing), sums_(static_cast<C*>(sums)), phase_(begin % indexing.period) {}

  FD_HD C* next(int count) {
    if (indexing_.inner == 1) {
      C* sums = sums_ + phase_;
      phase_ += count;
      if (phase_ >= indexing_.period) phase_ -= indexing_.period;
      return sums;
    }
    memset(buffer_, 0, sizeof(buffer_));
    return buffer_;
  }

  FD_HD void add(int64_t position, int count) {
    if (indexing_.inner == 1) return;
    for_each_channel_run(indexing_, position, count, [&](int first, int last, int64_t channel) {
      // Eight independent sums: faster and more accurate than one.
      C sums[8] = {};
      int i = first;
      for (; i + 8 <= last; i += 8) {
        for (int accumulator = 0; accumulator < 8; ++accumulator)
          sums[accumulator] += buffer_[i + accumulator];
      }
      for (; i < last; ++i) sums[0] += buffer_[i];
      sums_[channel] +=
          ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
    });
  }

 private:
  const BiasIndexing& indexing_;
  C* sums_;
  int64_t phase_;
  alignas(64) C buffer_[kChunk + kPadding];
};

}  // namespace fused_dropout::cpu::FD_ISA
