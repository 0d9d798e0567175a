// Typed handles of operators, through which C++ calls the dispatcher.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <type_traits>

namespace fused_dropout {

// `Entry` is the type of the functions that are registered for the operator.
template <class Entry>
auto find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Entry>();
}
// `entry` is any of these functions.
template <class Entry>
auto find_operator(const char* name, Entry*) {
  return find_operator<Entry>(name);
}

}  // namespace fused_dropout
