// The random draws of the elements that a kernel works on, generated as they are needed. Used by
// all kernels. A draw is a 16-bit slot of a Philox group, or a 32-bit word of a Philox counter
// (see math/philox.h).
#pragma once

#include "cpu/indexing.h"
#include "cpu/isa/pair.h"
#include "math/mutations.h"

namespace fused_dropout::cpu::FD_ISA {

// Four registers of counters go through the rounds together. Within a register each round waits for
// the previous one; the other registers use this time.
using Counters = Pair<Pair<Words>>;
constexpr int kGroupsPerStep = 4 * kGroupsPerRegister;
constexpr int kDrawsPerStep = kGroupsPerStep * kGroupSize;

// Consecutive counters, a counter word that all counters share, and the draws of two registers.
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

// Generates at least `count` draws, from the first slot of `group` on. Not inlined, because it is
// long and there are many kernels.
__attribute__((noinline)) inline void generate_draws(const PhiloxState& state, uint64_t group,
                                                     int count, uint16_t* target) {
  const uint64_t offset = state.offset / kOffsetUnit;
  const uint32_t key0 = static_cast<uint32_t>(state.seed);
  const uint32_t key1 = static_cast<uint32_t>(state.seed >> 32);
  const Counters low = broadcast(offset & 0xFFFFFFFFu), high = broadcast(offset >> 32);
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
    // The usual case: the high word is constant, so the compiler moves its part out of the loop.
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

// The length of a buffer for `count` draws: the first one may lie in any slot of its group, and the
// last step is always complete.
constexpr int draw_capacity(int count) { return count + kGroupSize + kDrawsPerStep + kPadding; }

inline bool in_memory_order(const MaskIndexing& indexing) {
  return indexing.ndim == 1 && indexing.strides[0] == 1;
}

// Calls visit(index, stride, run, done) for the runs of elements along the innermost dimension, in
// `count` elements from `position` on. The first element of a run, the one at position + done, has
// the mask index `index`, and each further one `stride` more.
template <class Visit>
FD_HD void for_each_index_run(const MaskIndexing& indexing, int64_t position, int count,
                              Visit visit) {
  const int inner = indexing.ndim - 1;
  for (int done = 0; done < count;) {
    int64_t remainder = position + done;
    int64_t index = indexing.first;
    int64_t innermost = 0;  // coordinate
    for (int dim = inner; dim >= 0; --dim) {
      const int64_t coordinate = remainder % indexing.sizes[dim];
      remainder /= indexing.sizes[dim];
      index += coordinate * indexing.strides[dim];
      if (dim == inner) innermost = coordinate;
    }
    const int64_t remaining = indexing.sizes[inner] - innermost;
    const int run = remaining < count - done ? static_cast<int>(remaining) : count - done;
    visit(index, indexing.strides[inner], run, done);
    done += run;
  }
}

// `Draw` is the part of a counter's 128 bits that belongs to a mask index: uint16_t for one of
// eight slots, uint32_t for one of four words.
template <class Draw>
class DrawSourceOf {
 public:
  static constexpr int kPerGroup = 16 / sizeof(Draw);
  static constexpr int kHalves = sizeof(Draw) / sizeof(uint16_t);
  static constexpr int capacity(int count) { return draw_capacity(kHalves * count) / kHalves; }

  // `buffer` has capacity(max_count) numbers.
  DrawSourceOf(const MaskIndexing& indexing, Draw* buffer, int max_count)
      : indexing_(indexing), buffer_(buffer) {
    if (!indexing.draws()) memset(buffer, 0, capacity(max_count) * sizeof(Draw));  // keeps all
  }

  // The draws of `count` <= max_count elements from `position` on. The memory behind them is
  // readable up to the end of a register.
  FD_HD const Draw* at(int64_t position, int count) {
    if (!indexing_.draws()) return buffer_;
    if (in_memory_order(indexing_)) {
      int64_t index = indexing_.first + position;
      if (mutated(Mutation::kPeriodicMask)) index %= 4096;
      return generate(index, count, buffer_);
    }
    fill_general(position, count);
    return buffer_;
  }

  // The draws of `count` consecutive mask indices. The result points into `target`, which has
  // capacity(count) numbers.
  FD_HD const Draw* generate(int64_t index, int count, Draw* target) const {
    const int slot = static_cast<int>(index % kPerGroup);
    generate_draws(indexing_.state, index / kPerGroup, kHalves * (slot + count),
                   reinterpret_cast<uint16_t*>(target));
    return target + slot;
  }

 private:
  // The general path, for masks that are not in memory order: fills the buffer run by run.
  __attribute__((noinline)) void fill_general(int64_t position, int count) {
    for_each_index_run(indexing_, position, count,
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

  // One draw. Its group is cached, because the next call often needs a draw of the same group.
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

// The draws of one chunk after another, with a buffer of its own.
template <class Draw>
class ChunkDrawsOf : public DrawSourceOf<Draw> {
 public:
  explicit ChunkDrawsOf(const MaskIndexing& indexing)
      : DrawSourceOf<Draw>(indexing, chunk_, kChunk) {}

 private:
  alignas(64) Draw chunk_[DrawSourceOf<Draw>::capacity(kChunk)];
};
using ChunkDraws = ChunkDrawsOf<uint16_t>;
using ChunkWords = ChunkDrawsOf<uint32_t>;

// The draws of rows or parts of rows, one after another. If rows are short, the draws of several
// rows are generated at a time.
class RowDraws {
 public:
  // For rows of `width` elements, up to the position `end`. `buffer` has draw_capacity(max_count)
  // numbers.
  RowDraws(const MaskIndexing& indexing, int64_t width, int64_t end, uint16_t* buffer,
           int max_count)
      : source_(indexing, buffer, max_count),
        batch_(width < kChunk ? kChunk / width * width : 0),
        end_(end) {}

  // The `max_count` for calls of `at` with full rows.
  static int max_draws(int64_t width) { return width < kChunk ? kChunk : static_cast<int>(width); }

  // The draws of `count` elements from `position` on; positions grow from call to call.
  FD_HD const uint16_t* at(int64_t position, int64_t count) {
    if (position >= next_) {
      if (batch_) count = batch_ < end_ - position ? batch_ : end_ - position;
      first_ = position;
      next_ = position + count;
      draws_ = source_.at(position, static_cast<int>(count));
    }
    return draws_ + (position - first_);
  }

 private:
  DrawSource source_;
  int64_t batch_;  // draws of as many short rows as fit into a chunk; 0 if rows are long
  int64_t end_, first_ = 0, next_ = -1;
  const uint16_t* draws_ = nullptr;
};

}  // namespace fused_dropout::cpu::FD_ISA
