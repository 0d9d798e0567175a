// Deliberate mistakes, which show that the tests notice them (tests/mutations). They exist
// only in builds with FUSED_DROPOUT_MUTATIONS, where the environment variable
// FUSED_DROPOUT_MUTATION selects one. In all other builds `mutated` is a constant false.
#pragma once

#include <cstdlib>
#include <string_view>

#include "math/scalar.h"

namespace fused_dropout {

enum class Mutation {
  kUnmaskedBiasGradient,  // the bias gradient includes dropped elements
  kPeriodicMask,          // rows 4096 elements apart share their mask
  kRepeatedState,         // every second call uses the seed of the previous call
  kNominalScale,          // scale is 1 / (1 - p), without the rounding of p
  kInclusiveThreshold,    // draws are compared with <= instead of <
  kOtherBackwardMask,     // backward uses another seed than forward
  kLeakingZero,           // dropped elements are multiplied by zero, not set to zero
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
