// Where a kernel gets the random draws of one block of elements from.
#pragma once

#include "cpu/isa/pair.h"
#include "cpu/kernel_table.h"
#include "math/mutations.h"

namespace fused_dropout::cpu::FD_ISA {

// Four registers of counters go through the rounds together: each round waits for the one before.
using Counters = Pair<Pair<Words>>;
constexpr int kGroupsPerStep = 4 * kGroupsPerRegister;
constexpr int kDrawsPerStep = kGroupsPerStep * kGroupSize;

FD_HD Pair<Words> two_registers(uint64_t group) {
  return {group_counters(group), group_counters(group + kGroupsPerRegister)};
}
FD_HD Counters broadcast(uint64_t word) {
  const Words words{WordVector{} + word};
  return {{words, words}, {words, words}};
}
FD_HD void store_two(uint16_t* target, Pair<Words> x, Pair<Words> y, Pair<Words> z, Pair<Words> w) {
  store_draws(target, {x.first, y.first, z.first, w.first});
  store_draws(target + kDrawsPerStep / 4, {x.second, y.second, z.second, w.second});
}

// At least `count` draws, from the first lane of `group` on. Not inlined: it is long, and the
// kernels are many.
__attribute__((noinline)) inline void generate_draws(const PhiloxState& state, uint64_t group,
                                                     int count, uint16_t* target) {
  const uint64_t block = state.offset / kOffsetUnit;
  const uint32_t key0 = static_cast<uint32_t>(state.seed);
  const uint32_t key1 = static_cast<uint32_t>(state.seed >> 32);
  const Counters low = broadcast(block & 0xFFFFFFFFu), high = broadcast(block >> 32);
  const auto step = [&](const Counters& groups, const Counters& groups_high, uint16_t* draws) {
    const auto bits = philox(PhiloxWords<Counters>{low, high, groups, groups_high}, key0, key1);
    store_two(draws, bits.x.first, bits.y.first, bits.z.first, bits.w.first);
    store_two(draws + kDrawsPerStep / 2, bits.x.second, bits.y.second, bits.z.second,
              bits.w.second);
  };
  const auto groups_at = [&](int done) {
    const uint64_t first = group + done / kGroupSize;
    return Counters{two_registers(first), two_registers(first + 2 * kGroupsPerRegister)};
  };
  const uint64_t last = group + (count + kDrawsPerStep) / kGroupSize;
  if (group >> 32 == last >> 32) {
    // The usual case: what depends on the high word alone leaves the loop.
    const Counters groups_high = broadcast(group >> 32);
    for (int done = 0; done < count; done += kDrawsPerStep) {
      step(groups_at(done), groups_high, target + done);
    }
  } else {
    for (int done = 0; done < count; done += kDrawsPerStep) {
      const Counters groups = groups_at(done);
      step(groups, high_word(groups), target + done);
    }
  }
}

// Room for a first lane that is not zero and for the whole last step.
constexpr int draw_capacity(int count) { return count + kGroupSize + kDrawsPerStep + kPadding; }

inline bool in_memory_order(const MaskIndexing& indexing) {
  return indexing.ndim == 1 && indexing.strides[0] == 1;
}

// Calls visit(index, stride, run, done) for the parts of `count` elements from `position` on within
// which the mask index grows by the same stride.
template <class Visit>
FD_HD void for_each_stretch(const MaskIndexing& indexing, int64_t position, int count,
                            Visit visit) {
  const int inner = indexing.ndim - 1;
  for (int done = 0; done < count;) {
    int64_t rest = position + done;
    int64_t index = indexing.first;
    int64_t place = 0;  // within the innermost dimension
    for (int dim = inner; dim >= 0; --dim) {
      const int64_t coordinate = rest % indexing.sizes[dim];
      rest /= indexing.sizes[dim];
      index += coordinate * indexing.strides[dim];
      if (dim == inner) place = coordinate;
    }
    const int64_t left = indexing.sizes[inner] - place;
    const int run = left < count - done ? static_cast<int>(left) : count - done;
    visit(index, indexing.strides[inner], run, done);
    done += run;
  }
}

// `Draw` is what an index has of a counter's bits: one of eight halves of words, or of four words.
template <class Draw>
class DrawSourceOf {
 public:
  static constexpr int kPerGroup = 16 / sizeof(Draw);
  static constexpr int kHalves = sizeof(Draw) / sizeof(uint16_t);
  static constexpr int capacity(int count) { return draw_capacity(kHalves * count) / kHalves; }

