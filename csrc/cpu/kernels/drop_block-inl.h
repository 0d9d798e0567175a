// The DropBlock kernels. Decisions about some slices of a volume at a time are painted, seed by
// seed, into a window that stays in the cache; seeds are few.
#pragma once

#include "cpu/kernels/registers-inl.h"
#include "math/drop_block.h"

namespace fused_dropout::cpu::FD_ISA {

// The draws of seeds one after the other, generated a block ahead.
class SeedDraws {
 public:
  explicit SeedDraws(const MaskIndexing& geometry) : source_(geometry) {}

  // Of `count` <= kChunk indices; kScan further ones are readable.
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

// A window of slices that moves down a volume: 0 where kept, else all bits set.
class DropBlockWindow {
 public:
  static constexpr uint32_t kKeepCount = 1;  // a decision compares like a draw with this

  // `window` has args.window_length() numbers.
  DropBlockWindow(const DropBlockArgs& args, uint16_t* window)
      : args_(args), slice_(args.slice()), window_(window), draws_(args.seeds) {}

  // Calls visit(decisions, first, last) for some slices of `range` after the other.
  template <class Visit>
  FD_HD void for_each(const DropBlockRange& range, Visit visit) {
    const int64_t overlap = args_.slow.block - 1;
    first_seed_ = range.volume * args_.slow.seeds() * args_.seed_slice();
    position_ = range.first;
    clear(range.first, range.first + overlap);
    paint(args_.slow.first_seed(range.first), range.first);
    while (position_ < range.last) {
      const int64_t left = range.last - position_;
      const int64_t next = position_ + (left < args_.window ? left : args_.window);
      clear(position_ + overlap, next + overlap);
      paint(position_, next);
      visit(window_, position_, next);
      // What the last blocks reach beyond.
      if (next < range.last) {
        memmove(window_, window_ + (next - position_) * slice_,
                overlap * slice_ * sizeof(uint16_t));
      }
      position_ = next;
    }
  }

 private:
  FD_HD void clear(int64_t first, int64_t last) {
    if (last > args_.slow.size) last = args_.slow.size;
    if (first >= last) return;
    memset(window_ + (first - position_) * slice_, 0, (last - first) * slice_ * sizeof(uint16_t));
  }

  // The blocks of the seeds in these slices.
  FD_HD void paint(int64_t first_slice, int64_t last_slice) {
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
        if (any) paint_some(index + i - first_seed_, draws + i, count - i);
      }
    }
  }

  __attribute__((noinline)) void paint_some(int64_t first, const uint16_t* draws, int count) {
    if (count > SeedDraws::kScan) count = SeedDraws::kScan;
    // Without a branch that depends on a draw, but for eight of them at a time.
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
    for (int k = 0; k < seeds; ++k) paint_block(first + found[k]);
  }

  // What a seed's index is divided by, one after the other; most often these are small numbers.
  FD_HD static int64_t divide(int64_t& number, int64_t divisor) {
    if (divisor == 1) return 0;
    const int64_t quotient = (number | divisor) >> 32
                                 ? number / divisor
                                 : static_cast<uint32_t>(number) / static_cast<uint32_t>(divisor);
    const int64_t rest = number - quotient * divisor;
    number = quotient;
    return rest;
  }

  FD_HD void paint_block(int64_t seed) {
    const drop_block::Axis* fast = args_.fast;
    const int64_t lane = divide(seed, args_.inner);
    const int64_t place2 = divide(seed, fast[2].seeds());
    const int64_t place1 = divide(seed, fast[1].seeds());
    const int64_t place0 = divide(seed, fast[0].seeds());

    const int64_t stride2 = args_.inner, stride1 = fast[2].size * stride2;
    const int64_t stride0 = fast[1].size * stride1;
    const int64_t place = place0 * stride0 + place1 * stride1 + place2 * stride2 + lane;
    const int64_t first = seed > position_ ? seed : position_;
    for (int64_t s = first; s < seed + args_.slow.block; ++s) {
      for (int64_t i = 0; i < fast[0].block; ++i) {
        uint16_t* target = window_ + (s - position_) * slice_ + place + i * stride0;
        for (int64_t j = 0; j < fast[1].block; ++j, target += stride1) {
          paint_row(target, fast[2].block, stride2);
        }
      }
    }
  }

  FD_HD static void paint_row(uint16_t* target, int64_t count, int64_t stride) {
    constexpr int kAtOnce = 4;
    if (stride != 1 || count < kAtOnce) {
      for (int64_t k = 0; k < count; ++k) target[k * stride] = 0xFFFF;
      return;
    }
    constexpr uint64_t kOnes = ~uint64_t{0};
    for (int64_t k = 0; k < count - kAtOnce; k += kAtOnce) {
      memcpy(target + k, &kOnes, sizeof(kOnes));
    }
    memcpy(target + count - kAtOnce, &kOnes, sizeof(kOnes));
  }

  const DropBlockArgs& args_;
  const int64_t slice_;
  uint16_t* window_;
  SeedDraws draws_;
  int64_t first_seed_ = 0;  // the index of the volume's first one
  int64_t position_ = 0;    // the slice that the window begins with
};

// How many decisions of the range keep.
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
    for_each_register<A::kWidth>(0, count, [&](int64_t i, auto some) FD_INLINE {
      prefetch_register(x + i + kChunk);
      store_some(y + i,
                 drop_block::element(load_some(x + i, some),
                                     keep_of<V>(decisions + i, DropBlockWindow::kKeepCount), scale),
                 some, non_temporal);
    });
  };
  // Several elements to a decision, which is repeated for each.
  const auto apply_runs = [&](const uint16_t* decisions, int64_t element, int64_t count) {
    alignas(64) uint16_t repeated[kChunk + kPadding];
    int64_t decision = 0, left = args.run;
    for (int64_t done = 0; done < count; done += kChunk) {
      const int64_t part = count - done < kChunk ? count - done : kChunk;
      for (int64_t i = 0; i < part;) {
        const int64_t some = left < part - i ? left : part - i;
        for (int64_t k = 0; k < some; ++k) repeated[i + k] = decisions[decision];
        i += some;
        left -= some;
        if (left == 0) {
          ++decision;
          left = args.run;
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
  switch (storage) {
    case Storage::kFloat32:
      return drop_block_apply_kernel<float>;
    case Storage::kFloat64:
      return drop_block_apply_kernel<double>;
    case Storage::kFloat16:
      return drop_block_apply_kernel<Half>;
    case Storage::kBFloat16:
      return drop_block_apply_kernel<BFloat16>;
  }
  return nullptr;
}

}  // namespace fused_dropout::cpu::FD_ISA
