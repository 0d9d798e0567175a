// Typed handles of operators, through which C++ calls the dispatcher.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <type_traits>

namespace fused_dropout {

// `entry` is any function that is registered for the operator: its type is that of the schema.
template <class Entry>
auto find_operator(const char* name, Entry*) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Entry>();
}

}  // namespace fused_dropout