  // `buffer` has capacity(most) numbers.
  DrawSourceOf(const MaskIndexing& indexing, Draw* buffer, int most)
      : indexing_(indexing), buffer_(buffer) {
    if (!indexing.draws()) memset(buffer, 0, capacity(most) * sizeof(Draw));  // always kept
  }

  // The draws of `count` <= most elements from `position` on. Some further ones are readable.
  FD_HD const Draw* at(int64_t position, int count) {
    if (!indexing_.draws()) return buffer_;
    if (in_memory_order(indexing_)) {
      int64_t index = indexing_.first + position;
      if (mutated(Mutation::kPeriodicMask)) index %= 4096;
      return generate(index, count, buffer_);
    }
    walk(position, count);
    return buffer_;
  }

  // The draws of `count` successive indices, somewhere in `target`, which has capacity(count).
  FD_HD const Draw* generate(int64_t index, int count, Draw* target) const {
    const int lane = static_cast<int>(index % kPerGroup);
    generate_draws(indexing_.state, index / kPerGroup, kHalves * (lane + count),
                   reinterpret_cast<uint16_t*>(target));
    return target + lane;
  }

 private:
  // The general indexing: runs of the innermost dimension that share a draw or take consecutive
  // ones.
  __attribute__((noinline)) void walk(int64_t position, int count) {
    for_each_stretch(indexing_, position, count,
                     [&](int64_t index, int64_t stride, int run, int done) {
                       fill_run(index, stride, run, buffer_ + done);
                     });
  }

  FD_HD void fill_run(int64_t index, int64_t stride, int run, Draw* target) {
    if (stride == 1 && run >= 4 * kPerGroup) {
      alignas(64) Draw consecutive[capacity(kChunk)];
      for (int done = 0; done < run; done += kChunk) {
        const int part = run - done < kChunk ? run - done : kChunk;
        memcpy(target + done, generate(index + done, part, consecutive), part * sizeof(Draw));
      }
    } else if (stride == 0) {
      const Draw draw = single(index);
      for (int i = 0; i < run; ++i) target[i] = draw;
    } else {
      for (int i = 0; i < run; ++i) target[i] = single(index + i * stride);
    }
  }

  // One draw; the group it belongs to is kept, as the next one is often its neighbour.
  FD_HD Draw single(int64_t index) {
    const int64_t group = index / kPerGroup;
    if (group != cached_group_) {
      const PhiloxWords<uint32_t> bits = group_bits(indexing_.state, group);
      const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
      for (int i = 0; i < kPerGroup; ++i) {
        cached_[i] = static_cast<Draw>(words[i * sizeof(Draw) / 4] >> (8 * (i * sizeof(Draw) % 4)));
      }
      cached_group_ = group;
    }
    return cached_[index % kPerGroup];
  }

  const MaskIndexing& indexing_;
  Draw* buffer_;
  int64_t cached_group_ = -1;
  Draw cached_[kPerGroup];
};
using DrawSource = DrawSourceOf<uint16_t>;

// The draws of one block after another.
template <class Draw>
class ChunkDrawsOf : public DrawSourceOf<Draw> {
 public:
  explicit ChunkDrawsOf(const MaskIndexing& indexing)
      : DrawSourceOf<Draw>(indexing, block_, kChunk) {}

 private:
  alignas(64) Draw block_[DrawSourceOf<Draw>::capacity(kChunk)];
};
using ChunkDraws = ChunkDrawsOf<uint16_t>;
using ChunkWords = ChunkDrawsOf<uint32_t>;

// The draws of parts of rows, one after another; those of short rows are generated together.
class RowDraws {
 public:
  // Rows of `width` up to the position `end`; `buffer` has draw_capacity(most) numbers.
  RowDraws(const MaskIndexing& indexing, int64_t width, int64_t end, uint16_t* buffer, int most)
      : source_(indexing, buffer, most),
        several_(width < kChunk ? kChunk / width * width : 0),
        end_(end) {}

  // How many draws of whole rows are in the buffer at most.
  static int most_for(int64_t width) { return width < kChunk ? kChunk : static_cast<int>(width); }

  FD_HD const uint16_t* at(int64_t position, int64_t count) {
    if (position >= next_) {
      if (several_) count = several_ < end_ - position ? several_ : end_ - position;
      first_ = position;
      next_ = position + count;
      draws_ = source_.at(position, static_cast<int>(count));
    }
    return draws_ + (position - first_);
  }

 private:
  DrawSource source_;
  int64_t several_, end_, first_ = 0, next_ = -1;
  const uint16_t* draws_ = nullptr;
};

}  // namespace fused_dropout::cpu::FD_ISA
