// Deliberate mistakes, to prove that the tests notice them (tests/mutations). They exist in
// builds with FUSED_DROPOUT_MUTATIONS alone; in any other build `mutated` is a constant false.
#pragma once

#include <cstdlib>
#include <string_view>

#include "math/scalar.h"

namespace fused_dropout {

enum class Mutation {
  kUnmaskedBiasGradient,  // the bias gradient sums what the mask has dropped
  kPeriodicMask,          // rows 4096 elements apart share their mask
  kRepeatedState,         // every second call draws the random numbers of the one before
  kNominalScale,          // scaled by 1 / (1 - p) instead of the probability that is applied
  kInclusiveThreshold,    // a draw compared with <= instead of <
  kOtherBackwardMask,     // backward draws from another seed than forward
  kLeakingZero,           // dropped elements are multiplied by zero instead of selected
};

#if defined(FUSED_DROPOUT_MUTATIONS)
inline constexpr std::string_view kMutationNames[] = {
    "unmasked_bias_gradient", "periodic_mask",       "repeated_state", "nominal_scale",
    "inclusive_threshold",    "other_backward_mask", "leaking_zero"};

static inline bool mutated(Mutation mutation) {
  static const char* const active = std::getenv("FUSED_DROPOUT_MUTATION");
  return active && kMutationNames[static_cast<int>(mutation)] == active;
}
#else
FD_HD constexpr bool mutated(Mutation) { return false; }
#endif

}  // namespace fused_dropout
