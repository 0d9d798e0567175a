// Rows held by teams of threads, for kernels that need sums over a row.
#pragma once

#include <algorithm>

#include "cuda/device/vector_access.cuh"
#include "cuda/launch_types.h"

namespace fused_dropout::cuda {

constexpr int kWarp = 32;
constexpr int kMostTeam = 512;  // threads; a block of so many leaves each 128 registers

// How rows are dealt out. A thread holds `groups` groups of eight, a team's size apart.
struct RowGrid {
  int groups;             // 1 or kManyGroups
  int team;               // threads: a power of two up to a warp, or whole warps
  int teams;              // in a block
  int64_t rows_per_team;  // one after the other
  int64_t blocks;

  FD_HD int threads() const { return team * teams; }
};
constexpr int kManyGroups = 4;

// How many groups of a row a thread holds.
inline int row_groups(int width) { return divide_up(width, kGroup) <= kMostTeam ? 1 : kManyGroups; }

// For rows of one width, of which a team takes `rows_per_team`; with so many threads to a block,
// unless a row needs more.
inline RowGrid row_grid(int64_t rows, int width, int64_t rows_per_team, int threads) {
  const int64_t groups = divide_up(width, kGroup);
  RowGrid grid;
  grid.groups = row_groups(width);
  const int needed = static_cast<int>(divide_up(groups, grid.groups));
  grid.team = 1;
  while (grid.team < needed && grid.team < kWarp) grid.team *= 2;
  if (needed > kWarp) grid.team = static_cast<int>(divide_up(needed, kWarp)) * kWarp;
  grid.teams = grid.team < threads ? threads / grid.team : 1;
  grid.rows_per_team = rows_per_team;
  grid.blocks = divide_up(rows, grid.teams * rows_per_team);
  return grid;
}

// As many rows to a team as leave enough blocks for the largest GPUs; with sums down the columns,
// few blocks to add up, of many threads where there are many rows. Depends on the shape alone, and
// so do the bits of the sums.
inline RowGrid norm_grid(int64_t rows, int width, bool sums) {
  constexpr int kFewThreads = 128;
  constexpr int64_t kManyTurns = 8, kFewTurns = 4;
  if (!sums) {
    constexpr int64_t kEnough = 1024, kPlenty = 4 * kEnough;
    const int64_t blocks = row_grid(rows, width, 1, kFewThreads).blocks;
    int64_t turns = kManyTurns;
    while (turns > 1 && divide_up(blocks, turns) < (turns > kFewTurns ? kPlenty : kEnough)) {
      turns /= 2;
    }
    return row_grid(rows, width, turns, kFewThreads);
  }
  constexpr int64_t kMostPartials = 512;
  int threads = kFewThreads;
  int64_t few = 128;
  int64_t blocks = row_grid(rows, width, 1, threads).blocks;
  if (blocks > kMostPartials) {
    threads = kMostTeam;
    few = 264;  // two such blocks on each processor of an H100
    blocks = row_grid(rows, width, 1, threads).blocks;
  }
  const int64_t turns =
      std::max(divide_up(blocks, kMostPartials), std::min(blocks / few, kManyTurns));
  return row_grid(rows, width, turns, threads);
}

inline int64_t sums_bytes(const RowGrid& grid, int vectors, int64_t size) {
  return vectors * grid.groups * kGroup * grid.threads() * size;
}

// A thread's place.
struct Team {
  int size;
  int number;  // in its block
  int lane;

  FD_HD Team(const RowGrid& grid, int thread) {
    size = grid.team;
    number = thread / size;
    lane = thread - number * size;
  }
  // For the compiler it may be another in each turn of a loop, or it would compute all addresses
  // that depend on it before the loop, and keep them in more registers than there are.
  FD_HD void hide_lane() { asm volatile("" : "+r"(lane)); }
  // Of a thread's group.
  FD_HD int column(int group) const { return (group * size + lane) * kGroup; }
};

// Until all threads of a team have come here; those of other teams go on.
__device__ inline void team_barrier([[maybe_unused]] const Team& team) {
#if defined(__CUDA_ARCH__)
  asm volatile("bar.sync %0, %1;" ::"r"(team.number + 1), "r"(team.size) : "memory");
#else
  __syncthreads();  // all teams have as many turns, so that this is as good on the CPU
#endif
}

// Sums over teams. All threads of a team have to ask for them, the same number of times.
template <class C, int kSums>
class TeamSums {
 public:
  __device__ explicit TeamSums(const Team& team) : team_(team) {}

  __device__ void add_up(C (&sums)[kSums]) {
#pragma unroll 1
    for (int offset = (team_.size < kWarp ? team_.size : kWarp) / 2; offset > 0; offset /= 2) {
      add_across(sums, offset);
    }
    if (team_.size <= kWarp) return;
    // Of two places in turn: who is here again has seen all others leave the one before.
    constexpr int kMostWarps = kMostTeam / kWarp;
    __shared__ C shared[2][kSums][kMostWarps];
    if (team_.lane % kWarp == 0) {
#pragma unroll
      for (int n = 0; n < kSums; ++n) shared[turn_][n][threadIdx.x / kWarp] = sums[n];
    }
    team_barrier(team_);
    // The lanes of every warp read what the warps of its team have, side by side.
    const int warps = team_.size / kWarp;
    const int warp = team_.lane % kMostWarps;
#pragma unroll
    for (int n = 0; n < kSums; ++n) {
      sums[n] = warp < warps ? shared[turn_][n][team_.number * warps + warp] : C(0);
    }
#pragma unroll
    for (int offset = kMostWarps / 2; offset > 0; offset /= 2) add_across(sums, offset);
    turn_ ^= 1;
  }

 private:
  static __device__ void add_across(C (&sums)[kSums], int offset) {
#pragma unroll
    for (int n = 0; n < kSums; ++n) sums[n] += __shfl_xor_sync(~0u, sums[n], offset);
  }

  const Team& team_;
  int turn_ = 0;
};

}  // namespace fused_dropout::cuda
