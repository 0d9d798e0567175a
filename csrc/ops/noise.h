// What the schemas of the noise operators have in common: where the draws of a tensor lie among the
// indices of a mask.
#pragma once

#include "ops/common/arguments.h"

namespace fused_dropout {

// As a schema lists these options, as a C++ function takes them and passes them on, and as the
// dispatcher is called with those of `o`.
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
