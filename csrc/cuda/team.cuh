// Rows held by teams of threads, for kernels that need sums over a row.
#pragma once

#include "launch.h"
#include "memory.cuh"

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

  int threads() const { return team * teams; }
};
constexpr int kManyGroups = 4;

// For rows of one width, of which a team takes `rows_per_team`.
inline RowGrid row_grid(int64_t rows, int width, int64_t rows_per_team) {
  constexpr int kBlock = 128;  // threads, unless a row needs more
  const int64_t groups = divide_up(width, kGroup);
  RowGrid grid;
  grid.groups = groups <= kMostTeam ? 1 : kManyGroups;
  const int needed = static_cast<int>(divide_up(groups, grid.groups));
  grid.team = 1;
  while (grid.team < needed && grid.team < kWarp) grid.team *= 2;
  if (needed > kWarp) grid.team = static_cast<int>(divide_up(needed, kWarp)) * kWarp;
  grid.teams = grid.team < kBlock ? kBlock / grid.team : 1;
  grid.rows_per_team = rows_per_team;
  grid.blocks = divide_up(rows, grid.teams * rows_per_team);
  return grid;
}

// As many rows to a team as leave enough blocks for the largest GPUs; with sums down the columns,
// few blocks to add up. Depends on the shape alone, and so do the bits of the sums.
inline RowGrid norm_grid(int64_t rows, int width, bool sums) {
  constexpr int64_t kEnough = 1024, kMostPartials = 512, kFewPartials = 128;
  const RowGrid single = row_grid(rows, width, 1);
  int64_t turns = 4;
  if (sums) {
    const int64_t few = single.blocks / kFewPartials < 8 ? single.blocks / kFewPartials : 8;
    turns = divide_up(single.blocks, kMostPartials);
    if (turns < few) turns = few;
  } else {
    while (turns > 1 && divide_up(single.blocks, turns) < kEnough) turns /= 2;
  }
  return row_grid(rows, width, turns);
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

// Sums over teams. All threads of a block have to ask for them, the same number of times.
template <class C, int kSums>
class TeamSums {
 public:
  __device__ explicit TeamSums(const Team& team) : team_(team) {}

  __device__ void add_up(C (&sums)[kSums]) {
#pragma unroll 1
    for (int offset = (team_.size < kWarp ? team_.size : kWarp) / 2; offset > 0; offset /= 2) {
#pragma unroll
      for (int n = 0; n < kSums; ++n) sums[n] += __shfl_xor_sync(~0u, sums[n], offset);
    }
    if (team_.size <= kWarp) return;
    // Of two places in turn: who is here again has seen all others leave the one before.
    __shared__ C shared[2][kSums][kMostTeam / kWarp];
    const int warps = team_.size / kWarp;
    if (team_.lane % kWarp == 0) {
#pragma unroll
      for (int n = 0; n < kSums; ++n) shared[turn_][n][threadIdx.x / kWarp] = sums[n];
    }
    __syncthreads();
#pragma unroll
    for (int n = 0; n < kSums; ++n) {
      sums[n] = C(0);
#pragma unroll 1
      for (int warp = 0; warp < warps; ++warp) {
        sums[n] += shared[turn_][n][team_.number * warps + warp];
      }
    }
    turn_ ^= 1;
  }

 private:
  const Team& team_;
  int turn_ = 0;
};

}  // namespace fused_dropout::cuda
