// The DropBlock kernels. They mark the dropped elements of some slices of a volume at a time in a
// window, which stays in the cache: they look for the seeds, which are rare, and mark the block of
// each one. In the dispatch table as `drop_block`.
#pragma once

#include "cpu/drop_block.h"
#include "cpu/kernels/dispatch-inl.h"
#include "cpu/kernels/draws-inl.h"
#include "cpu/kernels/registers-inl.h"
#include "math/drop_block.h"

namespace fused_dropout::cpu::FD_ISA {

// The draws of consecutive seeds, generated a chunk at a time.
class SeedDraws {
 public:
  explicit SeedDraws(const MaskIndexing& indexing) : source_(indexing) {}

  // The draws of `count` <= kChunk mask indices. The next kScan numbers are readable, too.
  FD_HD const uint16_t* at(int64_t index, int count) {
    if (index < first_ || index + count > first_ + kChunk) {
      first_ = index;
      draws_ = source_.at(index, kChunk);
    }
    return draws_ + (index - first_);
  }

  static constexpr int kScan = 32;
  static_assert(kScan <= kPadding);

 private:
  ChunkDraws source_;
  int64_t first_ = -kChunk;
  const uint16_t* draws_ = nullptr;
};

// A window of slices that moves along a volume. It holds the decisions: 0 for kept, all bits set
// for dropped.
class DropBlockWindow {
 public:
  // A decision can be compared like a draw with this keep_count.
  static constexpr uint32_t kKeepCount = 1;

  // `window` has args.window_length() numbers.
  DropBlockWindow(const DropBlockArgs& args, uint16_t* window)
      : args_(args), slice_(args.slice()), window_(window), draws_(args.seeds) {}

  // Calls visit(decisions, first, last) for successive parts of the slices of `range`.
  template <class Visit>
  FD_HD void for_each(const DropBlockRange& range, Visit visit) {
    const int64_t overlap = args_.slow.block - 1;
    first_seed_ = range.volume * args_.slow.seeds() * args_.seed_slice();
    position_ = range.first;
    clear(range.first, range.first + overlap);
    mark_seeds(args_.slow.first_seed(range.first), range.first);
    while (position_ < range.last) {
      const int64_t remaining = range.last - position_;
      const int64_t next = position_ + (remaining < args_.window ? remaining : args_.window);
      clear(position_ + overlap, next + overlap);
      mark_seeds(position_, next);
      visit(window_, position_, next);
      // The last blocks extend into these slices of the next window.
      if (next < range.last) {
        memmove(window_, window_ + (next - position_) * slice_,
                overlap * slice_ * sizeof(uint16_t));
      }
      position_ = next;
    }
  }

 private:
  // Sets the decisions of these slices to 0.
  FD_HD void clear(int64_t first, int64_t last) {
    if (last > args_.slow.size) last = args_.slow.size;
    if (first >= last) return;
    memset(window_ + (first - position_) * slice_, 0, (last - first) * slice_ * sizeof(uint16_t));
  }

  // Marks the blocks of the seeds in these slices.
  FD_HD void mark_seeds(int64_t first_slice, int64_t last_slice) {
    if (last_slice > args_.slow.seeds()) last_slice = args_.slow.seeds();
    const int64_t first = first_seed_ + first_slice * args_.seed_slice();
    const int64_t last = first_seed_ + last_slice * args_.seed_slice();
    const uint32_t keep_count = args_.seeds.keep_count;
    for (int64_t index = first; index < last; index += kChunk) {
      const int count = last - index < kChunk ? static_cast<int>(last - index) : kChunk;
      const uint16_t* draws = draws_.at(index, count);
      for (int i = 0; i < count; i += SeedDraws::kScan) {
        uint16_t any = 0;
        for (int k = 0; k < SeedDraws::kScan; ++k) any |= draws[i + k] >= keep_count;
        if (any) mark_found(index + i - first_seed_, draws + i, count - i);
      }
    }
  }

  // Marks the blocks of the seeds among kScan draws, at least one of which is a seed.
  __attribute__((noinline)) void mark_found(int64_t first, const uint16_t* draws, int count) {
    if (count > SeedDraws::kScan) count = SeedDraws::kScan;
    // No branch depends on a single draw, only on eight of them.
    int found[SeedDraws::kScan], seeds = 0;
    for (int i = 0; i < count; i += kGroupSize) {
      uint16_t any = 0;
      for (int k = 0; k < kGroupSize; ++k) any |= draws[i + k] >= args_.seeds.keep_count;
      if (!any) continue;
      for (int k = i; k < i + kGroupSize; ++k) {
        found[seeds] = k;
        seeds += (k < count) & drop_block::is_seed(draws[k], args_.seeds.keep_count);
      }
    }
    for (int k = 0; k < seeds; ++k) mark_block(first + found[k]);
  }

  // Divides `number` and returns the remainder. Most numbers are small, and a 32-bit division is
  // faster.
  FD_HD static int64_t divide(int64_t& number, int64_t divisor) {
    if (divisor == 1) return 0;
    const int64_t quotient = (number | divisor) >> 32
                                 ? number / divisor
                                 : static_cast<uint32_t>(number) / static_cast<uint32_t>(divisor);
    const int64_t remainder = number - quotient * divisor;
    number = quotient;
    return remainder;
  }

