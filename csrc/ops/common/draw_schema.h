// How operators that draw from a generator are defined.
#pragma once

#include <torch/library.h>

#include <string>

namespace fused_dropout {

// TorchScript computes a call whose arguments are all constants once and for all, and so would
// freeze a mask, unless the operator may do more than its schema says.
inline void define_draw(torch::Library& m, const std::string& schema) {
  m.def(torch::schema(schema.c_str(), c10::AliasAnalysisKind::CONSERVATIVE),
        {at::Tag::nondeterministic_seeded, at::Tag::pt2_compliant_tag});
}

}  // namespace fused_dropout
