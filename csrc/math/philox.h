// The random-number contract, version 1: the random draw of every mask element. Used by the kernels
// of all devices.
//
// The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC
// 2011). The key is the seed, and the counter is (offset / 4, group). Element j of a mask belongs
// to group j / 8. Its draw is slot j % 8 of the group: the eight slots are the 16-bit halves of the
// four output words, low half first. curand_init(seed, group, offset) with curand4, and
// at::philox_engine(seed, group, offset / 4), give the same words. The Python version of this
// contract is fused_dropout/reference/contract.py.
#pragma once

#include "math/scalar.h"

namespace fused_dropout {

constexpr int kRngContractVersion = 1;
constexpr int kGroupSize = 8;   // slots in a group
constexpr int kOffsetUnit = 4;  // an offset counts 32-bit words, and a counter gives four of them

struct PhiloxState {
  uint64_t seed;
  uint64_t offset;
};

// The four words of a counter, before or after the rounds. `Word` is uint32_t, or a SIMD register
// that holds a word of another counter in the low half of each 64-bit lane.
template <class Word>
struct PhiloxWords {
  Word x, y, z, w;
};

FD_HD uint64_t multiply_wide(uint32_t a, uint32_t b) { return static_cast<uint64_t>(a) * b; }
FD_HD uint32_t high_word(uint64_t product) {
#if defined(__CUDA_ARCH__)
  // The compiler would add an instruction to a shift.
  uint32_t high;
  asm("mov.b64 {_, %0}, %1;" : "=r"(high) : "l"(product));
  return high;
#else
  return static_cast<uint32_t>(product >> 32);
#endif
}
FD_HD uint32_t low_word(uint64_t product) { return static_cast<uint32_t>(product); }

FD_HD uint32_t next_key(uint32_t key, uint32_t step) { return key + step; }

constexpr int kPhiloxRounds = 10;
constexpr uint32_t kPhiloxKeyStep0 = 0x9E3779B9u, kPhiloxKeyStep1 = 0xBB67AE85u;

// One round. `Key` is uint32_t, or `Word` if every counter has its own key.
template <class Word, class Key>
FD_HD PhiloxWords<Word> philox_round(PhiloxWords<Word> counter, Key key0, Key key1) {
  const auto product0 = multiply_wide(counter.x, 0xD2511F53u);
  const auto product1 = multiply_wide(counter.z, 0xCD9E8D57u);
  return {high_word(product1) ^ counter.y ^ key0, low_word(product1),
          high_word(product0) ^ counter.w ^ key1, low_word(product0)};
}

// All rounds: turns a counter into 128 random bits.
template <class Word, class Key>
FD_HD PhiloxWords<Word> philox(PhiloxWords<Word> counter, Key key0, Key key1) {
#if defined(__CUDACC__)
#pragma unroll
#else
#pragma GCC unroll 10
#endif
  for (int round = 0; round < kPhiloxRounds; ++round) {
    counter = philox_round(counter, key0, key1);
    key0 = next_key(key0, kPhiloxKeyStep0);
    key1 = next_key(key1, kPhiloxKeyStep1);
  }
  return counter;
}

// The counter of a group, and its 128 random bits.
FD_HD PhiloxWords<uint32_t> group_counter(PhiloxState state, uint64_t group) {
  const uint64_t offset = state.offset / kOffsetUnit;
  return {static_cast<uint32_t>(offset), static_cast<uint32_t>(offset >> 32),
          static_cast<uint32_t>(group), static_cast<uint32_t>(group >> 32)};
}
FD_HD PhiloxWords<uint32_t> group_bits(PhiloxState state, uint64_t group) {
  return philox(group_counter(state, group), static_cast<uint32_t>(state.seed),
                static_cast<uint32_t>(state.seed >> 32));
}

// Whether an element is kept. `keep_count` in [0, 65536] is the keep probability times 65536.
FD_HD bool is_kept(uint32_t draw, uint32_t keep_count) { return draw < keep_count; }

// keep_count = round((1 - p) * 65536), ties to even.
inline uint32_t keep_count_of(double p) {
  return static_cast<uint32_t>(std::nearbyint((1.0 - p) * 65536.0));
}

}  // namespace fused_dropout
