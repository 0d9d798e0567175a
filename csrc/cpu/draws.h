// Where a kernel gets the random draws of one block of elements from.
#pragma once

#include "kernels.h"
#include "pair.h"

namespace fused_dropout::cpu::FD_ISA {

class DrawSource {
 public:
  explicit DrawSource(const MaskRule& rule) : rule_(rule) {
    if (!rule.draws()) memset(buffer_, 0, sizeof(buffer_));  // zero is always kept
  }

  // The draws of `count` <= kBlock elements from `position` on. Some further ones are readable.
  FD_HD const uint16_t* at(int64_t position, int count) {
    if (!rule_.draws()) return buffer_;
    if (rule_.ndim == 1 && rule_.strides[0] == 1) {
      const int64_t index = rule_.first + position;
      const int lane = static_cast<int>(index % kGroupSize);
      generate(index / kGroupSize, lane + count, buffer_);
      return buffer_ + lane;
    }
    walk(position, count);
    return buffer_;
  }

 private:
  // At least `count` draws, from the first lane of `group` on.
  FD_HD void generate(uint64_t group, int count, uint16_t* target) {
    const uint64_t block = rule_.state.offset / kOffsetUnit;
    const uint32_t key0 = static_cast<uint32_t>(rule_.state.seed);
    const uint32_t key1 = static_cast<uint32_t>(rule_.state.seed >> 32);
    const Words low{WordVector{} + (block & 0xFFFFFFFFu)};
    const Words high{WordVector{} + (block >> 32)};
    for (int done = 0; done < count; done += kStep) {
      const Pair<Words> groups{group_counters(group), group_counters(group + kGroupsPerRegister)};
      const auto bits = philox(
          PhiloxBlock<Pair<Words>>{{low, low}, {high, high}, groups, high_word(groups)}, key0, key1);
      store_draws(target + done, {bits.x.first, bits.y.first, bits.z.first, bits.w.first});
      store_draws(target + done + kStep / 2,
                  {bits.x.second, bits.y.second, bits.z.second, bits.w.second});
      group += 2 * kGroupsPerRegister;
    }
  }

  // The general rule: runs of the innermost dimension that share a draw or take consecutive ones.
  __attribute__((noinline)) void walk(int64_t position, int count) {
    const int inner = rule_.ndim - 1;
    for (int done = 0; done < count;) {
      int64_t rest = position + done;
      int64_t index = rule_.first;
      int64_t place = 0;  // within the innermost dimension
      for (int dim = inner; dim >= 0; --dim) {
        const int64_t coordinate = rest % rule_.sizes[dim];
        rest /= rule_.sizes[dim];
        index += coordinate * rule_.strides[dim];
        if (dim == inner) place = coordinate;
      }
      const int64_t left = rule_.sizes[inner] - place;
      const int run = left < count - done ? static_cast<int>(left) : count - done;
      fill_run(index, rule_.strides[inner], run, buffer_ + done);
      done += run;
    }
  }

  FD_HD void fill_run(int64_t index, int64_t stride, int run, uint16_t* target) {
    if (stride == 1 && run >= 4 * kGroupSize) {
      alignas(64) uint16_t consecutive[kCapacity];
      const int lane = static_cast<int>(index % kGroupSize);
      generate(index / kGroupSize, lane + run, consecutive);
      memcpy(target, consecutive + lane, run * sizeof(uint16_t));
    } else if (stride == 0) {
      const uint16_t draw = single(index);
      for (int i = 0; i < run; ++i) target[i] = draw;
    } else {
      for (int i = 0; i < run; ++i) target[i] = single(index + i * stride);
    }
  }

  // One draw; the group it belongs to is kept, as the next one is often its neighbour.
  FD_HD uint16_t single(int64_t index) {
    const int64_t group = index / kGroupSize;
    if (group != cached_group_) {
      const PhiloxBlock<uint32_t> bits = group_bits(rule_.state, group);
      const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
      for (int i = 0; i < kGroupSize; ++i) {
        cached_[i] = static_cast<uint16_t>(words[i / 2] >> (16 * (i % 2)));
      }
      cached_group_ = group;
    }
    return cached_[index % kGroupSize];
  }

  static constexpr int kStep = 2 * kGroupsPerRegister * kGroupSize;
  // Room for a first lane that is not zero and for the whole last step.
  static constexpr int kCapacity = kBlock + kGroupSize + kStep + kPadding;

  const MaskRule& rule_;
  int64_t cached_group_ = -1;
  uint16_t cached_[kGroupSize];
  alignas(64) uint16_t buffer_[kCapacity];
};

}  // namespace fused_dropout::cpu::FD_ISA
