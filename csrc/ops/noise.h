// Options that all noise operators have: the mask index of each element, which decides about its
// random number.
#pragma once

#include "ops/common/arguments.h"

namespace fused_dropout {

// These options in a schema, as parameters of a C++ function, as the Options made of those
// parameters, and as arguments of a dispatcher call.
constexpr auto kMaskOptions = "int[] shared_dims, SymInt[]? mask_strides, SymInt mask_offset";
#define FD_MASK_OPTION_PARAMETERS \
  at::IntArrayRef shared_dims, at::OptionalSymIntArrayRef mask_strides, c10::SymInt mask_offset
#define FD_MASK_OPTIONS mask_options(shared_dims, mask_strides, std::move(mask_offset))
#define FD_MASK_OPTION_ARGUMENTS(o) o.shared_dims, o.mask_strides, o.mask_offset

inline Options mask_options(FD_MASK_OPTION_PARAMETERS) {
  Options options;
  options.shared_dims = shared_dims;
  options.mask_strides = mask_strides;
  options.mask_offset = std::move(mask_offset);
  return options;
}

}  // namespace fused_dropout