  // Marks the block of the seed with this index within the volume. Divided by the sizes, `seed`
  // becomes the slice of the seed.
  FD_HD void mark_block(int64_t seed) {
    const drop_block::Axis* fast = args_.fast;
    const int64_t inner = divide(seed, args_.inner);
    const int64_t coordinate2 = divide(seed, fast[2].seeds());
    const int64_t coordinate1 = divide(seed, fast[1].seeds());
    const int64_t coordinate0 = divide(seed, fast[0].seeds());

    const int64_t stride2 = args_.inner, stride1 = fast[2].size * stride2;
    const int64_t stride0 = fast[1].size * stride1;
    const int64_t offset =
        coordinate0 * stride0 + coordinate1 * stride1 + coordinate2 * stride2 + inner;
    const int64_t first = seed > position_ ? seed : position_;
    for (int64_t s = first; s < seed + args_.slow.block; ++s) {
      for (int64_t i = 0; i < fast[0].block; ++i) {
        uint16_t* target = window_ + (s - position_) * slice_ + offset + i * stride0;
        for (int64_t j = 0; j < fast[1].block; ++j, target += stride1) {
          mark_row(target, fast[2].block, stride2);
        }
      }
    }
  }

  // Marks `count` elements. If they are contiguous, four of them at a time; the last four may
  // overlap the ones before.
  FD_HD static void mark_row(uint16_t* target, int64_t count, int64_t stride) {
    constexpr int kPerStore = 4;
    if (stride != 1 || count < kPerStore) {
      for (int64_t k = 0; k < count; ++k) target[k * stride] = 0xFFFF;
      return;
    }
    constexpr uint64_t kOnes = ~uint64_t{0};
    for (int64_t k = 0; k < count - kPerStore; k += kPerStore) {
      memcpy(target + k, &kOnes, sizeof(kOnes));
    }
    memcpy(target + count - kPerStore, &kOnes, sizeof(kOnes));
  }

  const DropBlockArgs& args_;
  const int64_t slice_;
  uint16_t* window_;
  SeedDraws draws_;
  int64_t first_seed_ = 0;  // mask index of the volume's first seed
  int64_t position_ = 0;    // the first slice in the window
};

// Returns the number of decisions in the range that keep.
inline int64_t drop_block_count_kernel(const DropBlockArgs& args, const DropBlockRange& range,
                                       uint16_t* window) {
  const int64_t slice = args.slice();
  int64_t kept = 0;
  DropBlockWindow(args, window)
      .for_each(range, [&](const uint16_t* decisions, int64_t first, int64_t last) FD_INLINE {
        const int64_t count = (last - first) * slice;
        int64_t dropped = 0;
        for (int64_t done = 0; done < count; done += kChunk) {
          const int64_t end = done + kChunk < count ? done + kChunk : count;
          uint32_t sum = 0;
          for (int64_t i = done; i < end; ++i) sum += decisions[i] & 1u;
          dropped += sum;
        }
        kept += count - dropped;
      });
  return kept;
}

template <class T>
void drop_block_apply_kernel(const DropBlockArgs& args, const DropBlockRange& range,
                             uint16_t* window) {
  using A = Arithmetic<T>;
  using V = typename A::Register;

  const V scale(static_cast<typename A::Scalar>(args.scale));
  const auto apply = [&](const uint16_t* decisions, int64_t element, int64_t count) FD_INLINE {
    const T* x = static_cast<const T*>(args.x) + element;
    T* y = static_cast<T*>(args.y) + element;
    const bool non_temporal = args.non_temporal && is_register_aligned(y);
    for_each_register<A::kWidth>(0, count, [&](int64_t i, auto extent) FD_INLINE {
      prefetch_register(x + i + kChunk);
      store_register(
          y + i,
          drop_block::element(load_register(x + i, extent),
                              keep_of<V>(decisions + i, DropBlockWindow::kKeepCount), scale),
          extent, non_temporal);
    });
  };
  // If several elements share a decision, it is repeated for each of them.
  const auto apply_runs = [&](const uint16_t* decisions, int64_t element, int64_t count) {
    alignas(64) uint16_t repeated[kChunk + kPadding];
    int64_t decision = 0, remaining = args.run;
    for (int64_t done = 0; done < count; done += kChunk) {
      const int64_t part = count - done < kChunk ? count - done : kChunk;
      for (int64_t i = 0; i < part;) {
        const int64_t repeats = remaining < part - i ? remaining : part - i;
        for (int64_t k = 0; k < repeats; ++k) repeated[i + k] = decisions[decision];
        i += repeats;
        remaining -= repeats;
        if (remaining == 0) {
          ++decision;
          remaining = args.run;
        }
      }
      apply(repeated, element + done, part);
    }
  };
  const int64_t slice = args.slice() * args.run;
  DropBlockWindow(args, window)
      .for_each(range, [&](const uint16_t* decisions, int64_t first, int64_t last) FD_INLINE {
        const int64_t begin = range.volume * args.volume_stride + first * slice;
        for (int64_t copy = 0; copy < args.copies; ++copy) {
          const int64_t element = begin + copy * args.copy_stride;
          const int64_t count = (last - first) * slice;
          if (args.run == 1) {
            apply(decisions, element, count);
          } else {
            apply_runs(decisions, element, count);
          }
        }
      });
}

inline DropBlockApplyKernel drop_block_apply(Storage storage) {
  return with_type<DropBlockApplyKernel, true>(
      storage, [](auto type) { return drop_block_apply_kernel<typename decltype(type)::Type>; });
}

constexpr DropBlockTable drop_block_table() { return {drop_block_count_kernel, drop_block_apply}; }

}  // namespace fused_dropout::cpu::FD_ISA
