// The tensors of a kernel that works row by row, as one thread sees them: a few groups of each row.
#pragma once

#include <cstring>

#include "cuda/device/row_group.cuh"
#include "cuda/device/vector_access.cuh"

namespace fused_dropout::cuda {

// Copies 16 bytes, or zeros where there are none, to memory that the block shares. Later code has
// to wait for it.
__device__ inline void copy_ahead(Words4* target, const void* source, bool is_there) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(target))),
               "l"(__cvta_generic_to_global(source)), "r"(is_there ? 16 : 0)
               : "memory");
#else
  *target = is_there ? *static_cast<const Words4*>(source) : Words4{};
#endif
}

// Ends a set of copies of this thread.
__device__ inline void end_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Until no more than the last kLeft sets of this thread are on their way.
template <int kLeft>
__device__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
#endif
}

// How many rows a thread copies to shared memory before it uses the first of them. It takes no
// registers to have them on their way. A row of 16-bit numbers of which a thread has one group is
// too little: the next one is copied meanwhile.
constexpr int stages_of(int64_t size, int groups) { return groups == 1 && size == 2 ? 2 : 1; }
// Kernels without 16-byte accesses copy nothing.
template <class T, bool kVector, int kGroups>
constexpr int kStages = kVector ? stages_of(sizeof(T), kGroups) : 0;

// What the threads of a block copy: each has so many `words` of a row of its own, in each stage.
struct Staging {
  Words4* mine;
  int threads;
  int words;
  int taken = 0;

  FD_HD Staging(void* memory, int words_of_a_row, int all_threads, int thread)
      : mine(static_cast<Words4*>(memory) + thread), threads(all_threads), words(words_of_a_row) {}
  static int64_t bytes(int words, int threads, int stages) {
    return int64_t{stages} * words * threads * sizeof(Words4);
  }
  template <int kStages>
  FD_HD Words4* of_turn(int turn) const {
    return kStages == 2 ? mine + (turn & 1) * words * threads : mine;
  }
  // Where the next tensor has its words: so far from the first of the row.
  FD_HD int take(int count) {
    const int place = taken * threads;
    taken += count;
    return place;
  }
};

// A thread's part of a row, of which there is none where the row's number is too large.
struct RowPart {
  const Team& team;
  int width;
  bool is_row;
  int64_t row, first;  // the first element, of its first group
  Words4* staged;

  FD_HD RowPart(const Team& a_team, int64_t rows, int a_width, int64_t number, Words4* words)
      : team(a_team),
        width(a_width),
        is_row(number < rows),
        row(number),
        first(number * a_width + a_team.column(0)),
        staged(words) {}

  FD_HD int column(int group) const { return team.column(group); }
  // How many elements of a group the row has; with kVector it is all of them or none.
  template <bool kVector>
  FD_HD int count(int group) const {
    const int left = is_row ? width - column(group) : 0;
    if constexpr (kVector) return left > 0 ? kGroup : 0;
    return count_in_group(left);
  }
  template <class S>
  FD_HD S* of(S* tensor, int group) const {
    return tensor + first + group * team.size * kGroup;
  }
};

// A tensor of such rows, or none. fetch() starts to copy a part; widen_to() is for one that has
// been waited for.
template <class S, bool kVector, int kGroups>
class RowTensor {
 public:
  FD_HD RowTensor(const void* tensor, Staging&) : tensor_(static_cast<const S*>(tensor)) {}

  FD_HD void fetch(const RowPart&) const {}
  template <class C>
  FD_HD void widen_to(const RowPart& part, int group, C (&values)[kGroup]) const {
    Single<S>::load(part.of(tensor_, group), part.count<false>(group), values);
  }

 private:
  const S* tensor_;
};

template <class S, int kGroups>
class RowTensor<S, true, kGroups> {
 public:
  FD_HD RowTensor(const void* tensor, Staging& staging)
      : tensor_(static_cast<const S*>(tensor)),
        threads_(staging.threads),
        place_(staging.take(tensor ? kGroups * kWords : 0)) {}

  __device__ void fetch(const RowPart& part) const {
    if (!tensor_) return;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const S* source = part.of(tensor_, g);  // not read where there is no such element
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        copy_ahead(word(part, g, i), source + i * (kGroup / kWords), part.count<true>(g) > 0);
      }
    }
  }
  FD_HD void widen_to(const RowPart& part, int group, float (&values)[kGroup]) const {
    Words4 words[kWords];
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = *word(part, group, i);
    Packed<S> packed;
    memcpy(&packed, words, sizeof(packed));
    packed.widen_to(values);
  }

 private:
  static constexpr int kWords = sizeof(S) * kGroup / sizeof(Words4);

  FD_HD Words4* word(const RowPart& part, int group, int i) const {
    return part.staged + place_ + (group * kWords + i) * threads_;
  }

  const S* tensor_;
  int threads_, place_;
};

// The rows that a thread's team takes, one after the other: calls fetch(part) for what is to be
// copied, and visit(part), which has to wait for it by wait_for_row.
template <int kStages, class Fetch, class Visit>
__device__ void for_each_row(const RowGrid& grid, int64_t rows, int width, Team& team,
                             const Staging& staging, Fetch fetch, Visit visit) {
  const auto part_of = [&](int64_t row, int turn) {
    return RowPart(team, rows, width, row, staging.of_turn<kStages>(turn));
  };
  const auto copy = [&](const RowPart& part) {
    fetch(part);
    end_copies();
  };
  // The rows of a block lie together.
  int64_t first = static_cast<int64_t>(blockIdx.x) * grid.teams * grid.rows_per_team;
  if constexpr (kStages == 2) copy(part_of(first + team.number, 0));
#pragma unroll 1
  for (int turn = 0; turn < grid.rows_per_team && first < rows; ++turn, first += grid.teams) {
    team.hide_lane();
    const int64_t row = first + team.number;
    const RowPart part = part_of(row, turn);
    if constexpr (kStages == 1) copy(part);
    if constexpr (kStages == 2) {
      copy(part_of(turn + 1 < grid.rows_per_team ? row + grid.teams : rows, turn + 1));
    }
    visit(part);
  }
  if constexpr (kStages == 2) wait_for_copies<0>();
}

// Until a thread has the row that it visits.
template <int kStages>
__device__ void wait_for_row() {
  if constexpr (kStages > 0) wait_for_copies<kStages - 1>();
}

}  // namespace fused_dropout::cuda
